"""Emit stubs for the two faces, derived from the source of the Trio API, including its docstrings.

At run time the faces are proxies, which type checkers cannot analyze. The stubs describe the classes and functions that the
proxies provide.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

from wiregen.face_sources import Function, Sources, attributes_of
from wiregen.face_words import DEADLINES, FROM_TRIO, SCOPE, TOOL, reworded
from wiregen.output import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from wiregen.face_sources import Module

HEADER: Final = f"{MARK} from the Trio API; do not edit.\n"

TRIO_ONLY: Final = {"connect_codex"}
"""Names that the faces omit."""

STREAMS: Final = {"trio.abc.SendStream": "RemoteInput", "trio.abc.ReceiveStream": "RemoteOutput"}
"""The classes that the faces use in place of Trio's abstract base classes."""

UNEXPORTED: Final = ("trio_codex._api.generated", "trio_codex._api.exec_streams")
"""Modules with handle classes that the package does not export."""

PACKAGES: Final = ("trio_codex.supervision",)
"""Packages with handle classes that the package does not export."""

BATCH: Final = ("Batch", "TaskContext", "TaskThread")
"""The batch classes that each face defines itself."""

OWN: Final = {"policies": ("Policy", "Inbox", "Pending"), "tools": ("tool", "PlainTool")}
"""Names that each face defines itself, by submodule."""


