"""Starting and closing a client: start errors are typed and have a hint, and nothing is left."""

import asyncio
import copy
import json
import os
import signal
import stat
import sys
import time
from urllib.parse import quote, urlencode

import pytest
import trio
import trio.testing

from prepared_homes import write_new_home
from trio_codex import CodexConfig, connect_codex, errors, open_codex
from trio_codex._core.secrets import MIN_REST_LENGTH, Secrets
from trio_codex._process.stderr import TAIL_BYTES
from trio_codex.binary import find_binary
from trio_codex.instruments import Instrument
from trio_codex.testing import FakeServer, MockModel, fake_codex, offline_home

PYTHON = sys.executable


def fake(script, **options):
    """Configure a server that is this Python program."""
    return CodexConfig(launch_args_override=[PYTHON, "-u", "-c", script], inherit_env=True, **options)


async def fails_to_start(config):
    with trio.fail_after(10):
        with pytest.raises(errors.StartError) as caught:
            async with open_codex(config):
                pytest.fail("the body must not run")
    return caught.value


async def test_no_binary_at_all(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "codex_cli_bin", None)
    error = await fails_to_start(CodexConfig(env={"PATH": str(tmp_path)}))
    assert type(error) is errors.SpawnError
    assert error.phase == "find"
    assert "[runtime]'" in error.hint


async def test_a_wrong_path(tmp_path):
    error = await fails_to_start(CodexConfig(codex_bin=tmp_path / "nowhere"))
    assert type(error) is errors.SpawnError
    assert error.phase == "find"
    assert error.hint


async def test_a_file_that_is_not_a_program(tmp_path):
    text = tmp_path / "codex"
    text.write_bytes(b"\x00\x01 no program")
    text.chmod(text.stat().st_mode | stat.S_IXUSR)
    error = await fails_to_start(CodexConfig(codex_bin=text))
    assert type(error) is errors.SpawnError
    assert error.phase == "spawn"
    assert error.binary == str(text)


async def test_a_binary_that_exits_immediately():
    error = await fails_to_start(fake("import sys; print('out of order', file=sys.stderr); sys.exit(7)"))
    assert type(error) is errors.StartError
    assert error.phase == "handshake"
    assert error.returncode == 7
    assert "out of order" in error.stderr_tail
    assert error.hint


async def test_a_binary_that_hangs():
    error = await fails_to_start(fake("import time; time.sleep(99)", start_timeout=0.5, stop_grace=0.2))
    assert type(error) is errors.StartTimeout
    assert "0.5 s" in str(error)


async def test_a_start_may_use_the_whole_start_timeout_whatever_the_request_timeout():
    hanging = fake("import time; time.sleep(99)", start_timeout=0.5, request_timeout=0.05, stop_grace=0.2)
    error = await fails_to_start(hanging)
    assert type(error) is errors.StartTimeout
    assert "0.5 s" in str(error)


async def test_a_failed_start_does_not_wait_for_the_stop_grace():
    start = trio.current_time()
    await fails_to_start(fake("import time; time.sleep(99)", start_timeout=0.2, stop_grace=60))
    assert trio.current_time() - start < 5


async def test_a_start_that_times_out_waiting_for_another_on_the_same_home_says_so(tmp_path):
    hanging = fake("import time; time.sleep(99)", start_timeout=3, codex_home=tmp_path)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_to_start, hanging)
            await trio.testing.wait_all_tasks_blocked(0.2)
            waiting = fake("print('never run')", start_timeout=0.3, codex_home=tmp_path)
            error = await fails_to_start(waiting)
            nursery.cancel_scope.cancel()
    assert "another first start on the same CODEX_HOME" in error.problem


async def test_a_binary_that_prints_junk():
    script = "print('hello'); print('\\x1b[0m'); print('[1]'); import time; time.sleep(99)"
    error = await fails_to_start(fake(script, start_timeout=0.5, stop_grace=0.2))
    assert type(error) is errors.StartTimeout
    assert "3 lines that are not JSON-RPC messages" in error.problem


async def test_a_server_that_refuses_the_handshake():
    script = 'input(); print(\'{"id":1,"error":{"code":-32600,"message":"not you"}}\'); input()'
    error = await fails_to_start(fake(script, stop_grace=0.5))
    assert type(error) is errors.StartError
    assert "not you" in error.problem
    assert isinstance(error.__cause__, errors.InvalidRequestError)


async def test_a_handshake_answered_with_nonsense():
    script = 'input(); print(\'{"id":1,"result":{"userAgent":5}}\'); input()'
    error = await fails_to_start(fake(script, stop_grace=0.5))
    assert isinstance(error.__cause__, errors.DecodeError)


