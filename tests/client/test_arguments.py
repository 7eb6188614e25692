"""An argument of the wrong type raises a TypeError where it is passed; the message says what to write instead."""

import errno
import functools
import os
from unittest.mock import AsyncMock

import attrs
import pytest
import trio
import trio.testing

from trio_codex import (
    Budget,
    ClientConfig,
    CodexConfig,
    Policy,
    connect_codex,
    errors,
    open_codex,
    policies,
    tool,
)
from trio_codex.instruments import LogInstrument
from trio_codex.policies import accept, allow_commands, first_of, logged, with_timeout
from trio_codex.testing import fake_codex


@attrs.frozen
class Plan:
    steps: int


@tool
async def lookup(word: str) -> str:
    await trio.lowlevel.checkpoint()
    return word


async def allow(_):
    await trio.lowlevel.checkpoint()
    return accept()


# -- clients, threads and turns ------------------------------------------------------------------------------------

POLICY = r"policy expects a Policy, got .*: write Policy\(command=…\)"
BUDGET = r"budget expects a Budget, got an int: write Budget\(tokens=…\)"
TOOLS = r"tools expects a list, got .*: write tools=\[…\]"

OF_ALL = [
    ({"policy": allow}, POLICY),
    ({"policy": lambda _: accept()}, POLICY),
    ({"policy": "accept"}, POLICY),
    ({"policy": accept()}, "policy expects a Policy, got an Accept"),
    ({"policy": [allow_commands("ls")]}, "policy expects a Policy, got a list"),
    ({"budget": 100}, BUDGET),
]
OF_CLIENTS = [
    *OF_ALL,
    ({"config": "gpt-5"}, r"config expects a CodexConfig, got a str: .*thread_start\(model=…\)"),
    ({"config": {}}, "config expects a CodexConfig, got a dict"),
    ({"config": CodexConfig}, "config expects a CodexConfig, got the class CodexConfig"),
    ({"tools": lookup}, "tools expects a list, got a Tool"),
    ({"tools": "lookup"}, TOOLS),
    ({"tools": None}, TOOLS),
    ({"tools": [allow]}, "tools expects functions decorated with @tool, got the function allow"),
    ({"instruments": LogInstrument()}, r"instruments expects a list, got a LogInstrument"),
    ({"instruments": [LogInstrument]}, "instruments expects an Instrument, got the class LogInstrument"),
    ({"instruments": ["log"]}, "instruments expects an Instrument, got a str"),
]
OF_THREADS = [
    *OF_ALL,
    ({"tools": lookup}, "tools expects a list, got a Tool"),
    ({"tools": ["lookup"]}, "tools expects functions decorated with @tool, got a str"),
]
OF_TURNS = [
    *OF_ALL,
    ({"idle_limit": "1"}, "idle_limit expects a number, got a str"),
    ({"output_type": Plan(1)}, "output_type expects a type, got a Plan: pass the class Plan itself"),
    ({"output_type": {"type": "object"}}, "output_type expects a type, got a dict: .*output_schema"),
    ({"output_type": [int]}, r"output_type expects a type, got a list: write list\[…\]"),
    ({"output_type": "Plan"}, "output_type expects a type, got a str: pass a class"),
    ({"output_type": allow}, "output_type expects a type, got the function allow: pass a class"),
    ({"output_schema": Plan}, "output_schema expects a mapping, got the class Plan: .*output_type"),
    ({"output_schema": '{"type": "object"}'}, "output_schema expects a mapping, got a str"),
]


def mistakes(table):
    return pytest.mark.parametrize(("options", "told"), table)


@mistakes(OF_CLIENTS)
async def test_a_client_is_not_started_with_an_argument_of_the_wrong_type(options, told):
    with pytest.raises(TypeError, match=told):
        async with open_codex(**options):
            pass
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        with pytest.raises(TypeError, match=told.replace("expects a CodexConfig", "expects a ClientConfig")):
            await connect_codex(nursery, ours, **options)
    await ours.aclose()
    assert await theirs.receive_some() == b""


@mistakes([*OF_THREADS, ({"dynamic_tools": [lookup]}, r"got a Tool: pass it as tools=\[…\]")])
async def test_a_thread_is_not_started_with_an_option_of_the_wrong_type(options, told):
    async with fake_codex() as (codex, server):
        with pytest.raises(TypeError, match=told):
            await codex.thread_start(**options)
        assert server.unexpected() == []


