"""Tools: async functions, their descriptions for the agent, and the parsing of their arguments."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
import warnings
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    overload,
)

import attrs

from trio_codex import wire
from trio_codex._core.arguments import check_type, described, positive
from trio_codex._tools.docstring import parse_docstring
from trio_codex._tools.json_types import Field
from trio_codex.policies import ToolCallRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

P = ParamSpec("P")
RestP = ParamSpec("RestP")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")
SelfT = TypeVar("SelfT")

MAX_NAME: Final = 128
MAX_NAMESPACE: Final = 64
MAX_NAMESPACE_DESCRIPTION: Final = 1024
"""Maximum length in characters. The server rejects longer names, and every other name that :func:`_check_name` rejects."""

_RESERVED_NAMESPACES: Final = frozenset(
    {
        "api_tool", "browser", "computer", "container", "file_search", "functions", "image_gen", "multi_tool_use",
        "python", "python_user_visible", "submodel_delegator", "terminal", "tool_search", "web",
    }
)  # fmt: skip

_TAKEN_NAMES: Final = frozenset(
    {
        "apply_patch", "create_goal", "exec_command", "get_goal", "request_user_input", "shell_command", "update_goal",
        "view_image", "write_stdin",
    }
)  # fmt: skip
"""The server's own tools in its default configuration (0.163.0 and 0.171.0). It accepts a tool of such a name but never
offers it."""

_SOMETIMES_TAKEN_NAMES: Final = frozenset(
    {
        "get_context_remaining", "list_mcp_resource_templates", "list_mcp_resources", "new_context",
        "read_mcp_resource", "request_permissions", "update_plan", "wait_for_environment",
    }
)  # fmt: skip
"""The server's own tools in some configurations, such as with an MCP server."""


class ToolError(Exception):
    """Raise this in a tool to fail its call with a message for the agent. Nothing is logged, and the turn continues."""


def _check_name(what: str, name: str, limit: int) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", name):
        raise ValueError(f"{what} must consist of ASCII letters, digits, _ and -, got {name!r}")
    if len(name) > limit:
        raise ValueError(f"{what} must have at most {limit} characters, got {len(name)}")
    if name == "mcp" or name.startswith("mcp__"):
        raise ValueError(f"{what} must not be {name!r}: the server reserves it for MCP servers")


@attrs.frozen
class Namespace:
    """A name that groups several tools, which the agent sees as ``namespace.tool``.

    Attributes:
        name: The name.
        description: A description of the group for the agent.
    """

    name: str
    description: str = ""

    def __attrs_post_init__(self) -> None:
        _check_name("a namespace", self.name, MAX_NAMESPACE)
        if self.name in _RESERVED_NAMESPACES:
            raise ValueError(f"{self.name!r} is reserved by the model's API and cannot be a namespace")
        if len(self.description) > MAX_NAMESPACE_DESCRIPTION:
            raise ValueError(
                f"the description of a namespace must have at most {MAX_NAMESPACE_DESCRIPTION} characters"
            )


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = cast("functools.partial[object]", function).func
    return function


def _doc(function: Any) -> str | None:
    """Return the docstring of a function, ignoring that of ``functools.partial`` itself."""
    own: str | None = function.__doc__
    inner: str | None = _innermost(function).__doc__
    return inner if own == functools.partial.__doc__ else own