@pytest.mark.real
async def test_a_codex_home_that_does_not_exist(tmp_path):
    error = await fails_to_start(CodexConfig(codex_home=tmp_path / "nowhere"))
    assert error.returncode == 1
    assert "codex_home" in error.hint
    assert error.version == find_binary().version


@pytest.mark.real
async def test_a_codex_home_that_cannot_be_written():
    error = await fails_to_start(CodexConfig(codex_home="/proc"))  # not even by root
    assert error.returncode == 1
    assert "write" in error.hint
    assert "codex_home" in error.hint


@pytest.mark.real
async def test_a_broken_configuration_fails_the_first_thread():
    with trio.fail_after(10):
        async with MockModel() as model:
            with offline_home(model) as home:
                (home.codex_home / "config.toml").write_text("this is = = no TOML")
                config = CodexConfig(env=home.env, inherit_env=False)
                async with open_codex(config) as codex:
                    async with codex.events("configWarning") as warnings:
                        assert "Invalid configuration" in (await warnings.__anext__()).params.summary
                    with pytest.raises(errors.InvalidRequestError, match="configuration"):
                        await codex.thread_start()


async def test_values_of_the_configured_environment_are_not_shown():
    secret = "s3cret-s3cret"
    script = "import os, sys; print('key is', os.environ['API_KEY'], file=sys.stderr); sys.exit(1)"
    config = fake(script, env={"API_KEY": secret})
    assert secret not in repr(config)
    error = await fails_to_start(config)
    assert "key is <API_KEY>" in error.stderr_tail
    assert secret not in str(error) + repr(error)


