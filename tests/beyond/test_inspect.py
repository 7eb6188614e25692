"""Codex as an agent in the real Inspect: scores, logs, and limits that end turns on the server."""

import base64
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
import trio
from shards import SECONDS

from trio_codex import open_codex
from trio_codex.binary import find_binary

os.environ["INSPECT_ASYNC_BACKEND"] = "trio"
os.environ["INSPECT_DISPLAY"] = "none"
inspect_ai = pytest.importorskip("inspect_ai")

from inspect_ai import Task, eval, eval_async  # noqa: A004, E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
)
from inspect_ai.scorer import includes, match  # noqa: E402
from inspect_ai.tool import ToolCall  # noqa: E402
from inspect_ai.util import ExecResult, SandboxConnection, SandboxEnvironment, sandboxenv  # noqa: E402

from trio_codex.inspect import codex_agent  # noqa: E402

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""An image of one pixel."""

PROGRAM = str(Path(__file__).with_name("inspect_program.py"))

pytestmark = pytest.mark.filterwarnings("ignore")  # from Inspect itself


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Skip the check because Inspect keeps threads. The tests themselves check that servers end."""
    return


def sample(verb, number, **options):
    return Sample(input=f"{verb} t{number}", target=f"did t{number}", id=f"t{number}", **options)


def run(offline, tmp_path, samples, *, epochs=1, agent=None, **options):
    task = Task(dataset=samples, solver=agent or codex_agent(offline.config), scorer=match(), epochs=epochs)
    (log,) = eval(task, model="mockllm/model", log_dir=str(tmp_path / "logs"), **options)
    return log


def ends(log):
    """Return for each sample whether it was correct, and the limit that ended it."""
    return {
        each.id: (each.scores["match"].value, each.limit and each.limit.type) for each in log.samples or ()
    }


def test_each_sample_and_epoch_is_scored_in_its_own_thread(offline, tmp_path):
    log = run(offline, tmp_path, [sample("do", 0), sample("run", 1), sample("do", 2)], epochs=2)
    assert log.status == "success", log.error
    assert ends(log) == {"t0": ("C", None), "t1": ("I", None), "t2": ("C", None)}
    assert log.results.scores[0].metrics["accuracy"].value == pytest.approx(2 / 3)
    assert len({each.store["codex_thread_id"] for each in log.samples}) == 6
    assert offline.counts() == {"do t0": 2, "run t1": 2, "do t2": 2}


