"""Policies decide what an agent may do: this package defines them, the requests they receive, and their decisions.

A :class:`Policy` holds one async callback for each kind of request. If it has no callback for a kind, or abstains, the
request goes to the next policy: first the turn's, then the thread's, then the client's. If none of them decides, the
request is denied. Nothing is accepted unless a policy accepts it.

Each callback runs in its own task, in a cancel scope that belongs to the turn. It may take hours without blocking
anything else. It is cancelled when the server withdraws the request, the turn ends, or the connection ends.
"""

from trio_codex._values.tool_result import ToolResult as ToolResult
from trio_codex.policies._combine import first_of as first_of
from trio_codex.policies._combine import logged as logged
from trio_codex.policies._combine import with_timeout as with_timeout
from trio_codex.policies._commands import CommandPattern as CommandPattern
from trio_codex.policies._commands import allow_commands as allow_commands
from trio_codex.policies._decisions import Abstain as Abstain
from trio_codex.policies._decisions import Accept as Accept
from trio_codex.policies._decisions import Answers as Answers
from trio_codex.policies._decisions import AnyDecision as AnyDecision
from trio_codex.policies._decisions import Attestation as Attestation
from trio_codex.policies._decisions import AttestationDecision as AttestationDecision
from trio_codex.policies._decisions import AuthRefreshDecision as AuthRefreshDecision
from trio_codex.policies._decisions import AuthTokens as AuthTokens
from trio_codex.policies._decisions import Cancel as Cancel
from trio_codex.policies._decisions import CommandDecision as CommandDecision
from trio_codex.policies._decisions import CurrentTime as CurrentTime
from trio_codex.policies._decisions import CurrentTimeDecision as CurrentTimeDecision
from trio_codex.policies._decisions import Decision as Decision
from trio_codex.policies._decisions import Decline as Decline
from trio_codex.policies._decisions import ElicitationDecision as ElicitationDecision
from trio_codex.policies._decisions import Grant as Grant
from trio_codex.policies._decisions import NetworkRule as NetworkRule
from trio_codex.policies._decisions import PermissionsDecision as PermissionsDecision
from trio_codex.policies._decisions import ToolCallDecision as ToolCallDecision
from trio_codex.policies._decisions import UnknownDecision as UnknownDecision
from trio_codex.policies._decisions import UserInputDecision as UserInputDecision
from trio_codex.policies._decisions import abstain as abstain
from trio_codex.policies._decisions import accept as accept
from trio_codex.policies._decisions import answers as answers
from trio_codex.policies._decisions import cancel as cancel
from trio_codex.policies._decisions import decline as decline
from trio_codex.policies._decisions import grant as grant
from trio_codex.policies._decisions import network_rule as network_rule
from trio_codex.policies._git import allow_git as allow_git
from trio_codex.policies._git import git_command as git_command
from trio_codex.policies._inbox import Inbox as Inbox
from trio_codex.policies._inbox import Pending as Pending
from trio_codex.policies._paths import allow_paths as allow_paths
from trio_codex.policies._policy import AttestationCallback as AttestationCallback
from trio_codex.policies._policy import AuthRefreshCallback as AuthRefreshCallback
from trio_codex.policies._policy import CommandCallback as CommandCallback
from trio_codex.policies._policy import CurrentTimeCallback as CurrentTimeCallback
from trio_codex.policies._policy import ElicitationCallback as ElicitationCallback
from trio_codex.policies._policy import FileChangeCallback as FileChangeCallback
from trio_codex.policies._policy import PermissionsCallback as PermissionsCallback
from trio_codex.policies._policy import Policy as Policy
from trio_codex.policies._policy import ToolCallCallback as ToolCallCallback
from trio_codex.policies._policy import UnknownCallback as UnknownCallback
from trio_codex.policies._policy import UserInputCallback as UserInputCallback
from trio_codex.policies._policy import accept_all as accept_all
from trio_codex.policies._policy import decline_all as decline_all
from trio_codex.policies._policy import system_clock as system_clock
from trio_codex.policies._requests import AttestationRequest as AttestationRequest
from trio_codex.policies._requests import AuthRefreshRequest as AuthRefreshRequest
from trio_codex.policies._requests import CommandRequest as CommandRequest
from trio_codex.policies._requests import CurrentTimeRequest as CurrentTimeRequest
from trio_codex.policies._requests import ElicitationRequest as ElicitationRequest
from trio_codex.policies._requests import FileChangeRequest as FileChangeRequest
from trio_codex.policies._requests import FormElicitation as FormElicitation
from trio_codex.policies._requests import McpToolApproval as McpToolApproval
from trio_codex.policies._requests import OfMcpServer as OfMcpServer
from trio_codex.policies._requests import OfThread as OfThread
from trio_codex.policies._requests import PermissionsRequest as PermissionsRequest
from trio_codex.policies._requests import Request as Request
from trio_codex.policies._requests import ToolCallRequest as ToolCallRequest
from trio_codex.policies._requests import UnknownRequest as UnknownRequest
from trio_codex.policies._requests import UrlElicitation as UrlElicitation
from trio_codex.policies._requests import UserInputRequest as UserInputRequest
from trio_codex.policies._requests import VerificationElicitation as VerificationElicitation
from trio_codex.policies._requests import tool_call_keys as tool_call_keys