async def test_values_of_the_configured_environment_are_not_shown_in_refusals():
    secret, longer = "s3cret-s3cret", "s3cret-s3cret-and-more"
    config = CodexConfig(env={"API_KEY": secret, "OTHER": longer, "HOME": "/home/somebody", "SHORT": "key"})
    told = []

    class Listener(Instrument):
        def request_ended(self, request):
            told.append(request.error)

    with trio.fail_after(5):
        async with (
            fake_codex(config, instruments=[Listener()]) as (codex, server),
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def _():
                asked = await server.expect("model/list")
                data = {"why": [f"not {secret}", {longer: None, "n": 1}]}
                await asked.refuse(f"the key {longer}, or {secret}, of /home/somebody is refused", data=data)

            server.take_over("model/list")
            with pytest.raises(errors.InvalidRequestError) as caught:
                await codex.request("model/list", {})
    error = caught.value
    assert error.message == "the key <OTHER>, or <API_KEY>, of /home/somebody is refused"
    assert error.data == {"why": ["not <API_KEY>", {"<OTHER>": None, "n": 1}]}
    for shown in (error, copy.copy(error), told[-1]):
        assert secret not in str(shown) + repr(shown) + repr(shown.args)


ODD_SECRETS = (
    '{"key": "sesame\n"}',
    "-----BEGIN-----\r\nsesame\r\n-----END-----\r\n",
    "sesame/+=&? #<>",
    "sésame same \U0001f600",
    'sesame\\"\t\x00\x1b',
    "\udcffsesame",
)


@pytest.mark.parametrize("value", ODD_SECRETS)
@pytest.mark.parametrize(
    "form",
    [
        str,
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        lambda value: quote(value, safe="", errors="surrogatepass"),
        lambda value: quote(value, errors="surrogatepass"),
        lambda value: urlencode({"key": value}, errors="surrogatepass"),
        lambda value: value.translate(dict.fromkeys((*range(9), *range(11, 32)))),
    ],
)
def test_a_value_is_redacted_even_inside_json_or_a_url(value, form):
    assert "same" not in Secrets({"KEY": value}).hide(form(value))


async def test_a_value_is_redacted_in_stderr_although_its_control_characters_are_removed():
    value = "-----BEGIN-----\r\nsesame\r\n-----END-----"
    script = "import os, sys; print(os.environ['PEM'], repr(os.environ['PEM']), file=sys.stderr); sys.exit(1)"
    error = await fails_to_start(fake(script, env={"PEM": value}))
    assert error.stderr_tail.strip() == "<PEM> '<PEM>'"


@pytest.mark.parametrize(
    ("name", "value", "is_redacted"),
    [
        ("DB_PASSWORD", "hunter2", True),
        ("PIN", "4711", True),
        ("PIN", "471", False),
        ("TOKENIZERS_PARALLELISM", "true", False),
        ("AUTH_CACHE", "None", False),
        ("DEBUG", "verbose", False),
        ("DEBUG", "verbose1", True),
        ("ODD", "\0" * 8, True),
    ],
)
def test_short_values_are_redacted_if_their_name_says_that_they_are_secrets(name, value, is_redacted):
    text = f"a {value} b"
    assert Secrets({name: value}).hide(text) == (f"a <{name}> b" if is_redacted else text)


def test_error_data_nested_too_deeply_is_omitted():
    data = []
    for _ in range(100_000):
        data = [data]
    secrets = Secrets({"KEY": "s3cret-key"})
    error = secrets.hide_in_error(errors.InvalidParamsError(-32602, "no s3cret-key", data, "m"))
    assert (type(error), error.message, error.data) == (errors.InvalidParamsError, "no <KEY>", None)


async def test_redacting_a_value_that_is_a_prefix_of_another_redacts_both():
    script = "import os, sys; print('key is', os.environ['LONG_KEY'], file=sys.stderr); sys.exit(1)"
    for env in (
        {"KEY": "s3cret-1", "LONG_KEY": "s3cret-1-and-more"},
        {"LONG_KEY": "s3cret-1-and-more", "KEY": "s3cret-1"},
    ):
        error = await fails_to_start(fake(script, env=env))
        assert "key is <LONG_KEY>" in error.stderr_tail
        assert "and-more" not in error.stderr_tail


async def test_a_truncated_environment_value_is_redacted_too():
    value = "".join(f"{number:04}" for number in range(500))
    # The tail of stderr begins in the middle of the value.
    script = (
        f"import os, sys; print(os.environ['KEY'] + 'x' * {TAIL_BYTES - 1001}, file=sys.stderr); sys.exit(1)"
    )
    error = await fails_to_start(fake(script, env={"KEY": value}))
    assert error.stderr_tail.startswith("<KEY>xxx")


@pytest.mark.parametrize("length", range(2, 40))
def test_the_longest_suffix_of_a_value_is_redacted_wherever_the_text_was_cut(length):
    value = "abcabc" * 6 + "abab"
    left = Secrets({"KEY": value}).hide_in_tail(value[-length:] + " and more")
    assert left == (value[-length:] if length < MIN_REST_LENGTH else "<KEY>") + " and more"


def test_redaction_takes_linear_time_in_the_length_of_a_value():
    """Use values for which comparing each suffix would take 10 s."""
    secrets = Secrets({f"CONTEXT_{digit}": f"{digit}" * 200_000 for digit in range(8)})
    began = time.process_time()
    assert secrets.hide_in_tail("7" * 4000 + "x") == "<CONTEXT_7>x"
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "option",
    [{"request_window": 0}, {"stop_grace": -1}, {"on_stuck_turn": "hope"}, {"config_overrides": ["novalue"]}],
    ids=repr,
)
def test_an_invalid_option_is_refused_immediately(option):
    with pytest.raises(ValueError, match=next(iter(option)).replace("config_overrides", "key=value")):
        CodexConfig(**option)


@pytest.mark.parametrize(
    "option", ["launch_args_override", "config_overrides", "inherit_env", "opt_out_notifications"]
)
def test_a_bare_string_is_rejected_where_a_list_is_expected(option):
    with pytest.raises(TypeError, match="expected a list of strings"):
        CodexConfig(**{option: "a=b"})


def test_given_variables_override_inherited_ones(monkeypatch):
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("DROPPED", "dropped")
    assert CodexConfig(inherit_env=["KEPT", "ABSENT"]).environment() == {"KEPT": "kept"}
    config = CodexConfig(env={"DROPPED": None, "NEW": "new"}, codex_home="/home")
    environment = config.environment()
    assert "DROPPED" not in environment
    assert (environment["KEPT"], environment["NEW"], environment["CODEX_HOME"]) == ("kept", "new", "/home")
    assert CodexConfig(inherit_env=False, env={"ONLY": "this"}).environment() == {"ONLY": "this"}


# -- shutdown ----------------------------------------------------------------------------------------------------

ANSWERS = """
import json, os, signal, sys, time
def answer(line):
    message = json.loads(line)
    if message["method"] == "initialize":
        print(json.dumps({"id": message["id"], "result": {"userAgent": "fake/0.0.1", "codexHome": "/",
            "platformFamily": "unix", "platformOs": "linux"}}), flush=True)
        return True
    return False
"""