def test_the_log_contains_messages_tool_calls_and_usage(offline, tmp_path):
    log = run(offline, tmp_path, [sample("run", 1)])
    (found,) = json.loads(Path(write_json(log, tmp_path)).read_text())["samples"]
    roles = [message["role"] for message in found["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]
    _, called, result, said = found["messages"]
    (call,) = called["tool_calls"]
    assert call["function"] == "exec_command"
    assert "echo ran t1" in call["arguments"]["command"]
    assert (result["tool_call_id"], result["content"]) == (call["id"], "ran t1\nexit status 3")
    assert said["content"] == found["output"]["choices"][0]["message"]["content"] == "ran t1"
    usage = found["model_usage"]["codex/mock-model"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (20, 10, 30)
    assert log.stats.model_usage["codex/mock-model"].total_tokens == 30
    events = [event for event in found["events"] if event["event"] == "model"]
    assert [event["output"]["usage"]["total_tokens"] for event in events] == [15, 15]
    (info,) = [event for event in found["events"] if event["event"] == "info" and event["source"] == "codex"]
    assert info["data"]["status"] == "completed"
    assert info["data"]["thread_id"] == found["store"]["codex_thread_id"]


def write_json(log, tmp_path):
    path = str(tmp_path / "log.json")
    inspect_ai.log.write_eval_log(log, path, format="json")
    return path


def test_limits_end_the_turn_on_the_server_and_its_output_so_far_is_scored(offline, tmp_path):
    began = time.monotonic()
    log = run(offline, tmp_path, [sample("sleep", 0)], time_limit=8)
    assert time.monotonic() - began < SECONDS
    assert ends(log) == {"t0": ("I", "time")}
    assert offline.statuses() == {"turn_aborted": 1}
    (found,) = log.samples
    assert found.messages[-1].tool_calls[0].function == "exec_command"
    # The transcript has the response, too, and its tokens count.
    (event,) = [event for event in found.events if event.event == "model"]
    assert event.output.message.tool_calls == found.messages[-1].tool_calls
    assert found.model_usage["codex/mock-model"].total_tokens == 15
    assert not running("sleep 1000 # t0")


def running(command):
    return [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if command.encode() in read(path) and path.parent.name != str(os.getpid())
    ]


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("limits", "kind"), [({"token_limit": 14}, "token"), ({"message_limit": 1}, "message")]
)
def test_token_and_message_limits_end_the_turn_when_exceeded(offline, tmp_path, limits, kind):
    log = run(offline, tmp_path, [sample("ponder", 0)], **limits)
    assert ends(log) == {"t0": ("I", kind)}
    assert offline.statuses() == {"turn_aborted": 1}
    # A response that exceeds the token limit is still added to the messages, and so is the result of its call if the
    # server has reported it before the usage.
    roles = [message.role for message in log.samples[0].messages]
    possible = {"token": (["user", "assistant"], ["user", "assistant", "tool"]), "message": (["user"],)}
    assert roles in possible[kind]


def test_a_failed_turn_is_an_error_of_its_sample(offline, tmp_path):
    log = run(offline, tmp_path, [sample("refuse", 0), sample("do", 1)], fail_on_error=False)
    errors = {each.id: each.error and each.error.message for each in log.samples}
    assert errors["t1"] is None
    # Inspect shows the attribute message of an exception, or else its repr.
    assert json.loads(errors["t0"])["error"]["message"] == "the mock model was scripted to fail"


def test_the_messages_of_a_sample_become_instructions_history_and_prompt(offline, tmp_path):
    picture = tmp_path / "dot.png"
    picture.write_bytes(base64.b64decode(DOT))
    messages = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content="What is there?"),
        ChatMessageAssistant(
            content="Let me see.", tool_calls=[ToolCall(id="c1", function="list", arguments={"path": "."})]
        ),
        ChatMessageTool(content="dot.png", tool_call_id="c1", function="list"),
        ChatMessageUser(content=[ContentText(text="do t0"), ContentImage(image=str(picture))]),
    ]
    run(offline, tmp_path, [Sample(input=messages, target="did t0", id="t0")])
    (asked,) = offline.requests()
    texts = [
        (item["role"], part.get("text") or part.get("image_url"))
        for item in asked["input"]
        if item["type"] == "message"
        for part in item["content"]
    ]
    assert any(role == "developer" and "Be brief." in text for role, text in texts)
    mine = {"What is there?", "Let me see.", "do t0", f"data:image/png;base64,{DOT}"}
    assert [pair for pair in texts if pair[1] in mine] == [
        ("user", "What is there?"),
        ("assistant", "Let me see."),
        ("user", "do t0"),
        ("user", f"data:image/png;base64,{DOT}"),
    ]
    call, output = [item for item in asked["input"] if item["type"].startswith("function_call")]
    assert (call["name"], json.loads(call["arguments"])) == ("list", {"path": "."})
    assert (output["call_id"], output["output"]) == (call["call_id"], "dot.png")


def test_a_sample_without_a_prompt_is_refused(offline, tmp_path):
    messages = [ChatMessageUser(content="hi"), ChatMessageAssistant(content="hello")]
    log = run(offline, tmp_path, [Sample(input=messages, target="x")], fail_on_error=False)
    assert "is not from the user" in log.samples[0].error.message


