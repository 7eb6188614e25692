"""Run the probes of the official SDK, record the results, and generate the table in ``docs/guarantees.md``.

``python tests/rival/record.py`` runs the probes (with ``uv run --group bench``) and writes the table; ``… table`` only
writes the table. Each probe runs in its own process, so that leftovers can be counted and killed.
"""

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RECORDED = HERE / "recorded.json"
GUARANTEES = HERE.parents[1] / "docs" / "guarantees.md"

PROBE_SECONDS = 60
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


def left_of(cookie):
    """Yield the ids of processes that have the cookie in their environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"COOKIE={cookie}\0".encode() in (entry / "environ").read_bytes() + b"\0":
                    yield int(entry.name)


def run_probe(name):
    """Run one probe, kill what it leaves behind, and return its result."""
    cookie = f"trio-codex-rival-{os.getpid()}-{name}"
    probe = subprocess.Popen(
        [sys.executable, str(HERE / "probes.py"), name],
        env={**os.environ, "COOKIE": cookie},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if name == "a_parent_that_is_killed":
            return kill_parent(probe, cookie)
        output, _ = probe.communicate(timeout=PROBE_SECONDS)
        return json.loads(output.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"did": "hangs", "kept": False}
    finally:
        probe.kill()
        probe.wait()
        probe.stdout.close()
        for pid in left_of(cookie):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_parent(probe, cookie):
    """Kill the SDK's process, and count its server's processes after the time that the guarantee allows."""
    assert probe.stdout.readline() == "ready\n"
    probe.kill()
    deadline = time.monotonic() + 5
    while (left := len([*left_of(cookie)])) and time.monotonic() < deadline:
        time.sleep(0.1)
    return {"did": f"leaves {left} of 2 processes after 5 s", "kept": left == 0}


def record():
    """Run all probes; return the results by guarantee."""
    import openai_codex

    sys.path.insert(0, str(HERE))
    from probes import PROBES

    return {
        "openai-codex": openai_codex.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "probes": {
            guarantee: [{"what": title(probe), **run_probe(probe.__name__)} for probe in probes]
            for guarantee, probes in PROBES.items()
        },
    }


def title(probe):
    return probe.__name__.replace("_", " ")


def table(text, recorded):
    """Return the table: a row for each guarantee of the page, with its bound and what the SDK did."""
    lines = [f"| | bound | `openai-codex` {recorded['openai-codex']} |", "|---|---|---|"]
    for heading, number, section in re.findall(
        r"^## ((G\d+)\..*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    ):
        bound = re.search(r"^Bound: (.*)$", section, re.MULTILINE)
        probes = recorded["probes"].get(number, ())
        seen = "<br>".join(
            f"{'✓' if probe['kept'] else '✗'} {probe['what']}: {probe['did']}" for probe in probes
        )
        lines.append(f"| {heading} | {bound[1] if bound else ''} | {seen or 'not probed'} |")
    return "\n".join(lines)


def with_table(text, recorded):
    """Return the page with the new table."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table(tail, recorded)}\n\n{END}{tail}"


if __name__ == "__main__":
    if sys.argv[1:] != ["table"]:
        RECORDED.write_text(json.dumps(record(), indent=2, ensure_ascii=False) + "\n")
    GUARANTEES.write_text(with_table(GUARANTEES.read_text(), json.loads(RECORDED.read_text())))
