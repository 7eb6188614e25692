"""The results of tools: what they return, what they raise, and what is sent to the server."""

import functools
import gc
import logging
from pathlib import Path

import pytest
import trio

from tools.tool_calls import Box, call, called, texts
from trio_codex import tool, wire
from trio_codex._tools.calling import result_of
from trio_codex._tools.toolbox import Toolbox
from trio_codex.tools import Image, ToolError, ToolResult, image

PNG = b"\x89PNG\r\n\x1a\n rest"


# -- results ------------------------------------------------------------------------------------------------------

IMAGE = wire.InputImageDynamicToolCallOutputContentItem(
    image_url="data:image/png;base64,iVBORw0KGgogcmVzdA=="
)


def as_text(text):
    return wire.InputTextDynamicToolCallOutputContentItem(text=text)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", [as_text("text")]),
        ("", [as_text("")]),
        (None, [as_text("done")]),
        (3, [as_text("3")]),
        (["a", "b"], [as_text('["a","b"]')]),
        (Box(1), [as_text('{"width":1,"depth":2}')]),
        (PNG, [IMAGE]),
        (image(PNG), [IMAGE]),
        (["a", PNG, 3], [as_text("a"), IMAGE, as_text("3")]),
        (ToolResult(["a", image(PNG)]), [as_text("a"), IMAGE]),
        (ToolResult((IMAGE,)), [IMAGE]),
    ],
    ids=repr,
)
def test_return_values_become_the_content_of_a_result(value, content):
    assert result_of(value) == ToolResult(content)


def test_the_content_of_a_result_must_not_be_a_bare_string():
    with pytest.raises(TypeError, match="expected a list of strings"):
        ToolResult("no")


async def test_a_tool_can_return_a_failed_result():
    @tool
    async def refuse() -> ToolResult:
        await trio.lowlevel.checkpoint()
        return ToolResult.of_text("no", success=False)

    result = await call(refuse)
    assert (texts(result), result.success) == (["no"], False)


async def test_a_return_value_that_cannot_be_serialized_fails_the_call(caplog):
    @tool
    async def strange() -> object:
        await trio.lowlevel.checkpoint()
        return object()

    result = await call(strange)
    assert (texts(result), result.success) == (["TypeError: cannot serialize an object as JSON"], False)
    assert len(caplog.records) == 1


async def test_lone_surrogates_are_escaped_because_the_server_drops_lines_with_them():
    @tool
    async def names(*, fail: bool = False) -> str:
        await trio.lowlevel.checkpoint()
        if fail:
            raise ToolError("a\ud800")
        return "b\ud800"

    assert texts(await call(names)) == ["b\\ud800"]
    assert texts(await call(names, arguments={"fail": True})) == ["a\\ud800"]
    assert texts(result_of(["b\udcff", {"c": Path("d\udcff"), "é": b"e"}])) == [
        r'["b\udcff",{"c":"d\udcff","\u00e9":"ZQ=="}]'
    ]
    assert ToolResult([as_text("f\ud800")]) == ToolResult(["f\\ud800"])


def test_the_media_type_of_an_image_is_detected_from_its_first_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    assert image(tmp_path / "a.png").url == IMAGE.image_url
    assert image("https://example.org/a.png") == Image("https://example.org/a.png")
    assert image(b"RIFF....WEBP").url.startswith("data:image/webp;")
    assert image(b"?", "image/x").url == "data:image/x;base64,Pw=="
    assert "iVBOR" not in repr(image(PNG))
    with pytest.raises(ValueError, match="pass media_type"):
        image(b"text")
    with pytest.raises(ValueError, match="URL"):
        image(str(tmp_path / "a.png"))


# -- failures ------------------------------------------------------------------------------------------------------


async def raising(exc):
    @tool
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise exc

    return await call(fail)


async def test_a_tool_error_is_reported_to_the_agent_and_not_logged(caplog):
    result = await raising(ToolError("there is no such city"))
    assert (texts(result), result.success) == (["there is no such city"], False)
    assert not caplog.records