@mistakes(OF_THREADS)
async def test_a_thread_is_not_resumed_or_forked_with_an_option_of_the_wrong_type(options, told):
    async with fake_codex() as (codex, server):
        with pytest.raises(TypeError, match=told):
            await codex.thread_resume("thread-1", **options)
        with pytest.raises(TypeError, match=told):
            await codex.thread_fork("thread-1", **options)
        assert server.unexpected() == []


@mistakes(OF_TURNS)
async def test_a_turn_is_not_started_with_an_option_of_the_wrong_type(options, told):
    async with fake_codex() as (codex, server):
        thread = await codex.thread_start()
        with pytest.raises(TypeError, match=told):
            await thread.run("hi", **options)
        with pytest.raises(TypeError, match=told):
            thread.turn("hi", **options)
        assert server.unexpected() == []


async def test_the_config_of_a_thread_is_a_mapping():
    async with fake_codex() as (codex, _):
        assert (await codex.thread_start(config={"model_verbosity": "low"})).id


async def test_a_path_may_be_bytes():
    class Path:
        def __fspath__(self):
            return b"/b"

    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            server.take_over("thread/start")

            @nursery.start_soon
            async def _():
                await codex.thread_start(cwd=b"/a", runtime_workspace_roots=[b"/a", Path()])
                await codex.thread_list(cwd=[b"/a", Path()])
                await codex.thread_list(cwd=b"/a")
                with pytest.raises(errors.InvalidRequestError):
                    async with codex.exec([b"ls", Path()], cwd=Path()):
                        pass

            asked = await server.expect("thread/start")
            assert asked.params["cwd"] == "/a"
            assert asked.params["runtimeWorkspaceRoots"] == ["/a", "/b"]
            await asked.answer(server._defaults["thread/resume"])
            for expected in (["/a", "/b"], "/a"):
                asked = await server.expect("thread/list")
                assert asked.params["cwd"] == expected
                await asked.answer()
            asked = await server.expect("command/exec")
            assert (asked.params["command"], asked.params["cwd"]) == (["ls", "/b"], "/b")
            await (await server.expect("command/exec/write")).refuse("no such process")
            await asked.refuse("no")


async def test_a_review_or_a_goal_is_not_started_with_an_argument_of_the_wrong_type():
    async with fake_codex() as (codex, server):
        thread = await codex.thread_start()
        with pytest.raises(TypeError, match=POLICY):
            thread.review(policy=allow)
        with pytest.raises(TypeError, match=POLICY):
            thread.goal("ship it", policy=allow)
        assert server.unexpected() == []


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: CodexConfig(event_buffer=1), "event_buffer expects an EventBuffer, got an int"),
        (lambda: CodexConfig(env="A=1"), 'env expects a Mapping, got a str: write env={"NAME": "value"}'),
        (lambda: CodexConfig(env={"A": 1}), r"env\['A'\] expects a str, got an int"),
        (lambda: Budget(tokens="100"), "tokens expects a number, got a str"),
        (lambda: tool(lookup.function, limit="2"), "limit expects a number, got a str"),
        (lambda: tool(lookup.function, namespace=1), "namespace expects a Namespace, got an int"),
        (
            lambda: tool(len),
            "a tool must be an async function, got the function len: define it with async def",
        ),
    ],
)
def test_a_value_with_fields_of_the_wrong_type_is_refused_at_construction(make, told):
    with pytest.raises(TypeError, match=told):
        make()


@pytest.mark.parametrize("field", attrs.fields(CodexConfig), ids=lambda field: field.name)
def test_every_field_of_a_configuration_refuses_a_value_of_the_wrong_type(field):
    with pytest.raises((TypeError, ValueError)) as caught:
        CodexConfig(**{field.name: object()})
    assert "Attribute(" not in str(caught.value)
    assert field.name in str(caught.value) or "expected a list of strings, got an object" in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, None, "1"], ids=repr)
@pytest.mark.parametrize("name", ["start_timeout", "stop_grace", "request_window", "max_line_bytes"])
def test_a_bound_is_a_positive_number(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} "):
        CodexConfig(**{name: value})


@pytest.mark.parametrize(
    "method",
    [
        "thread_resume", "thread_fork", "thread_read", "thread_archive", "thread_unarchive", "thread_delete",
        "thread_turns", "thread_items",
    ],
)  # fmt: skip
async def test_a_handle_in_place_of_a_thread_id_is_refused_with_a_hint(method):
    async with fake_codex() as (codex, server):
        thread = await codex.thread_start()
        with pytest.raises(TypeError, match=r"thread_id expects a str, got a Thread: .*thread\.id"):
            await getattr(codex, method)(thread)
        assert server.unexpected() == []


