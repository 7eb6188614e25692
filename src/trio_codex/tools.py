"""Dynamic tools: async functions that an agent can call.

A call runs within the turn that makes it: it is cancelled when the turn ends or its scope exits. If a tool fails, its
call fails and the agent sees the error, but the turn continues.
"""

from trio_codex._tools.output import with_output as with_output
from trio_codex._tools.tool import Namespace as Namespace
from trio_codex._tools.tool import Tool as Tool
from trio_codex._tools.tool import ToolError as ToolError
from trio_codex._tools.tool import tool as tool
from trio_codex._values.tool_result import Image as Image
from trio_codex._values.tool_result import ToolResult as ToolResult
from trio_codex._values.tool_result import image as image
