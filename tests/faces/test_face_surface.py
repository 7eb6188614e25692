"""Both faces have every name and every member of the API, and the stubs have the same ones."""

import ast
import inspect
from pathlib import Path

import pytest

import trio_codex
from trio_codex import aio, blocking, policies, tools
from trio_codex._face.proxies import Proxy, is_handle

ROOT = Path(trio_codex.__file__).parent

FACES = {"blocking": blocking, "aio": aio}

HANDLES = sorted(
    name
    for name in dir(trio_codex)
    if isinstance(getattr(trio_codex, name), type) and is_handle(getattr(trio_codex, name))
)

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
"""Members without an underscore that the reference does not list, and the stubs neither."""


def public(names):
    return {name for name in names if not name.startswith("_")}


def stub(face, name="__init__"):
    """Return what a stub defines and re-exports, by name."""
    found = {}
    for node in ast.parse((ROOT / face / f"{name}.pyi").read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname: alias for alias in node.names if alias.asname == alias.name}
    return found


@every_face
def test_a_face_has_every_name_of_the_package_but_the_one_that_needs_a_nursery(face):
    names = public(dir(trio_codex)) - {"connect_codex"}
    assert public(dir(FACES[face])) == names | {"Scope", "from_trio"}
    assert all(getattr(FACES[face], name) is not None for name in names)
    with pytest.raises(AttributeError, match="connect_codex"):
        _ = FACES[face].connect_codex


@every_face
@pytest.mark.parametrize(("name", "module"), [("policies", policies), ("tools", tools)])
def test_the_submodules_of_a_face_have_every_name_too(face, name, module):
    own = getattr(FACES[face], name)
    assert public(dir(own)) >= public(dir(module))
    assert set(stub(face, name)) >= {
        each for each in public(dir(module)) if not inspect.ismodule(getattr(module, each))
    }


@every_face
def test_values_are_the_same_and_handles_are_classes_of_the_face(face):
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
def test_the_stub_of_the_package_has_what_the_package_has(face):
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
