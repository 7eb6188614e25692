"""Dynamic tools: async functions that an agent can call.

A call is a scope of the turn that makes it: it is cancelled when the turn ends or is left. A tool that fails is a failed
tool call, which the agent is told of, and not a failed turn.
"""

from trio_codex._tools._tool import Namespace as Namespace
from trio_codex._tools._tool import Tool as Tool
from trio_codex._tools._tool import ToolError as ToolError
from trio_codex._tools._tool import tool as tool
from trio_codex._tools._tool_result import Image as Image
from trio_codex._tools._tool_result import ToolResult as ToolResult
from trio_codex._tools._tool_result import image as image