@pytest.mark.parametrize(
    ("script", "grace"),
    [
        pytest.param("for line in sys.stdin: answer(line)", 5, id="exits on EOF"),
        pytest.param("for line in sys.stdin: answer(line)\ntime.sleep(99)", 0.4, id="ignores EOF"),
        pytest.param(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nfor line in sys.stdin: answer(line)\ntime.sleep(99)",
            0.4,
            id="ignores EOF and SIGTERM",
        ),
        pytest.param("answer(input())\nos.kill(os.getpid(), signal.SIGSTOP)", 0.4, id="is stopped"),
        pytest.param("answer(input())\ntime.sleep(99)", 0.4, id="stops reading"),
        pytest.param(
            'answer(input())\nwhile True: print(\'{"method":"flood","params":{}}\')', 0.4, id="floods stdout"
        ),
        pytest.param("answer(input())\nwhile True: os.write(2, b'x' * 65536)", 0.4, id="floods stderr"),
    ],
)
async def test_leaving_the_scope_ends_a_server_that(script, grace):
    config = fake(ANSWERS + script, stop_grace=grace)
    with trio.fail_after(10):
        async with open_codex(config) as codex:
            pid = codex.pid
            assert pid is not None
        assert f"{pid}" not in os.listdir("/proc")


RECORD = "2026-11-30T16:07:02.152222Z ERROR codex_app_server: Codex could not find bubblewrap on PATH."
"""A warning that the server logs soon after its start if bubblewrap is missing. It continues without bubblewrap."""


@pytest.mark.parametrize(
    ("recent", "end", "shown"),
    [
        (0, "os.kill(os.getpid(), 9)", ""),
        (0, "os._exit(3)", ""),
        (60, "os.kill(os.getpid(), 9)", "a line\n"),
        (60, "os._exit(3)", f"{RECORD}\na line\n"),
    ],
)
async def test_an_old_warning_is_not_reported_as_the_cause_of_an_exit(monkeypatch, recent, end, shown):
    monkeypatch.setattr("trio_codex._process.stderr.RECENT_SECONDS", recent)
    script = ANSWERS + (
        f"print('{RECORD}', 'a line', sep='\\n', file=sys.stderr, flush=True); answer(input()); input(); input(); {end}"
    )
    with trio.fail_after(10):
        async with open_codex(fake(script)) as codex:
            with pytest.raises(errors.ServerExited) as caught:
                await codex.request("thread/list")
    assert caught.value.stderr_tail == shown


async def test_a_log_record_is_not_reported_as_the_cause_of_a_hanging_start():
    script = f"import sys, time; print('{RECORD}', 'Password:', sep='\\n', file=sys.stderr); time.sleep(99)"
    error = await fails_to_start(fake(script, start_timeout=0.5, stop_grace=0.2))
    assert type(error) is errors.StartTimeout
    assert error.stderr_tail == "Password:\n"


async def test_an_old_warning_is_not_reported_as_the_cause_of_a_broken_connection(monkeypatch):
    monkeypatch.setattr("trio_codex._process.stderr.RECENT_SECONDS", 0)
    script = ANSWERS + (
        f"print('{RECORD}', file=sys.stderr, flush=True); answer(input()); input(); input(); os.close(1); time.sleep(99)"
    )
    with trio.fail_after(10):
        async with open_codex(fake(script, stop_grace=0.2)) as codex:
            with pytest.raises(errors.ConnectionBroken) as caught:
                await codex.request("thread/list")
    assert (type(caught.value), caught.value.stderr_tail) == (errors.ConnectionBroken, "")


def test_opening_a_client_under_asyncio_raises_with_a_hint():
    async def start(function, *args):
        entered = function(*args)
        await (entered.__aenter__() if function is open_codex else entered)

    for function, args in ((open_codex, ()), (connect_codex, (None, None))):
        with pytest.raises(
            RuntimeError,
            match=r"needs Trio: .*trio_codex\.blocking in a script .*trio_codex\.aio under asyncio",
        ):
            asyncio.run(start(function, *args))


async def test_the_death_of_the_server_fails_waiting_calls_within_a_second_and_later_ones_immediately():
    script = (
        ANSWERS
        + "answer(input()); input(); input(); print('last words', file=sys.stderr, flush=True); os._exit(3)"
    )
    with trio.fail_after(10):
        async with open_codex(fake(script)) as codex:
            with pytest.raises(errors.ServerExited) as caught:
                await codex.request("thread/list")
            assert caught.value.returncode == 3
            assert "last words" in caught.value.stderr_tail
            with pytest.raises(errors.ServerExited) as later:
                await codex.request("thread/list")
            assert later.value is not caught.value
            assert later.value.args == caught.value.args


