"""Tasks, and the files they are read from."""

from contextlib import asynccontextmanager

import pytest
import trio

from trio_codex import Budget, TurnResult, TurnStatus, errors
from trio_codex.batch import BatchBudget, EmptyDirectory, Retry, Task, open_batch, read_tasks
from trio_codex.batch._context import TaskThread


def test_tasks_are_read_from_json_lines(tmp_path):
    file = tmp_path / "tasks.jsonl"
    file.write_text(
        '{"id": "a", "prompt": "do a", "model": "m", "data": {"n": 1}}\n\n{"prompt": "b"}\n{"id": 7, "prompt": "c"}\n'
    )
    assert read_tasks(file) == [
        Task("a", "do a", options={"model": "m"}, data={"n": 1}),
        Task("3", "b"),
        Task("7", "c"),
    ]


def test_tasks_are_read_from_csv(tmp_path):
    file = tmp_path / "tasks.csv"
    file.write_text(
        'id,prompt,effort,answer,output_schema\na,"two\nlines",low,42,\nb,x,,,"{""type"": ""object""}"\n'
    )
    assert read_tasks(file) == [
        Task("a", "two\nlines", options={"effort": "low"}, data={"answer": "42"}),
        Task("b", "x", options={"output_schema": {"type": "object"}}),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", r":2: is not JSON"),
        ("[]", r":2: is not a JSON object"),
        ('{"id": "x"}', r":2: has no prompt"),
        ('{"prompt": " "}', r":2: the prompt of a task is empty"),
        ('{"prompt": 5}', r":2: the prompt of a task is a string"),
        ('{"prompt": "x", "id": ""}', r":2: the id of a task has 1 to 200"),
        ('{"prompt": "x", "id": []}', r":2: the id of a task is a string"),
        ('{"prompt": "x", "modle": "m"}', r":2: unknown option 'modle'; a task may have .*model"),
        ('{"prompt": "x", "id": "a"}', r":2: the id 'a' is also that of line 1"),
    ],
)
def test_an_invalid_task_is_refused_with_its_line_number(tmp_path, line, problem):
    file = tmp_path / "tasks.jsonl"
    file.write_text(f'{{"id": "a", "prompt": "x"}}\n{line}\n')
    with pytest.raises(ValueError, match=problem):
        read_tasks(file)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", b"id,prompt\na,b,c\n", ":2: has more fields"),
        ("t.csv", b'id,prompt\na,"two\nlines"\n\nb,\xff\n', ":5: is not UTF-8"),
        ("t.csv", b'id,prompt\na,x\nb,"never\nclosed\n', ":3: is not CSV"),
        ("t.csv", b'id,prompt\na,"x"y\n', ":2: is not CSV"),
        ("t.csv", b"id,prompt,id\n", ":1: names a column twice"),
        ("t.csv", b"id\xff,prompt\n", ":1: is not UTF-8"),
        ("t.jsonl", b'{"prompt": "x"}\n{"prompt": "\xff"}\n', ":2: is not UTF-8"),
        ("t.jsonl", b'{"prompt": "x"}\n{"data": ' + b"[" * 100_000, ":2: is not JSON"),
    ],
)
def test_a_file_that_is_not_a_task_list_is_refused_with_the_line_number(tmp_path, name, content, problem):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_tasks(file)


def test_the_default_id_of_a_task_is_its_first_line_number(tmp_path):
    file = tmp_path / "tasks.csv"
    file.write_bytes(b'\xef\xbb\xbfprompt,note\r\n"two\r\nlines",1\r\n\r\nx,\r\n')
    assert read_tasks(file) == [Task("2", "two\r\nlines", data={"note": "1"}), Task("5", "x")]
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "x"}\n')
    assert read_tasks(file) == [Task("1", "x")]


@pytest.mark.parametrize(
    ("tasks", "options", "problem"),
    [
        ([Task("a", "x"), Task("a", "y")], {}, "two tasks have the id 'a'"),
        (["a"], {}, "expects instances of Task, got str"),
        ([], {"turns": 0}, "at least 1"),
        ([], {"starting": 0}, "at least 1"),
        ([], {"turns": 2.5}, "turns expects a whole number, got float"),
        ([], {"starting": "4"}, "starting expects a whole number, got str"),
        ([], {"shard": (3, 3)}, "0 <= index < count"),
        ([], {"workspace": "dir"}, "expects a workspace, got str"),
        ([], {"thread_options": {"cwd": "."}}, "cannot have 'cwd'"),
        ([], {"on_death": "retry"}, "on_death must be 'fresh' or 'continue', not 'retry'"),
        ([], {"keep": "some"}, "keep must be 'failed', 'all' or 'none', not 'some'"),
        ([], {"servers": 0}, "servers must be .*, not 0"),
        ([], {"servers": "per-thread"}, "servers must be .*, not 'per-thread'"),
        ([], {"budget": Budget(tokens=1)}, r"budget expects BatchBudget\(…\), got Budget"),
        ([], {"retry": 3}, r"retry expects Retry\(…\), got int"),
        ([], {"restart": 5}, r"restart expects Restart\(…\), got int"),
        ([], {"config": "x"}, r"config expects CodexConfig\(…\), got str"),
        ([], {"solve": "solve"}, "solve expects an async function, got str"),
        ([Task("a", "x", data=object())], {}, "not plain JSON"),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_started(tmp_path, tasks, options, problem):
    with pytest.raises((ValueError, TypeError), match=problem):
        async with open_batch(tasks, out=tmp_path / "out", **options):
            await trio.lowlevel.checkpoint()


def test_settings_out_of_their_range_are_refused():
    for make in (lambda: BatchBudget(tokens=0), lambda: Retry(attempts=0), lambda: Retry(first=0)):
        with pytest.raises(ValueError, match="must be"):
            make()
    assert repr(EmptyDirectory()) == "EmptyDirectory()"


async def test_an_interrupted_prompt_with_an_output_type_raises_as_in_other_threads():
    class Interrupted:
        async def wait(self):
            await trio.lowlevel.checkpoint()
            return TurnResult(id="turn", thread_id="thread", status=TurnStatus.interrupted)

    class Supervised:
        name = "a"

        @asynccontextmanager
        async def turn(self, *args, **options):
            yield Interrupted()

    async def start():
        await trio.lowlevel.checkpoint()

    thread = TaskThread(
        Supervised(), {}, "raise", on_start=start, on_end=lambda: None, on_error=lambda exc: None
    )
    with pytest.raises(errors.OutputError, match="the turn was interrupted"):
        await thread.run("x", output_type=int)
    assert (await thread.run("x")).status == TurnStatus.interrupted
