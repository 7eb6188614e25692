"""Both faces have every name and member of the API, and so do their stubs."""

import ast
import functools
import inspect
import re
from pathlib import Path

import pytest

import trio_codex
from trio_codex import aio, batch, blocking, policies, tools
from trio_codex._face.proxies import Proxy, is_handle

ROOT = Path(trio_codex.__file__).parent

FACES = {"blocking": blocking, "aio": aio}

HANDLES = sorted(
    name
    for name in dir(trio_codex)
    if isinstance(getattr(trio_codex, name), type) and is_handle(getattr(trio_codex, name))
)

OWN = {"blocking": {"Deadline", "fail_after", "move_on_after"}, "aio": set()}
"""Names that only one face has, because asyncio has its own equivalents."""

every_face = pytest.mark.parametrize("face", FACES)

SPECIAL = {
    "blocking": {
        "__aiter__": "__iter__",
        "__anext__": "__next__",
        "__aenter__": "__enter__",
        "__aexit__": "__exit__",
    },
    "aio": {},
}


INTERNAL = {
    "RemoteProcess": {"has_ended", "raise_failure", "start", "finish", "take_output", "lose_output"},
    "Subscription": {"put", "put_last", "end", "release", "wake", "take_buffered", "put_back"},
    "Pager": {"take_buffered"},
}
"""Members without an underscore that neither the reference nor the stubs list."""


def public(names):
    return {name for name in names if not name.startswith("_")}


@functools.cache
def stub(face, name="__init__"):
    """Return the definitions and re-exports in a stub by name."""
    found = {}
    for node in ast.parse((ROOT / face / f"{name}.pyi").read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname: alias for alias in node.names if alias.asname == alias.name}
    return found


@every_face
def test_a_face_has_every_name_of_the_package_except_the_one_that_needs_a_nursery(face):
    names = public(dir(trio_codex)) - {"connect_codex"}
    assert public(dir(FACES[face])) == names | {"Scope", "batch", "from_trio"} | OWN[face]
    assert all(getattr(FACES[face], name) is not None for name in names)
    with pytest.raises(AttributeError, match="connect_codex"):
        _ = FACES[face].connect_codex


@every_face
@pytest.mark.parametrize(("name", "module"), [("policies", policies), ("tools", tools), ("batch", batch)])
def test_the_submodules_of_a_face_have_every_name_too(face, name, module):
    own = getattr(FACES[face], name)
    assert public(dir(own)) >= public(dir(module))
    assert set(stub(face, name)) >= {
        each for each in public(dir(module)) if not inspect.ismodule(getattr(module, each))
    }


@every_face
def test_values_are_shared_and_handles_are_classes_of_the_face(face):
    module = FACES[face]
    for name in ("CodexConfig", "Event", "TurnResult", "TurnStatus", "errors", "wire", "is_retryable_error"):
        assert getattr(module, name) is getattr(trio_codex, name)
    for name in (
        "Codex",
        "Thread",
        "Turn",
        "Goal",
        "RemoteProcess",
        "Watch",
        "LoginHandle",
        "Pager",
        "Subscription",
    ):
        cls = getattr(module, name)
        assert issubclass(cls, Proxy)
        assert (cls.__name__, cls.__module__) == (name, f"trio_codex.{face}")
        assert cls.__doc__ == getattr(trio_codex, name).__doc__


@every_face
def test_the_stub_of_a_face_matches_its_package(face):
    listed = set(stub(face))
    names = public(dir(FACES[face])) - {"TYPE_CHECKING", "Any"}
    wanted = {name for name in names if not inspect.ismodule(getattr(trio_codex, name, None))}
    assert wanted <= listed, wanted - listed


@every_face
@pytest.mark.parametrize("name", HANDLES)
def test_a_class_of_a_stub_has_the_members_of_its_proxy(face, name):
    handle, proxy = getattr(trio_codex, name), getattr(FACES[face], name)
    members = {node.name for node in stub(face)[name].body if hasattr(node, "name")}
    theirs = {
        SPECIAL[face].get(each, each)
        for each in ("__anext__", "__aenter__", "__aexit__")
        if hasattr(handle, each)
    }
    assert theirs <= members
    assert theirs <= set(dir(proxy))
    internal = {name for name in public(vars(proxy)) if name not in members}
    assert internal <= INTERNAL.get(name, set())
    assert {each for each in public(members) if each != "close"} <= public(dir(handle))


TRIO_WORDS = re.compile(
    r"checkpoint|schedule point|nursery|from a Trio task|``Cancelled``|cancel scope|[Aa] async|^ *(Args|Raises|Returns):.*\S"
)
BLOCKING_WORDS = re.compile(r"\bawait |\basync |this is cancelled")


def docs_of(face, name):
    tree = ast.parse((ROOT / face / f"{name}.pyi").read_text())
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [
        text
        for node in ast.walk(tree)
        if isinstance(node, documented) and (text := ast.get_docstring(node)) is not None
    ]


@every_face
@pytest.mark.parametrize("name", ["__init__", "policies", "tools", "batch"])
def test_the_docstrings_of_a_stub_match_its_face(face, name):
    docs = docs_of(face, name)
    assert docs
    for text in docs:
        for line in text.splitlines():
            assert not TRIO_WORDS.search(line), line
            assert (
                face == "aio"
                or "``async``" in line
                or "async context manager." in line
                or not BLOCKING_WORDS.search(line)
            ), line
        assert "Raises:" not in text or re.search(r"(^|\n\n)Raises:\n    \S", text), text


@every_face
def test_any_policy_is_accepted_where_a_policy_is_expected(face):
    function = stub(face)["open_codex"]
    [policy] = [each for each in function.args.kwonlyargs if each.arg == "policy"]
    assert ast.unparse(policy.annotation) == "_Policy | None"
    assert "from trio_codex.policies import Policy as _Policy" in (ROOT / face / "__init__.pyi").read_text()