async def test_a_server_that_dies_while_another_process_holds_its_stdout_is_noticed():
    script = (
        ANSWERS + "answer(input())\nimport subprocess\n"
        "subprocess.Popen(['sleep', '99'], start_new_session=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    with trio.fail_after(10):
        async with open_codex(fake(script)) as codex:
            error = await codex.wait_closed()
            assert isinstance(error, errors.ServerExited)
            assert error.returncode == -signal.SIGKILL


async def test_a_server_that_closes_only_stdout_breaks_the_connection():
    script = ANSWERS + "answer(input())\nos.close(1)\ntime.sleep(99)"
    with trio.fail_after(10):
        async with open_codex(fake(script, stop_grace=0.3)) as codex:
            error = await codex.wait_closed()
            assert type(error) is errors.ConnectionBroken
            assert error.pid == codex.pid


async def test_exceptions_from_the_body_propagate_unchanged_and_cancellation_is_not_swallowed():
    script = ANSWERS + "for line in sys.stdin: answer(line)"
    error = ValueError("mine")
    with trio.fail_after(10):
        with pytest.raises(ValueError, match="mine") as caught:
            async with open_codex(fake(script)):
                raise error
        assert caught.value is error
        assert caught.value.__context__ is None
        with trio.CancelScope() as scope:
            async with open_codex(fake(script)):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


def test_ctrl_c_raises_keyboard_interrupt_and_ends_the_server():
    pids = []

    @trio.lowlevel.enable_ki_protection
    def press_ctrl_c():
        signal.raise_signal(signal.SIGINT)

    async def main():
        async with open_codex(fake(ANSWERS + "for line in sys.stdin: answer(line)")) as codex:
            pids.append(codex.pid)
            press_ctrl_c()
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt) as caught:
        trio.run(main)
    assert caught.value.__context__ is None
    assert f"{pids[0]}" not in os.listdir("/proc")


def test_ctrl_c_while_closing_a_client_over_a_stream_is_raised_in_the_main_task():
    steps = []

    class PressCtrlC(Instrument):
        def connection_ended(self, connection, error):
            signal.raise_signal(signal.SIGINT)

    async def session(ours, closed):
        async with trio.open_nursery() as nursery:
            codex = await connect_codex(nursery, ours, instruments=[PressCtrlC()])
            nursery.cancel_scope.cancel()
        steps.append(type(await codex.wait_closed()))
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"x")
        closed.set()

    async def main():
        ours, theirs = trio.testing.memory_stream_pair()
        closed = trio.Event()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(FakeServer(theirs).serve)
                nursery.start_soon(session, ours, closed)
                with pytest.raises(KeyboardInterrupt):
                    await trio.sleep_forever()
                await closed.wait()

    trio.run(main)
    assert steps == [errors.ConnectionClosed]


def test_ctrl_c_while_a_client_ends_its_open_turns_is_raised_after_the_whole_close_sequence():
    ended = []

    class PressCtrlC(Instrument):
        def request_queued(self, request):
            if request.method == "turn/interrupt":
                signal.raise_signal(signal.SIGINT)

        def connection_ended(self, connection, error):
            ended.append(type(error))

    async def serve_turn(server):
        await server.accept_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")

    async def main():
        with trio.fail_after(5):
            async with (
                fake_codex(instruments=[PressCtrlC()]) as (codex, server),
                trio.open_nursery() as nursery,
            ):
                thread = await codex.thread_start()
                nursery.start_soon(serve_turn, server)
                async with thread.turn("hi"):
                    try:
                        await codex.aclose()
                    except KeyboardInterrupt:
                        ended.append("interrupted")

    trio.run(main)
    assert ended == [errors.ConnectionClosed, "interrupted"]


async def test_a_client_closed_early_refuses_further_requests():
    script = ANSWERS + "for line in sys.stdin: answer(line)"
    with trio.fail_after(10):
        async with open_codex(fake(script)) as codex:
            await codex.aclose()
            await codex.aclose()
            with pytest.raises(errors.ConnectionClosed):
                await codex.request("thread/list")
            assert isinstance(await codex.wait_closed(), errors.ConnectionClosed)


@pytest.mark.real
async def test_sixteen_concurrent_first_starts_on_one_new_home_all_succeed(tmp_path):
    versions = []
    with trio.fail_after(30):
        async with MockModel() as model:
            config = CodexConfig(env=write_new_home(tmp_path, model).env, inherit_env=False)

            async def start():
                async with open_codex(config) as codex:
                    versions.append(codex.metadata.server_version)

            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(start)
    assert versions == [find_binary().version] * 16