async def test_a_method_a_nursery_and_a_stream_of_the_wrong_type_are_refused():
    async with fake_codex() as (codex, _):
        with pytest.raises(TypeError, match="method expects a str, got None"):
            await codex.request(None)
    with pytest.raises(TypeError, match="nursery expects a Nursery, got None"):
        await connect_codex(None, None)
    async with trio.open_nursery() as nursery:
        with pytest.raises(TypeError, match="stream expects a Stream, got a str"):
            await connect_codex(nursery, "unix://codex.sock")


@pytest.mark.parametrize("problem", ["environment", "descriptors"])
async def test_a_connection_that_cannot_be_started_leaves_no_task_in_the_nursery(problem, monkeypatch):
    def fail():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    config, expected = ClientConfig(), OSError
    if problem == "environment":
        config, expected = CodexConfig(env={"A": "\udcff"}), ValueError
    else:
        monkeypatch.setattr("trio_codex._api.loading.load", fail)
    client_end, _ = trio.testing.memory_stream_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            with pytest.raises(expected):
                await connect_codex(nursery, client_end, config=config)


# -- policies ------------------------------------------------------------------------------------------------------


async def coroutine():
    await trio.lowlevel.checkpoint()


class Desk:
    async def __call__(self, request):
        return await allow(request)

    async def decide(self, request):
        return await allow(request)


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@pytest.mark.parametrize("kind", ["command", "file_change", "user_input", "current_time"])
@pytest.mark.parametrize(
    ("callback", "told"),
    [
        (allow_commands("ls"), r"got a Policy: .* combine several with first_of\(…, Policy\({kind}=…\)\)"),
        (accept(), r"got an Accept: write an async function that returns Accept\(…\)"),
        (policies.abstain(), r"got an Abstain: write an async function that returns Abstain\(…\)"),
        (lambda _: accept(), r"got the function <lambda>: write async def {kind}\(request\): …"),
        (accept, "got the function accept: write async def"),
        (Desk, "got the class Desk: write async def"),
        (True, "got a bool: write async def"),
        ("accept", "got a str: write async def"),
    ],
)
def test_a_callback_that_is_not_an_async_function_is_refused_by_the_policy(kind, callback, told):
    with pytest.raises(
        TypeError, match=rf"Policy\({kind}=…\) expects an async function, {told}".format(kind=kind)
    ):
        Policy(**{kind: callback})


def test_a_coroutine_in_place_of_a_callback_is_refused_with_a_hint():
    called = coroutine()
    with pytest.raises(TypeError, match="got a coroutine: pass the function itself, without calling it"):
        Policy(command=called)
    called.close()


@pytest.mark.parametrize(
    "callback",
    [
        allow,
        Desk(),
        Desk().decide,
        functools.partial(allow),
        functools.partial(Desk()),
        decorated(allow),
        decorated(functools.partial(allow)),
        AsyncMock(return_value=accept()),
    ],
    ids=["function", "object", "method", "partial", "partial object", "decorated", "both", "mock"],
)
async def test_any_callable_that_returns_a_coroutine_can_be_a_callback(callback):
    assert await Policy(command=callback).command(None) == accept()


@pytest.mark.parametrize("make", [first_of, logged, lambda given: with_timeout(given, 1)])
@pytest.mark.parametrize(
    "given", [allow, [allow_commands("ls")], accept()], ids=["function", "list", "decision"]
)
def test_policies_can_be_combined_only_with_policies(make, given):
    with pytest.raises(TypeError, match=POLICY):
        make(given)


# -- results that are read too early
# ----------------------------------------------------------------------------------------


def test_reading_a_result_too_early_raises_with_the_advice_to_wait():
    turn = errors.TurnActive("thread-1", "turn-1", "turn")
    assert str(turn).endswith(
        "so it has no result yet; await turn.wait() first, or read the result after its scope"
    )
    assert "await goal.wait() first" in str(errors.TurnActive("thread-1", None, "goal"))
    assert "has an open turn (turn-1); wait for it to end" in str(errors.TurnActive("thread-1", "turn-1"))


async def test_a_stream_without_an_ndjson_server_is_refused_with_a_hint():
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        await theirs.send_eof()
        with pytest.raises(errors.StartError) as caught:
            await connect_codex(nursery, ours)
    assert "attach_codex()" in caught.value.hint
    assert "attach_codex()" in str(caught.value)