def test_under_asyncio_the_error_names_the_setting(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("INSPECT_ASYNC_BACKEND", "asyncio")
    log = run(offline, tmp_path, [sample("do", 0)])
    assert log.status == "error"
    assert "set INSPECT_ASYNC_BACKEND=trio" in log.error.message
    assert offline.counts() == {}


def test_the_agent_works_in_the_directory_of_the_local_sandbox(offline, tmp_path):
    task = Task(
        dataset=[
            Sample(
                input="show t0", target="hello from the sample", files={"note.txt": "hello from the sample"}
            )
        ],
        solver=codex_agent(offline.config),
        scorer=includes(),
        sandbox="local",
    )
    (log,) = eval(task, model="mockllm/model", log_dir=str(tmp_path / "logs"))
    (found,) = log.samples
    assert found.messages[2].content == "hello from the sample"


def test_a_killed_eval_set_resumes_with_the_remaining_samples(offline, tmp_path):
    # Earlier evaluations in this process have set environment variables.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INSPECT")}
    arguments = [json.dumps(dict(offline.home.env)), str(offline.home.workspace), str(tmp_path / "logs")]
    command = [sys.executable, PROGRAM, *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            offline.wait_for("stall t2")
            # Inspect writes each sample to disk when it ends.
            limit = time.monotonic() + SECONDS
            while len(samples_on_disk(tmp_path / "logs")) < 2:
                assert time.monotonic() < limit
                time.sleep(0.1)
        finally:
            process.kill()
    offline.wait_until_dropped("stall t2")
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=2 * SECONDS)
    assert done.stdout.splitlines()[-1] == b"True success 3 1.0", done.stderr
    assert offline.counts() == {"do t0": 1, "do t1": 1, "stall t2": 2}


def samples_on_disk(directory):
    found = []
    for path in directory.glob("*.eval"):
        try:
            found += inspect_ai.log.read_eval_log_sample_summaries(str(path))
        except (ValueError, OSError, KeyError, EOFError):
            continue
    return [each for each in found if each.completed]


def test_samples_can_share_a_client_of_the_same_trio_run(offline, tmp_path):
    async def main():
        async with open_codex(offline.config) as codex:
            task = Task(
                dataset=[sample("do", 0), sample("do", 1)], solver=codex_agent(codex=codex), scorer=match()
            )
            (log,) = await eval_async(task, model="mockllm/model", log_dir=str(tmp_path / "logs"))
            return log, len([thread async for thread in codex.threads()])

    log, threads = trio.run(main)
    assert ends(log) == {"t0": ("C", None), "t1": ("C", None)}
    assert threads == 2
    with pytest.raises(ValueError, match="do not pass others"):
        codex_agent(offline.config, codex=object())


def test_the_example_scores_the_files_that_the_agent_writes(offline, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "beyond"))
    task = importlib.import_module("inspect_task").repair(offline.config)
    (log,) = eval(task, model="mockllm/model", log_dir=str(tmp_path / "logs"))
    assert log.status == "success", log.error
    (found,) = log.samples
    assert (found.scores["passes"].value, found.scores["passes"].answer) == (1.0, "Fixed.")


def test_in_a_docker_sandbox_the_server_runs_in_the_container(offline, tmp_path, monkeypatch):
    record = tmp_path / "arguments"
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f'#!/bin/sh\necho "$@" > {record}\nwhile [ "$1" != box-1 ]; do shift; done\nshift\nexec "$@"\n'
    )
    docker.chmod(0o755)
    path = f"{docker.parent}:{offline.home.env['PATH']}"
    monkeypatch.setenv("PATH", path)

    @sandboxenv(name="boxed")
    class Boxed(SandboxEnvironment):
        @classmethod
        async def sample_init(cls, task_name, config, metadata):
            return {"default": cls()}

        @classmethod
        async def sample_cleanup(cls, task_name, config, environments, interrupted):
            return

        async def exec(self, cmd, *args, **options):
            return ExecResult(True, 0, f"{offline.home.workspace}\n", "")

        async def write_file(self, file, contents):
            raise NotImplementedError

        async def read_file(self, file, text=True):
            raise NotImplementedError

        async def connection(self, *, user=None):
            return SandboxConnection(type="boxed", command="docker exec -it box-1 bash", container="box-1")

    config = attrs.evolve(
        offline.config, env={**offline.home.env, "PATH": path}, codex_bin=find_binary().path
    )
    task = Task(dataset=[sample("do", 0)], solver=codex_agent(config), scorer=match(), sandbox="boxed")
    (log,) = eval(task, model="mockllm/model", log_dir=str(tmp_path / "logs"))
    assert log.status == "success", log.error
    assert ends(log) == {"t0": ("C", None)}
    arguments = record.read_text().split()
    assert arguments[:3] == ["exec", "--interactive", "--workdir"]
    assert "CODEX_HOME" in arguments
    assert arguments[-2:] == [str(config.codex_bin), "app-server"]
