"""The report of a batch: its content, and its behavior in a browser."""

import fcntl
import json
import os
import re

import pytest
import trio
from batches import some, stage

from browser import CHROMIUM, open_page
from trio_codex import CodexConfig, TokenUsage, errors, policies
from trio_codex.batch import BatchBudget, Outcome, Retry, Task, write_report
from trio_codex.batch._journal import Journal, Progress
from trio_codex.testing import Command, HTTPFailure, Reasoning, Text, Usage

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!--"
APPROVAL_SECONDS = 0.6


async def _accept_slowly(request):
    await trio.sleep(APPROVAL_SECONDS)
    return policies.accept()


async def write_sample(directory):
    """Run a batch with all kinds of content on the real server, and write its report."""
    async with stage(approval_policy="on-request", sandbox_mode="workspace-write") as on:
        script = on.model.script("do everything")
        script.respond(
            Reasoning("First the tests."), Text("Let me look."), Command("echo one; exit 3"), Usage(900, 50)
        )
        script.respond(Command("touch made", escalate="it is needed"))
        script.apply_patch(f"*** Begin Patch\n*** Add File: a.txt\n+{HOSTILE}\n*** End Patch")
        script.say(f"all done {HOSTILE}", phase="final_answer")
        on.model.script("do it again").respond(HTTPFailure(429))
        on.model.script("do nothing").respond(HTTPFailure(400))
        on.model.script("do hang").hang("half")
        tasks = [
            Task(f"everything {HOSTILE}", f"do everything {HOSTILE}", data={"seed": 1}), Task("again", "do it again"),
            Task("nothing", "do nothing"), Task("hang", "do hang"), *some(3),
        ]  # fmt: skip
        await on.run(
            tasks,
            policy=policies.Policy(command=_accept_slowly),
            budget=BatchBudget(task_seconds=8),
            retry=Retry(first=0.01),
        )
        await write_report(on.out, directory / "report.html")
        await write_report(on.out, directory / "elsewhere.html", config=CodexConfig(codex_home=directory))
        return on.out


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the report of the sample batch."""
    directory = tmp_path_factory.mktemp("report")
    trio.run(write_sample, directory)
    return directory / "report.html"


def data_of(page):
    """Return the data in a page: of the batch, and of each task by id."""
    found = dict(
        re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page.read_text("utf-8"))
    )
    batch = json.loads(found.pop("batch"))
    tasks = [json.loads(found[f"task-{number}"]) for number in range(len(batch["tasks"]))]
    return batch, {task["id"].split()[0]: task for task in tasks}


def write_journal(out, outcomes, left=()):
    """Write the journal of a batch, without running it."""
    journal = Journal(out, writes=True)
    try:
        journal.begin({}, [*(outcome.task for outcome in outcomes), *left], allow_changes=False)
        for outcome in outcomes:
            journal.finish(outcome, Progress(attempt=1))
        for task in left[:1]:
            journal.save(task, Progress(attempt=1, state="open"))
    finally:
        journal.close()


def many(count):
    statuses = ("ok", "ok", "ok", "failed", "timed_out", "over_budget", "quarantined")
    return [
        Outcome(
            task=Task(f"task-{number}", f"Do number {number}."),
            status=statuses[number % len(statuses)],
            value={"number": number} if number % 7 < 3 else None,
            error=None if number % 7 < 3 else "TurnFailed: no",
            usage=TokenUsage(input_tokens=100, output_tokens=10, total_tokens=110 + number),
            seconds=1 + number / 100,
        )
        for number in range(count)
    ]


async def test_a_report_shows_every_task_with_the_transcripts_and_times_of_its_attempts(report):
    batch, tasks = data_of(report)
    assert {task["id"].split()[0]: task["status"] for task in batch["tasks"]} == {
        "everything": "ok", "again": "ok", "nothing": "failed", "hang": "timed_out", "t0": "ok", "t1": "ok", "t2": "ok",
    }  # fmt: skip
    (thread,) = tasks["everything"]["threads"]
    (turn,) = thread["turns"]
    kinds = [item["type"] for item in turn["items"]]
    assert kinds == [
        "userMessage", "reasoning", "agentMessage", "commandExecution", "commandExecution", "fileChange", "agentMessage",
    ]  # fmt: skip
    # Every item has a time, and times are in order within a turn.
    times = [thread["times"][item["id"]] for item in turn["items"]]
    assert turn["span"][0] <= times[0][0]
    assert times[-1][1] <= turn["span"][1]
    assert times == sorted(times)
    # The time between the call and its start is the wait for approval.
    (asking,) = [name for name, call in thread["calls"].items() if call["asks"]]
    began, ended = thread["calls"][asking]["span"]
    assert thread["calls"][asking]["why"] == "it is needed"
    assert began + APPROVAL_SECONDS * 1000 <= thread["times"][asking][0] <= ended
    attempts = tasks["again"]["threads"]
    assert [each["missing"] for each in attempts] == [None, None]
    assert [(each["attempt"], each["turns"][0]["status"]) for each in attempts] == [
        (1, "failed"),
        (2, "completed"),
    ]
    assert tasks["hang"]["threads"][0]["turns"][0]["status"] == "interrupted"


async def test_missing_threads_are_named_in_the_report(report):
    _, tasks = data_of(report.with_name("elsewhere.html"))
    for task in tasks.values():
        for thread in task["threads"]:
            assert "turns" not in thread
            assert thread["id"] in thread["missing"]


async def test_without_the_home_a_report_still_shows_the_outcomes(tmp_path):
    async with stage() as on:
        await on.run(some(2))
        on.home.codex_home.rename(tmp_path / "moved")
        await write_report(on.out, tmp_path / "report.html")
        missing = {
            thread["missing"]
            for task in data_of(tmp_path / "report.html")[1].values()
            for thread in task["threads"]
        }
        assert missing == {f"{on.home.codex_home} does not exist on this machine"}


async def test_a_report_has_unfinished_tasks_and_needs_no_server_for_them(tmp_path):
    write_journal(tmp_path / "out", many(3), left=some(2))
    config = CodexConfig(codex_bin="/nowhere/codex")
    await write_report(tmp_path / "out", tmp_path / "report.html", config=config, transcripts=False)
    batch, tasks = data_of(tmp_path / "report.html")
    assert [task["status"] for task in batch["tasks"]] == ["ok", "ok", "ok", "unfinished", "waiting"]
    assert {len(task["threads"]) for task in tasks.values()} == {0}
    with pytest.raises(errors.JournalError, match="does not exist"):
        await write_report(tmp_path, tmp_path / "none.html")


async def test_long_texts_are_shortened_to_limit_the_size_of_the_page(tmp_path):
    outcomes = [
        Outcome(task=Task(f"t{number}", "x" * 500_000), status="ok", value=["y" * 9000] * 400)
        for number in range(30)
    ]
    write_journal(tmp_path / "out", outcomes)
    await write_report(tmp_path / "out", tmp_path / "report.html", transcripts=False)
    assert (tmp_path / "report.html").stat().st_size < 40_000_000
    _, tasks = data_of(tmp_path / "report.html")
    assert re.fullmatch(r"(x+)\n\[… [\d,]+ characters omitted …\]\n(x+)", tasks["t0"]["prompt"])
    assert sum(map(len, tasks["t0"]["value"])) < 1_100_000


async def test_a_failed_write_keeps_the_old_report(tmp_path):
    write_journal(tmp_path / "out", many(1))
    (tmp_path / "report.html").write_text("old")
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        await write_report(tmp_path / "out", target, transcripts=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "out", "report.html"]


async def test_a_link_and_a_pipe_are_written_to_and_not_replaced(tmp_path):
    write_journal(tmp_path / "out", many(1))
    (tmp_path / "link.html").symlink_to("target.html")
    await write_report(tmp_path / "out", tmp_path / "link.html", transcripts=False)
    assert (tmp_path / "link.html").is_symlink()
    assert len(data_of(tmp_path / "target.html")[1]) == 1
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1024 * 1024)
    await write_report(tmp_path / "out", tmp_path / "pipe", transcripts=False)
    page = os.read(reader, 1024 * 1024)
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert page.endswith(b"</html>\n")


# -- in a browser --------------------------------------------------------------------------------------------------

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

IDS = "[...document.querySelectorAll('#rows > .row')].map(row => row.querySelector('button').textContent.split(' ')[0])"
CLICK = "document.querySelector({}).click()".format
HEAD = "th.c-{}".format


@in_browser
async def test_a_report_can_be_sorted_filtered_and_opened_with_the_keyboard(report, tmp_path):
    with trio.fail_after(100):
        async with open_page(tmp_path) as page:
            await page.open(report)
            in_order = await page.do(IDS)
            assert sorted(in_order) == ["again", "everything", "hang", "nothing", "t0", "t1", "t2"]

            async def focus(selector):
                # Use only the keyboard.
                for _ in range(60):
                    await page.press("Tab")
                    if await page.do(f"document.activeElement.matches({json.dumps(selector)})"):
                        outline = await page.do("getComputedStyle(document.activeElement).outlineStyle")
                        assert outline == "solid"
                        return
                raise AssertionError(f"Tab does not reach {selector}")

            async def sorting(name):
                return await page.do(
                    f"document.querySelector({json.dumps(HEAD(name))}).getAttribute('aria-sort')"
                )

            await focus("#statuses [data-status='ok']")
            await page.press("Space")
            assert sorted(await page.do(IDS)) == ["again", "everything", "t0", "t1", "t2"]
            assert await page.do("document.querySelector('#count').textContent") == "Showing 5 of 7 tasks"
            await focus("#search")
            await page.type("everything")
            assert await page.do(IDS) == ["everything"]
            await page.do("document.querySelector('#search').value = ''")
            await page.do("document.querySelector('#search').dispatchEvent(new Event('input'))")
            await page.do(CLICK(json.dumps("#statuses [data-status='']")))
            await focus("th.c-id button")
            assert await sorting("id") is None
            await page.press("Enter")
            assert (await page.do(IDS), await sorting("id")) == (sorted(in_order), "ascending")
            await page.press("Enter")
            assert (await page.do(IDS), await sorting("id")) == (sorted(in_order, reverse=True), "descending")
            await focus("th.c-seconds button")
            await page.press("Enter")
            assert ((await page.do(IDS))[0], await sorting("id"), await sorting("seconds")) == (
                "hang",
                None,
                "descending",
            )

            await page.do(
                "[...document.querySelectorAll('#rows button')].find(b => b.textContent.startsWith('ev')).id = 'it'"
            )
            await focus("#it")
            await page.press("Enter")
            assert await page.do("document.querySelector('#it').getAttribute('aria-expanded')") == "true"
            shown = await page.do("document.querySelector('.details').innerText")
            for text in (
                f"do everything {HOSTILE}",
                "First the tests.",
                "exit status 3",
                "Asked for approval: it is needed",
                f"all done {HOSTILE}",
            ):
                assert text in shown
            kinds = await page.do(
                "[...document.querySelectorAll('.legend li')].map(item => item.textContent.split(' ')[0])"
            )
            assert {"Model", "Tools", "Approvals"} <= set(kinds)
            await page.press("Enter")
            assert await page.do("document.querySelector('.details')") is None
            # No script in a prompt was run, and nothing was fetched.
            assert page.complaints() == []
            assert page.requests() == [report.as_uri()]


@in_browser
async def test_a_link_opens_its_task(report, tmp_path):
    with trio.fail_after(100):
        async with open_page(tmp_path) as page:
            await page.open(report)
            await page.do("location.hash = '#task=again'")
            await page.do("new Promise(resolve => setTimeout(resolve, 50))")
            assert "Attempt 2" in await page.do("document.querySelector('.details').innerText")


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_report_fits_a_phone_and_follows_the_color_scheme(report, scheme, tmp_path):
    with trio.fail_after(100):
        async with open_page(tmp_path) as page:
            await page.open(report, width=360, scheme=scheme)
            await page.do("for (const button of document.querySelectorAll('#rows button')) button.click()")
            await page.do("for (const each of document.querySelectorAll('details')) each.open = true")
            assert await page.do("document.querySelectorAll('.details').length") == 7
            assert await page.do("document.documentElement.scrollWidth") <= 360
            beyond = "[...document.body.querySelectorAll('*')].filter(node => node.getBoundingClientRect().right > 361 && !node.closest('svg')).map(node => node.outerHTML.slice(0, 200))"
            assert await page.do(beyond) == []
            luminance = "getComputedStyle(document.{}).{}.match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0)".format
            page_light, text_light = (
                await page.do(luminance("body", "backgroundColor")),
                await page.do(luminance("body", "color")),
            )
            assert (
                (page_light > 600 > 200 > text_light)
                if scheme == "light"
                else (page_light < 200 < 600 < text_light)
            )
            assert await page.do(CONTRAST) == []


CONTRAST = """
(() => {
  // Find text with less contrast to its background than WCAG AA requires.
  const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
  };
  const bad = new Set();
  for (const node of document.body.querySelectorAll("*")) {
    if (node.closest("svg, script") || ![...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
    const [one, other] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    if ((one + 0.05) / (other + 0.05) < 4.5) bad.add(`${node.tagName}.${node.className}: ${node.textContent.slice(0, 30)}`);
  }
  return [...bad];
})()
"""


@in_browser
async def test_a_report_shows_a_thousand_tasks_quickly(tmp_path):
    write_journal(tmp_path / "out", many(1000))
    await write_report(tmp_path / "out", tmp_path / "report.html", transcripts=False)
    with trio.fail_after(100):
        async with open_page(tmp_path / "profile") as page:
            await page.open(tmp_path / "report.html")
            assert await page.do("document.querySelectorAll('#rows > .row').length") == 500
            await page.do(CLICK(json.dumps("#more")))
            assert len(await page.do(IDS)) == 1000
            await page.do(CLICK(json.dumps("th.c-tokens button")))
            assert (await page.do(IDS))[:2] == ["task-999", "task-998"]
            assert await page.do("document.querySelectorAll('.plot svg').length") == 2
