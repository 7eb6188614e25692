"""``trio-codex threads``: list, show, archive, restore and delete threads."""

import pytest
from cli_driver import on_terminal, processes_with, run_cli

from trio_codex import CodexConfig, open_codex
from trio_codex.testing import Command, Text

pytestmark = pytest.mark.real

NO_SUCH = "01a1fbc2-0000-7000-8000-000000000000"


@pytest.fixture
async def stored(model, home):
    """Create three threads; the first has run a command."""
    model.respond(Text("Let me see."), Command("echo seen; exit 3"))
    model.say("It is\nhere.")
    for _ in range(2):
        model.say("Yes.")
    ids = []
    async with open_codex(CodexConfig(env=home.env, cwd=home.workspace)) as codex:
        for prompt in ("Where is \x1b[31mit?", "Second", "Third"):
            thread = await codex.thread_start(cwd=home.home if prompt == "Third" else home.workspace)
            await thread.run(prompt)
            ids.append(thread.id)
    return ids


async def test_threads_are_listed_newest_first_as_a_table_and_as_json(home, stored):
    ended = await run_cli("threads", "list", home=home)
    assert (ended.status, ended.err) == (0, "")
    header, *rows = ended.out.splitlines()
    assert header.split() == ["id", "updated", "name", "directory"]
    assert {row.split()[0] for row in rows} == set(stored)
    assert {row.index(" 20") + 1 for row in rows} == {header.index("updated")}
    assert {row[header.index("directory") :].strip() for row in rows} == {str(home.workspace), "~"}
    assert "Where is it?" in ended.out
    assert "\x1b" not in ended.out
    assert (await run_cli("threads", home=home)).out == ended.out
    with_options = await run_cli("threads", "-n", "1", "--json", home=home)
    assert [thread["id"] for thread in with_options.events] == stored[-1:]
    ended = await run_cli("threads", "list", "--json", "--cwd", home.home, "-n", "1", home=home)
    [thread] = ended.events
    assert thread["id"] == stored[2]
    assert thread["preview"] == "Third"


async def test_a_thread_is_shown_with_a_summary_of_its_items(home, stored):
    ended = await run_cli("threads", "show", stored[0], home=home)
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "Where is it?"
    assert lines[1].startswith(f"{stored[0]} · mock-model · {home.workspace} · updated 20")
    [turn] = [at for at, line in enumerate(lines) if line.startswith("● completed · 20")]
    assert lines[turn + 1 :] == [
        "  » Where is it?", "  “ Let me see.", "  $ echo seen; exit 3  ✗ exit 3", "  “ It is here.",
    ]  # fmt: skip
    ended = await run_cli("threads", "show", NO_SUCH, home=home)
    assert ended.status == 1
    assert NO_SUCH in ended.complaint


async def test_threads_are_archived_and_restored_and_a_missing_one_does_not_stop_the_others(home, stored):
    ended = await run_cli("threads", "archive", NO_SUCH, *stored[:2], home=home)
    assert ended.status == 1
    assert ended.out == "".join(f"archived {each}\n" for each in stored[:2])
    assert ended.err.startswith(f"{NO_SUCH}: ")
    archived = await run_cli("threads", "list", "--archived", "--json", home=home)
    assert {thread["id"] for thread in archived.events} == set(stored[:2])
    ended = await run_cli("threads", "unarchive", *stored[:2], home=home)
    assert (ended.status, ended.out) == (0, "".join(f"restored {each}\n" for each in stored[:2]))
    assert (await run_cli("threads", "list", "--archived", home=home)).out == "no archived threads\n"


async def test_deleting_asks_for_confirmation_on_a_terminal(home, stored):
    ended = await run_cli("threads", "delete", stored[0], home=home)
    assert ended.status == 2
    assert "--yes" in ended.complaint
    for answer, status, said in [("n", 1, "nothing was deleted"), ("y", 0, f"deleted {stored[0]}")]:
        async with on_terminal("threads", "delete", stored[0], home=home) as terminal:
            await terminal.expect(
                f"  {stored[0]}  Where is it?\n? Permanently delete this thread? [y]es  [n]o > "
            )
            await terminal.send(f"{answer}\n")
            await terminal.expect(said)
            assert await terminal.end() == status
    ended = await run_cli("threads", "delete", "--yes", *stored[1:], home=home)
    assert ended.status == 0
    assert (await run_cli("threads", "list", "--json", home=home)).out == ""
    assert processes_with(home.codex_home) == []