class FaceEmitter:
    """Emits the stubs of one face.

    Args:
        face: Its name.
        sources: The source of the Trio API.
    """

    def __init__(self, face: str, sources: Sources) -> None:
        self._face = face
        self._sources = sources
        self._imports: dict[str, tuple[str, str | None]] = {}
        self._is_async = face == "aio"
        self._exported = {
            name: home for name, home in sources.exported("trio_codex").items() if name not in TRIO_ONLY
        }
        handles = sources.handles("trio_codex")
        for module in UNEXPORTED:
            handles |= {
                name: module
                for name, node in sources.module(module).body.items()
                if isinstance(node, ast.ClassDef) and not name.startswith("_")
            }
        for module in PACKAGES:
            handles |= sources.handles(module)
        self._handles = handles

    def package(self) -> str:
        """Return the stub of the package."""
        local = {"Scope", "from_trio", *self._handles}
        lines = [SCOPE[self._face], FROM_TRIO]
        for name, module in self._handles.items():
            lines.append(self._class(module, name))
        reexported: list[str] = []
        for name, module in self._exported.items():
            node = self._sources.module(module).body.get(name)
            if name in self._handles:
                continue
            if isinstance(node, ast.AsyncFunctionDef):
                local.add(name)
                lines.append(self._function(node, self._sources.module(module)))
            elif name in OWN:
                reexported.append(f"from trio_codex.{self._face} import {name} as {name}")
            elif any(name in names for names in OWN.values()):
                home = next(home for home, names in OWN.items() if name in names)
                reexported.append(f"from trio_codex.{self._face}.{home} import {name} as {name}")
            else:
                reexported.append(f"from trio_codex import {name} as {name}")
        lines.insert(0, 'ValueT_co = TypeVar("ValueT_co", covariant=True)\n')
        if not self._is_async:
            lines.insert(0, DEADLINES)
        return self._file(
            [*self._import_lines({*local, *self._exported}), *sorted(reexported)],
            lines,
            self._docstring("__init__"),
        )

    def policies(self) -> str:
        """Return the stub of the policies."""
        module = self._sources.module("trio_codex.policies._policy")
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
            self._doc(policy, module),
            f"    def __init__(self, *, {', '.join(parameters)}) -> None: ...",
            self._class("trio_codex.policies._inbox", "Pending"),
            self._class("trio_codex.policies._inbox", "Inbox", bases="Policy", init=True),
        ]
        own = OWN["policies"]
        names = [name for name in self._sources.module("trio_codex.policies").imports if name not in own]
        reexported = [f"from trio_codex.policies import {name} as {name}" for name in sorted(names)]
        imports = [
            *self._import_lines({*own, *names, "_Policy"}),
            "from trio_codex.policies import Policy as _Policy",
        ]
        return self._file([*imports, *reexported], lines, self._docstring("policies"))

    def tools(self) -> str:
        """Return the stub of the tools."""
        module = self._sources.module("trio_codex._tools.tool")
        tool = module.body["tool"]
        assert isinstance(tool, ast.FunctionDef)
        options = ast.unparse(tool.args).partition("*, ")[2]
        self._names(tool.args, module)
        doc = self._doc(tool, module)
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
        names = [name for name in self._sources.module("trio_codex.tools").imports if name != "tool"]
        reexported = [f"from trio_codex.tools import {name} as {name}" for name in sorted(names)]
        imports = self._import_lines({*names, "tool"})
        return self._file([*imports, *reexported], lines, self._docstring("tools"))

    def batch(self) -> str:
        """Return the stub of batches."""
        package = self._sources.module("trio_codex.batch")
        opening = self._sources.module(package.imports["open_batch"][0])
        function = opening.body["open_batch"]
        assert isinstance(function, ast.AsyncFunctionDef)
        lines = [self._class(package.imports[name][0], name) for name in BATCH]
        lines.append(self._function(function, opening))
        own = {*BATCH, "open_batch"}
        names = [name for name in package.imports if name not in own]
        reexported = [f"from trio_codex.batch import {name} as {name}" for name in sorted(names)]
        imports = [f"from trio_codex.{self._face} import Scope", *self._import_lines({*own, *names})]
        return self._file([*imports, *reexported], lines, self._docstring("batch"))

    # -- classes and functions ---------------------------------------------------------------------------------

    def _class(self, module: str, name: str, *, bases: str = "", init: bool = False) -> str:
        lineage = list(self._sources.lineage(module, name))
        _, own = lineage[0]
        members: dict[str, list[str]] = {}
        for source, node in lineage:
            found: dict[str, list[str]] = {}
            for attribute, annotation in attributes_of(node):
                found.setdefault(attribute, []).append(f"{attribute}: {self._annotation(annotation, source)}")
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
        return "\n".join([f"class {name}({bases}):", self._doc(own, lineage[0][0]), *body, ""])

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
        doc = self._doc(node, source)
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
        """Return a type as it appears in the stub, and record the imports it needs."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        text = ast.unparse(node)
        for theirs, ours in STREAMS.items():
            text = text.replace(theirs, ours)
        text = re.sub(r"\bAbstractAsyncContextManager\[", "Scope[", text)
        # The ready-made policies are instances of the Trio class, not of the face's own.
        text = re.sub(r"\bPolicy\b", "_Policy", text)
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
            if name == "_Policy":
                self._imports[name] = ("trio_codex.policies", "Policy")
            elif name in source.imports:
                self._imports.setdefault(name, source.imports[name])
            elif name in source.body:
                self._imports.setdefault(name, (source.name, name))
            elif any(name == each.partition(".")[0] for each in source.imports):
                self._imports.setdefault(name, (name, None))

    def _import_lines(self, local: set[str]) -> list[str]:
        found = {name: each for name, each in sorted(self._imports.items()) if name not in local}
        lines: list[str] = []
        for name, (module, original) in found.items():
            if original is None:
                lines.append(f"import {module}")
            else:
                home = f"trio_codex.{self._face}" if name in self._handles else module
                renamed = f" as {name}" if original != name else ""
                lines.append(f"from {home} import {original}{renamed}")
        return lines

    def _doc(self, node: ast.ClassDef | Function, source: Module) -> str:
        text = ast.get_docstring(node)
        return "" if text is None else self._indented(_quoted(reworded(text, self._face, source.name)))

    def _docstring(self, submodule: str) -> str:
        return _quoted(self._sources.docstring(f"{self._face}/{submodule}"))

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
"""Members that are private although their names have no leading underscore."""


def _default(node: ast.expr) -> ast.expr:
    return node if isinstance(node, ast.Constant) else ast.Constant(...)


def _quoted(text: str) -> str:
    body = text.replace("\\", "\\\\").strip()
    return f'"""{body}\n"""' if "\n" in body else f'"""{body}"""'


def emit(root: Path, fresh: Mapping[str, str]) -> dict[str, str]:
    """Return the stubs of both faces, by their paths below the package."""
    found: dict[str, str] = {}
    sources = Sources(root, fresh)
    for face in ("blocking", "aio"):
        for name in ("package", "policies", "tools", "batch"):
            text = getattr(FaceEmitter(face, sources), name)()
            found[f"{face}/{'__init__' if name == 'package' else name}.pyi"] = text
    return found