@attrs.frozen(eq=False, slots=False)
class Tool(Generic[P, R_co]):
    """An async function that an agent can call. Create one with :func:`tool`.

    Calling the tool calls the function, so the function can still be used and tested directly.

    Attributes:
        function: The function.
        name: The name by which the agent calls it.
        namespace: The namespace of the tool, if it has one.
        description: The description for the agent.
        limit: How many of its calls may run at once in one client.
        timeout: Timeout of a call in seconds, after which the call is cancelled and fails.
        defer_loading: Whether the agent sees it only after a search.
    """

    function: Callable[P, Awaitable[R_co]] = attrs.field()
    name: str = attrs.field(kw_only=True)
    namespace: Namespace | None = attrs.field(default=None, kw_only=True)
    description: str = attrs.field(default="", kw_only=True, repr=False)
    limit: int | None = attrs.field(default=None, kw_only=True, validator=positive)
    timeout: float | None = attrs.field(default=None, kw_only=True, validator=positive)
    defer_loading: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not inspect.iscoroutinefunction(_innermost(self.function)):
            raise TypeError(
                f"a tool must be an async function, got {described(self.function)}: define it with async def"
            )
        if self.namespace is not None:
            check_type("namespace", self.namespace, Namespace, "write a string, or Namespace(…)")
        _check_name("the name of a tool", self.name, MAX_NAME)
        if self.defer_loading and self.namespace is None:
            raise ValueError("a tool with defer_loading must be in a namespace")
        if self.namespace is None and self.name in _TAKEN_NAMES:
            raise ValueError(
                f"the server has its own tool named {self.name!r} and would never offer this one: "
                "choose another name, or use a namespace"
            )
        # Let documentation tools and ``inspect`` find the wrapped function.
        self.__dict__.update(__doc__=_doc(self.function), __wrapped__=self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        return cast("Coroutine[Any, Any, R_co]", self.function(*args, **kwargs))

    @overload
    def __get__(self, instance: None, owner: type) -> Tool[P, R_co]: ...
    @overload
    def __get__(
        self: Tool[Concatenate[SelfT, RestP], R], instance: SelfT, owner: type | None = None
    ) -> Tool[RestP, R]: ...
    def __get__(self: Any, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return attrs.evolve(self, function=types.MethodType(self.function, instance))

    @property
    def full_name(self) -> str:
        """The name including the namespace, as ``namespace.name``."""
        return self.name if self.namespace is None else f"{self.namespace.name}.{self.name}"

    @property
    def input_schema(self) -> dict[str, Any]:
        """The JSON Schema of its arguments.

        Raises:
            TypeError: A parameter has no annotation, or one that has no schema.
        """
        from trio_codex._tools.json_schema import fields_schema

        return fields_schema(self._parameters.fields, self.name)

    def spec(self) -> wire.FunctionDynamicToolSpec:
        """Return the tool's description in the form that the server expects, without the namespace.

        Raises:
            TypeError: As for :attr:`input_schema`.
        """
        return wire.FunctionDynamicToolSpec(
            name=self.name,
            description=self.description,
            input_schema=self.input_schema,
            defer_loading=self.defer_loading or None,
        )

    def bind(self, request: ToolCallRequest) -> inspect.BoundArguments:
        """Convert the agent's arguments to those of the function.

        Raises:
            ValidationFailure: The arguments do not match the parameters.
        """
        from trio_codex._tools.json_values import fields_from_json

        parameters = self._parameters
        arguments = request.arguments
        values = fields_from_json(parameters.fields, {} if arguments is None else arguments, spelled=True)
        values |= dict.fromkeys(parameters.requests, request)
        bound = inspect.BoundArguments(parameters.signature, cast("Any", values))
        bound.apply_defaults()
        return bound

    @functools.cached_property
    def _parameters(self) -> _Parameters:
        return _Parameters.of(self.function, self.name)


AnyTool: TypeAlias = Tool[Any, Any]
"""A tool with any parameters and any result."""


@attrs.frozen
class _Parameters:
    """The parameters of a function: those that the agent passes, and those that receive the request itself."""

    signature: inspect.Signature
    fields: tuple[Field, ...]
    requests: tuple[str, ...]

    @classmethod
    def of(cls, function: Callable[..., object], name: str) -> _Parameters:
        signature = inspect.signature(function)
        hints = _hints(function, name)
        described = parse_docstring(_doc(function)).fields
        fields: list[Field] = []
        requests: list[str] = []
        for parameter in signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{name}: a tool cannot have the variadic parameter {parameter.name}")
            if parameter.name not in hints:
                raise TypeError(f"{name}: the parameter {parameter.name} needs an annotation")
            hint = hints[parameter.name]
            if ToolCallRequest in (hint, *get_args(hint)):
                requests.append(parameter.name)
                continue
            required = parameter.default is parameter.empty
            default = attrs.NOTHING if required else parameter.default
            fields.append(Field(parameter.name, hint, required, default, described.get(parameter.name)))
        return cls(signature, tuple(fields), tuple(requests))


def _hints(function: Callable[..., object], name: str) -> Mapping[str, Any]:
    """Resolve the annotations of the parameters. The return annotation may use names that only type checkers import."""
    inner = _innermost(function)
    annotated = types.SimpleNamespace(
        __annotations__={key: hint for key, hint in inspect.get_annotations(inner).items() if key != "return"}
    )
    scope = getattr(inspect.unwrap(inner), "__globals__", {})
    try:
        return typing.get_type_hints(annotated, globalns=scope, include_extras=True)
    except NameError as exc:
        raise TypeError(
            f"{name}: {exc.name} in an annotation is not defined at run time: import it outside TYPE_CHECKING"
        ) from None


@overload
def tool(
    function: Callable[P, Coroutine[Any, Any, R]],
    /,
    *,
    name: str | None = None,
    namespace: str | Namespace | None = None,
    description: str | None = None,
    limit: int | None = None,
    timeout: float | None = None,
    defer_loading: bool = False,
) -> Tool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    namespace: str | Namespace | None = None,
    description: str | None = None,
    limit: int | None = None,
    timeout: float | None = None,
    defer_loading: bool = False,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Tool[P, R]]: ...
def tool(
    function: Callable[..., Coroutine[Any, Any, Any]] | None = None,
    /,
    *,
    name: str | None = None,
    namespace: str | Namespace | None = None,
    description: str | None = None,
    limit: int | None = None,
    timeout: float | None = None,
    defer_loading: bool = False,
) -> Any:
    """Create a tool from an async function; a decorator, with or without arguments.

    The agent sees each parameter's annotation, default and description. Descriptions come from the ``Args:`` section of
    the docstring or from a string in ``Annotated[…, "text"]``. A parameter annotated as
    :class:`~trio_codex.policies.ToolCallRequest` receives the request itself. :doc:`/howto/tools` lists the supported
    annotations and return values.

    Args:
        function: The function.
        name: The tool's name for the agent; by default the name of the function.
        namespace: A name that groups several tools.
        description: What the tool does; by default the docstring without its sections.
        limit: How many of its calls may run at once in one client; further calls wait. Unlimited by default.
        timeout: Timeout of a call in seconds, not counting the time it waited for ``limit``. When it expires, the call
            is cancelled and fails. By default a call lasts at most as long as its turn.
        defer_loading: Whether the agent sees the tool only after a search; the tool must then be in a namespace.

    Raises:
        TypeError: ``function`` is not an async function.
        ValueError: The server would refuse the name or the namespace, or has its own tool of that name, or a number is
            not positive.
    """

    def decorate(function: Callable[..., Coroutine[Any, Any, Any]], callers_frame: int = 2) -> Tool[..., Any]:
        made = Tool(
            function,
            name=getattr(function, "__name__", "") if name is None else name,
            namespace=Namespace(namespace) if isinstance(namespace, str) else namespace,
            description=parse_docstring(_doc(function)).text if description is None else description,
            limit=limit,
            timeout=timeout,
            defer_loading=defer_loading,
        )
        if made.namespace is None and made.name in _SOMETIMES_TAKEN_NAMES:
            warnings.warn(
                f"in some configurations the server has its own tool named {made.name!r} and never offers this one: "
                "choose another name, or use a namespace",
                UserWarning,
                stacklevel=callers_frame,
            )
        return made

    return decorate if function is None else decorate(function, 3)
