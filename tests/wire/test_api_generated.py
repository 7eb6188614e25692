"""Every generated coroutine sends its own method, with params of its own type, and returns the result."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from trio_codex import wire
from trio_codex._api.generated import Api
from wiregen.names import method_name

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Recorder:
    """Answers each request with a marker."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, wire.Wire | None]] = []

    async def __call__(self, method: str, params: wire.Wire | None, /) -> Any:
        self.sent.append((method, params))
        return f"result of {method}"  # noqa: ASYNC910  # no I/O


def run(coroutine: Coroutine[Any, Any, object]) -> object:
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value


def function_of(api: Api, method: str) -> Any:
    group, name = method_name(method)
    return getattr(api if group is None else getattr(api, group), name)


@pytest.mark.parametrize("method", wire.CLIENT_REQUESTS)
def test_a_coroutine_sends_its_method(method: str) -> None:
    recorder = Recorder()
    function = function_of(Api(recorder), method)
    params = inspect.signature(function).parameters.values()
    positional = [object() for each in params if each.kind is each.POSITIONAL_ONLY]
    keywords = {each.name: each.name for each in params if each.kind is each.KEYWORD_ONLY}
    assert run(function(*positional, **keywords)) == f"result of {method}"
    ((sent, value),) = recorder.sent
    assert sent == method
    expected = wire.CLIENT_REQUESTS[method].params
    if positional:
        assert value is positional[0]
    elif expected is None:
        assert value is None
    else:
        assert type(value) is getattr(wire, expected)
        # Every field is a keyword, under its own name.
        assert attrs.asdict(value) == keywords


@pytest.mark.parametrize("method", wire.CLIENT_REQUESTS)
def test_a_signature_requires_what_the_params_require(method: str) -> None:
    function = function_of(Api(Recorder()), method)
    spec = wire.CLIENT_REQUESTS[method]
    signature = inspect.signature(function)
    assert signature.return_annotation == f"wire.{spec.result}"
    cls = getattr(wire, spec.params) if spec.params is not None else None
    if isinstance(cls, type):
        required = {field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING}
        assert {each.name for each in signature.parameters.values() if each.default is each.empty} == required
    assert f"``{method}``" in function.__doc__
    assert ("Experimental." in function.__doc__.partition("Args:")[0]) == spec.experimental
    assert "RpcError" in function.__doc__


def test_an_empty_object_is_still_sent() -> None:
    recorder = Recorder()
    run(Api(recorder).thread.loaded_list())
    assert recorder.sent == [("thread/loaded/list", wire.ThreadLoadedListParams())]
    run(Api(recorder).account.rate_limits_read())
    assert recorder.sent[-1] == ("account/rateLimits/read", wire.GetAccountRateLimitsParams())


def test_a_group_is_created_once() -> None:
    api = Api(Recorder())
    assert api.thread is api.thread


def test_the_module_loads_no_domain() -> None:
    code = (
        "import sys, trio_codex._api.generated;"
        "print(*(name for name in sys.modules if name.startswith('trio_codex.wire._')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    from trio_codex.wire._index import HOME

    assert not {f"trio_codex.wire.{domain}" for domain in set(HOME.values()) - {"_registry"}} & set(
        done.stdout.split()
    )