async def test_any_other_error_is_reported_with_its_type_and_logged_with_its_traceback(caplog):
    result = await raising(ZeroDivisionError("by zero"))
    assert (texts(result), result.success) == (["ZeroDivisionError: by zero"], False)
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "trio_codex")
    assert "fail" in record.getMessage()
    assert record.exc_info[0] is ZeroDivisionError
    assert "Traceback" not in texts(result)[0]
    assert texts(await raising(TimeoutError())) == ["TimeoutError"]


async def test_an_exception_group_is_reported_as_its_members(caplog):
    assert texts(await raising(ExceptionGroup("", [ToolError("a")]))) == ["a"]
    assert not caplog.records
    group = ExceptionGroup("", [ToolError("a"), ExceptionGroup("", [ValueError("b")])])
    assert texts(await raising(group)) == ["a\nValueError: b"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_system_exit_and_keyboard_interrupt_propagate(exc):
    with pytest.raises(type(exc)):
        await raising(exc)
    with pytest.RaisesGroup(type(exc), ValueError):
        await raising(BaseExceptionGroup("", [exc, ValueError()]))


async def test_a_call_that_exceeds_its_timeout_fails(autojump_clock):
    @tool(timeout=2.5)
    async def sleep(seconds: float) -> str:
        await trio.sleep(seconds)
        return "awake"

    result = await call(sleep, arguments={"seconds": 3})
    assert not result.success
    assert texts(result) == ["The tool was cancelled: it did not finish within 2.5 s."]
    assert texts(await call(sleep, arguments={"seconds": 2})) == ["awake"]


async def test_cancellation_propagates_and_errors_of_a_cancelled_tool_are_only_logged(caplog):
    @tool
    async def stubborn() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in cleanup")

    for made in (stubborn, tool(trio.sleep_forever)):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(functools.partial(call, made))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
    assert [record.getMessage() for record in caplog.records] == ["the tool stubborn failed"]


async def test_a_limit_applies_across_all_toolboxes_of_a_client_and_further_calls_wait():
    running, most, gate = 0, 0, trio.Event()

    @tool(limit=2)
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    client = Toolbox([count])
    boxes = [client, Toolbox([count], client), Toolbox([], client)]
    results = []

    async def collect(box):
        results.append(await box.call(called("count")))

    async with trio.open_nursery() as nursery:
        for box in boxes * 2:
            nursery.start_soon(collect, box)
        await trio.testing.wait_all_tasks_blocked()
        assert running == 2
        gate.set()
    assert most == 2
    assert [result.success for result in results].count(
        True
    ) == 4  # the third toolbox does not have this tool


async def test_the_limit_of_a_method_applies_per_object_across_lookups():
    running, gate = [], trio.Event()

    class Counter:
        @tool(limit=1)
        async def count(self) -> None:
            running.append(self)
            await gate.wait()

    one, other, client = Counter(), Counter(), Toolbox()
    boxes = [Toolbox([counter.count], client) for counter in (one, one, other)]
    async with trio.open_nursery() as nursery:
        for box in boxes:
            nursery.start_soon(box.call, called("count"))
        await trio.testing.wait_all_tasks_blocked()
        assert running in ([one, other], [other, one])
        gate.set()
    assert running.count(one) == 2


async def test_the_timeout_does_not_include_the_wait_for_the_limit(autojump_clock):
    @tool(limit=1, timeout=3)
    async def slow() -> None:
        await trio.sleep(2)

    box, results = Toolbox([slow]), []

    async def collect():
        results.append((await box.call(called("slow"))).success)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(collect)
    assert results == [True] * 4


async def test_the_limiter_of_an_unreferenced_tool_is_released():
    client = Toolbox()

    @tool(limit=1)
    async def short() -> None:
        await trio.lowlevel.checkpoint()

    box = Toolbox([short], client)
    await box.call(called("short"))
    assert len(client._limiters) == 1
    del short, box
    gc.collect()
    assert len(client._limiters) == 0
