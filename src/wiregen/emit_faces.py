"""Emit the types of the two faces: stubs that are derived from the source of the API for Trio, docstrings included.

At run time the faces are proxies, which no type checker can follow. The stubs say what they turn out to be.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

import attrs

from wiregen import WiregenError
from wiregen.output import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

HEADER: Final = f"{MARK} from the API for Trio; do not edit.\n"

TRIO_ONLY: Final = {"connect_codex"}
"""Names that no face has."""

STREAMS: Final = {"trio.abc.SendStream": "RemoteInput", "trio.abc.ReceiveStream": "RemoteOutput"}
"""The classes that stand for abstract ones of Trio."""

UNEXPORTED: Final = ("trio_codex._api.generated", "trio_codex._api.exec_streams")
"""Modules of handles that have no name in the package."""

PACKAGES: Final = ("trio_codex.supervision",)
"""Packages whose handles have no name in the package."""

OWN: Final = {"policies": ("Policy", "Inbox", "Pending"), "tools": ("tool", "PlainTool")}
"""What a face defines in its submodules."""

Function = ast.FunctionDef | ast.AsyncFunctionDef

BLOCKING_WORDS: Final = (
    (r"[Aa]n async context manager", "A context manager"),
    (r"[Aa]n async iterator", "An iterator"),
    (r"\b[Aa]n async function\b", "a function"),
    (r"\basync (with|for|function)", r"\1"),
    (r"\bawait ", ""),
    (r"\bif (this|it) is cancelled\b", r"if \1 is interrupted"),
    (r"\bIf (this|it) is cancelled\b", r"If \1 is interrupted"),
    (r"``Cancelled`` propagates", "``KeyboardInterrupt`` propagates"),
    (r"(This is a|A) checkpoint\.\s*", ""),
    (r"A cancellation point, and a schedule point [^.]*\.\s*", ""),
    (r"\btask\b", "thread"),
)
AIO_WORDS: Final = (
    (r"``Cancelled`` propagates", "``CancelledError`` propagates"),
    (r"(This is a|A) checkpoint\.\s*", ""),
)

SCOPE: Final = {
    "blocking": '''
class Scope(Generic[ValueT_co]):
    """A scope, for ``with``. Leaving it waits until everything it started has ended, after Ctrl-C, too."""

    def __enter__(self) -> ValueT_co: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def start(self) -> ValueT_co:
        """Enter the scope without ``with``, until :meth:`close`. For notebooks."""

    def close(self) -> None:
        """Leave the scope, if it was entered."""
''',
    "aio": '''
class Scope(Generic[ValueT_co]):
    """A scope, for ``async with``. Leaving it waits until everything it started has ended, after a cancellation, too."""

    async def __aenter__(self) -> ValueT_co: ...
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    async def start(self) -> ValueT_co:
        """Enter the scope without ``async with``, until :meth:`aclose`."""

    async def aclose(self) -> None:
        """Leave the scope, if it was entered."""
''',
}

FROM_TRIO: Final = '''
def from_trio(function: Callable[..., Any], /) -> Callable[..., Any]:
    """Return the counterpart of an async function of Trio, or of an async context manager.

    That is how to use what is not part of this module, such as :mod:`trio_codex.testing`. Each call of the counterpart of a
    context manager opens a thread of its own.
    """
'''

TOOL: Final = '''
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

class PlainTool(Tool[P, R_co]):
    """A tool made of a plain function. Calling the tool calls the function."""

    def __call__(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: P.args, **kwargs: P.kwargs
    ) -> R_co: ...
'''


@attrs.define
class Module:
    """A module of the source: what it defines, and where the other names in it come from."""

    name: str
    body: Mapping[str, ast.stmt]
    imports: Mapping[str, tuple[str, str | None]]

    @classmethod
    def parse(cls, name: str, text: str) -> Module:
        """Read the source of a module."""
        body: dict[str, ast.stmt] = {}
        imports: dict[str, tuple[str, str | None]] = {}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                imports |= {alias.name: (alias.name, None) for alias in node.names}
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef | Function):
                body[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name):
                    body[target.id] = node
        return cls(name, body, imports)


class FaceEmitter:
    """Emits the stubs of one face.

    Args:
        face: Its name.
        root: The directory of the package.
        fresh: Generated modules that are not on disk yet, by path.
    """

    def __init__(self, face: str, root: Path, fresh: Mapping[str, str]) -> None:
        self._face = face
        self._root = root
        self._fresh = fresh
        self._modules: dict[str, Module] = {}
        self._imports: dict[str, tuple[str, str | None]] = {}
        self._is_async = face == "aio"
        package = self._module("trio_codex")
        self._exported = {
            name: self._home(source[0], name)
            for name, source in package.imports.items()
            if source[0].startswith("trio_codex") and not name.startswith("_") and name not in TRIO_ONLY
        }
        handles = {name: module for name, module in self._exported.items() if self._is_handle(module, name)}
        for module in UNEXPORTED:
            handles |= {
                name: module
                for name, node in self._module(module).body.items()
                if isinstance(node, ast.ClassDef) and not name.startswith("_")
            }
        for module in PACKAGES:
            homes = {name: self._home(module, name) for name in self._module(module).imports}
            handles |= {name: home for name, home in homes.items() if self._is_handle(home, name)}
        self._handles = handles

    def package(self) -> str:
        """Return the stub of the package."""
        local = {"Scope", "from_trio", *self._handles}
        lines = [SCOPE[self._face], FROM_TRIO]
        for name, module in self._handles.items():
            lines.append(self._class(module, name))
        reexported: list[str] = []
        for name, module in self._exported.items():
            node = self._module(module).body.get(name)
            if name in self._handles:
                continue
            if isinstance(node, ast.AsyncFunctionDef):
                local.add(name)
                lines.append(self._function(node, self._module(module)))
            elif name in OWN:
                reexported.append(f"from trio_codex.{self._face} import {name} as {name}")
            elif any(name in names for names in OWN.values()):
                home = next(home for home, names in OWN.items() if name in names)
                reexported.append(f"from trio_codex.{self._face}.{home} import {name} as {name}")
            else:
                reexported.append(f"from trio_codex import {name} as {name}")
        lines.insert(0, 'ValueT_co = TypeVar("ValueT_co", covariant=True)\n')
        return self._file(
            [*self._import_lines({*local, *self._exported}), *sorted(reexported)], lines, self._docstring("")
        )

    def policies(self) -> str:
        """Return the stub of the policies."""
        module = self._module("trio_codex.policies._policy")
        policy = module.body["Policy"]
        assert isinstance(policy, ast.ClassDef)
        parameters = ["name: str | None = None"]
        for field in policy.body:
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and field.target.id != "name"
            ):
                alias = module.body[ast.unparse(field.annotation).removesuffix(" | None")]
                assert isinstance(alias, ast.AnnAssign)
                assert alias.value is not None
                parameters.append(f"{field.target.id}: {self._annotation(alias.value, module)} | None = None")
        lines = [
            "class Policy(_Policy):",
            self._doc(policy, "    "),
            f"    def __init__(self, *, {', '.join(parameters)}) -> None: ...",
            self._class("trio_codex.policies._inbox", "Pending"),
            self._class("trio_codex.policies._inbox", "Inbox", bases="Policy", init=True),
        ]
        own = OWN["policies"]
        names = [name for name in self._module("trio_codex.policies").imports if name not in own]
        reexported = [f"from trio_codex.policies import {name} as {name}" for name in sorted(names)]
        imports = [*self._import_lines({*own, *names}), "from trio_codex.policies import Policy as _Policy"]
        return self._file([*imports, *reexported], lines, self._docstring("policies"))

    def tools(self) -> str:
        """Return the stub of the tools."""
        module = self._module("trio_codex._tools.tool")
        tool = module.body["tool"]
        assert isinstance(tool, ast.FunctionDef)
        options = ast.unparse(tool.args).partition("*, ")[2]
        self._names(tool.args, module)
        doc = self._doc(tool, "    ")
        made = "PlainTool[P, R]"
        overloads = [("Callable[P, R]", made, f"Callable[[Callable[P, R]], {made}]")]
        if self._is_async:
            coroutine = "Callable[P, Coroutine[Any, Any, R]]"
            overloads.insert(0, (coroutine, "Tool[P, R]", "Callable[[Callable[..., Any]], Tool[..., Any]]"))
        lines = [TOOL]
        for function, result, decorator in overloads:
            overlap = "  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]"
            ignored = overlap if result == "Tool[P, R]" else ""
            lines.append(
                f"@overload\ndef tool({ignored}\n    function: {function}, /, *, {options}) -> {result}:\n{doc}"
            )
            if decorator == overloads[0][2]:
                lines.append(f"@overload\ndef tool(*, {options}) -> {decorator}: ...")
        names = [name for name in self._module("trio_codex.tools").imports if name != "tool"]
        reexported = [f"from trio_codex.tools import {name} as {name}" for name in sorted(names)]
        imports = self._import_lines({*names, "tool"})
        return self._file([*imports, *reexported], lines, self._docstring("tools"))

    # -- classes and functions ---------------------------------------------------------------------------------

    def _class(self, module: str, name: str, *, bases: str = "", init: bool = False) -> str:
        lineage = list(self._lineage(module, name))
        _, own = lineage[0]
        members: dict[str, list[str]] = {}
        for source, node in lineage:
            found: dict[str, list[str]] = {}
            for attribute, annotation in self._attributes(node, source):
                found.setdefault(attribute, []).append(f"{attribute}: {annotation}")
            for member in node.body:
                if isinstance(member, Function):
                    for key, text in self._member(member, source, init=init):
                        found.setdefault(key, []).append(text)
            for key, texts in found.items():
                overloads = [text for text in texts if text.startswith("@overload")]
                members.setdefault(key, overloads or texts)
        parameters = [
            ast.unparse(base)
            for _, node in lineage
            for base in node.bases
            if ast.unparse(base).startswith("Generic[")
        ]
        if parameters:
            self._names(ast.parse(parameters[0]), lineage[-1][0])
        bases = bases or ", ".join(parameters[:1])
        body = [self._indented(text) for texts in members.values() for text in texts]
        return "\n".join([f"class {name}({bases}):", self._doc(own, "    "), *body, ""])

    def _lineage(self, module: str, name: str) -> Iterator[tuple[Module, ast.ClassDef]]:
        """Yield a class and its base classes of this package, except those that the stub has anyway."""
        source = self._module(module)
        node = source.body[name]
        if not isinstance(node, ast.ClassDef):
            raise WiregenError(f"{module}.{name} is no class")
        yield source, node
        for base in node.bases:
            base_name = ast.unparse(base).partition("[")[0]
            home = source.imports.get(base_name, (module if base_name in source.body else "", base_name))
            if home[0].startswith("trio_codex") and base_name not in ("Policy", "Generic"):
                yield from self._lineage(home[0], home[1] or base_name)

    def _attributes(self, node: ast.ClassDef, source: Module) -> Iterator[tuple[str, str]]:
        """Yield the public attributes of an object that its class declares or sets."""
        declared: dict[str, ast.expr] = {}
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                declared[statement.target.id] = statement.annotation
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                arguments = [*statement.args.args, *statement.args.kwonlyargs]
                types = {argument.arg: argument.annotation for argument in arguments}
                for inner in ast.walk(statement):
                    target = (
                        inner.targets[0] if isinstance(inner, ast.Assign) else getattr(inner, "target", None)
                    )
                    if not isinstance(target, ast.Attribute) or ast.unparse(target.value) != "self":
                        continue
                    annotation = inner.annotation if isinstance(inner, ast.AnnAssign) else None
                    value = getattr(inner, "value", None)
                    if annotation is None or ast.unparse(annotation) == "Final":
                        if isinstance(value, ast.Name):
                            annotation = types.get(value.id)
                        elif isinstance(value, ast.Call) and ast.unparse(value) == "trio.current_time()":
                            annotation = ast.Name("float")
                    if annotation is not None:
                        declared.setdefault(target.attr, annotation)
        for name, annotation in declared.items():
            if (
                not name.startswith("_")
                and "ClassVar" not in ast.unparse(annotation)
                and name != "on_overflow"
            ):
                yield name, self._annotation(annotation, source)

    def _member(self, node: Function, source: Module, *, init: bool) -> Iterator[tuple[str, str]]:
        names = {
            "__aiter__": "__iter__",
            "__anext__": "__next__",
            "__aenter__": "__enter__",
            "__aexit__": "__exit__",
        }
        if node.name == "__init__" and init:
            yield node.name, self._function(node, source)
        elif node.name in ("__aiter__", "__aenter__"):
            name = node.name if self._is_async else names[node.name]
            keyword = "async def" if self._is_async and node.name == "__aenter__" else "def"
            self._imports["Self"] = ("typing", "Self")
            yield name, f"{keyword} {name}(self) -> Self: ..."
        elif node.name in names:
            yield node.name, self._function(node, source, None if self._is_async else names[node.name])
        elif not node.name.startswith("_") and node.name not in _INTERNAL.get(source.name, ()):
            yield node.name, self._function(node, source)
            if node.name == "aclose" and not self._is_async:
                yield "close", self._function(node, source, "close")

    def _function(self, node: Function, source: Module, name: str | None = None) -> str:
        decorators = [ast.unparse(each).rpartition(".")[2] for each in node.decorator_list]
        is_scope = "asynccontextmanager" in decorators
        returns = node.returns
        assert returns is not None
        text = ast.unparse(returns)
        is_coroutine = isinstance(node, ast.AsyncFunctionDef) and not is_scope
        if is_scope:
            assert isinstance(returns, ast.Subscript)
            result = f"Scope[{self._annotation(returns.slice, source)}]"
        elif text.startswith("Coroutine["):
            is_coroutine = True
            assert isinstance(returns, ast.Subscript)
            assert isinstance(returns.slice, ast.Tuple)
            result = self._annotation(returns.slice.elts[2], source)
        else:
            result = self._annotation(returns, source)
        arguments = self._arguments(node.args, source)
        kept = [f"@{each}" for each in decorators if each in ("property", "overload")]
        if "cached_property" in decorators:
            kept = ["@property"]
        keyword = "async def" if is_coroutine and self._is_async else "def"
        head = f"{keyword} {name or node.name}({arguments}) -> {result}:"
        doc = self._doc(node, "    ")
        return "\n".join([*kept, f"{head} ..." if not doc else f"{head}\n{doc}"])

    def _arguments(self, arguments: ast.arguments, source: Module) -> str:
        copy = ast.parse(f"def f({ast.unparse(arguments)}): ...").body[0]
        assert isinstance(copy, ast.FunctionDef)
        every = [*copy.args.posonlyargs, *copy.args.args, *copy.args.kwonlyargs]
        every += [each for each in (copy.args.vararg, copy.args.kwarg) if each is not None]
        for argument in every:
            if argument.annotation is not None:
                argument.annotation = ast.parse(
                    self._annotation(argument.annotation, source), mode="eval"
                ).body
        copy.args.kw_defaults = [None if each is None else _default(each) for each in copy.args.kw_defaults]
        copy.args.defaults = [_default(each) for each in copy.args.defaults]
        return ast.unparse(copy.args)

    # -- names and words ---------------------------------------------------------------------------------------

    def _annotation(self, node: ast.expr, source: Module) -> str:
        """Return a type as the face has it, and remember what it needs to be imported."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        text = ast.unparse(node)
        for theirs, ours in STREAMS.items():
            text = text.replace(theirs, ours)
        text = re.sub(r"\bAbstractAsyncContextManager\[", "Scope[", text)
        text = re.sub(r"\bTurnHandle\b", "Turn", re.sub(r"\bGoalHandle\b", "Goal", text))
        if "Awaitable[" in text:
            awaited = r"Awaitable\[((?:[^\[\]]|\[[^\]]*\])*)\]"
            text = re.sub(awaited, r"\1 | Awaitable[\1]" if self._is_async else r"\1", text)
            if source.name.endswith("retry") and self._is_async:
                text = ast.unparse(node)
        tree = ast.parse(text, mode="eval")
        self._names(tree, source)
        return text

    def _names(self, tree: ast.AST, source: Module) -> None:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Name) or node.id in _BUILT_IN:
                continue
            name = node.id
            if name in source.imports:
                self._imports.setdefault(name, source.imports[name])
            elif name in source.body:
                self._imports.setdefault(name, (source.name, name))
            elif any(name == each.partition(".")[0] for each in source.imports):
                self._imports.setdefault(name, (name, None))

    def _import_lines(self, local: set[str]) -> list[str]:
        found = {name: each for name, each in self._imports.items() if name not in local}
        return [
            f"import {module}" if original is None else f"from {module} import {original} as {name}"
            if original != name else f"from {module} import {name}"
            for name, (module, original) in sorted(found.items())
        ]  # fmt: skip

    def _doc(self, node: ast.ClassDef | Function, indent: str) -> str:
        text = ast.get_docstring(node)
        return "" if text is None else self._indented(_quoted(self._words(text)), indent)

    def _docstring(self, submodule: str) -> str:
        path = self._root / self._face / f"{submodule or '__init__'}.py"
        return _quoted(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")

    def _words(self, text: str) -> str:
        for pattern, replacement in AIO_WORDS if self._is_async else BLOCKING_WORDS:
            text = re.sub(pattern, replacement, text)
        return text

    @staticmethod
    def _indented(text: str, indent: str = "    ") -> str:
        return "\n".join(f"{indent}{line}" if line else "" for line in text.splitlines())

    def _file(self, imports: list[str], lines: list[str], docstring: str) -> str:
        standard = [
            "from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence",
            "from types import TracebackType",
            "from typing import Any, Generic, ParamSpec, TypeVar, overload",
        ]
        return "\n".join([HEADER, docstring, "", *standard, *imports, "", *lines, ""])

    def _module(self, name: str) -> Module:
        if name not in self._modules:
            relative = "/".join(name.split(".")[1:])
            path = f"{relative}.py" if relative else "__init__.py"
            if (self._root / relative / "__init__.py").is_file():
                path = f"{relative}/__init__.py".lstrip("/")
            text = self._fresh.get(path) or (self._root / path).read_text(encoding="utf-8")
            self._modules[name] = Module.parse(name, text)
        return self._modules[name]

    def _home(self, module: str, name: str) -> str:
        """Return the module that defines a name, which a package may only re-export."""
        source = self._module(module)
        theirs = source.imports.get(name, ("", None))[0]
        if name in source.body or module == "trio_codex" or not theirs.startswith("trio_codex."):
            return module
        return self._home(theirs, name)

    def _is_handle(self, module: str, name: str) -> bool:
        source = self._module(module)
        if not isinstance(source.body.get(name), ast.ClassDef):
            return False
        return any(
            isinstance(member, ast.AsyncFunctionDef)
            for _, node in self._lineage(module, name)
            for member in node.body
        )


_BUILT_IN: Final = {"Scope", "RemoteInput", "RemoteOutput"}

_INTERNAL: Final = {
    "trio_codex._api.exec": ("has_ended", "raise_failure", "start", "finish", "take_output", "lose_output"),
    "trio_codex._api.exec_streams": ("end", "put"),
    "trio_codex._link.subscriptions": (
        "put",
        "put_last",
        "end",
        "release",
        "wake",
        "take_buffered",
        "put_back",
    ),
    "trio_codex._api.paging": ("take_buffered",),
    "trio_codex.policies._inbox": ("wait_decision",),
    "trio_codex.supervision._turn": ("begun", "begin", "lose", "wait_read", "finish", "leave"),
}
"""Members without an underscore that are not for users."""


def _default(node: ast.expr) -> ast.expr:
    return node if isinstance(node, ast.Constant) else ast.Constant(...)


def _quoted(text: str) -> str:
    body = text.replace("\\", "\\\\").strip()
    return f'"""{body}\n"""' if "\n" in body else f'"""{body}"""'


def emit(root: Path, fresh: Mapping[str, str]) -> dict[str, str]:
    """Return the stubs of both faces, by their paths below the package."""
    found: dict[str, str] = {}
    for face in ("blocking", "aio"):
        for name in ("package", "policies", "tools"):
            text = getattr(FaceEmitter(face, root, fresh), name)()
            found[f"{face}/{'__init__' if name == 'package' else name}.pyi"] = text
    return found
