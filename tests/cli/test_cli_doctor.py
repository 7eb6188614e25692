"""``trio-codex doctor``, and what every command prints if the binary is not a Codex binary."""

import json
import os

import pytest
import trio
from cli_driver import processes_with, run_cli, script

from trio_codex import wire
from trio_codex.binary import TESTED, check_version

pytestmark = pytest.mark.real

BAD_BINARIES = {
    "exits": ("exit 1", "exit status 1"),
    "hangs": ("exec sleep 1000", "did not answer"),
    "prints junk": ("echo hello; echo world; exec sleep 1000", "2 lines that are not JSON-RPC"),
    "prints junk and exits": ("echo hello; echo 'Error: no such thing' >&2", "no such thing"),
    "is no program": (None, "neither a program for this system"),
}


async def test_a_healthy_setup_is_reported(home):
    ended = await run_cli("doctor", home=home)
    assert (ended.status, ended.err) == (0, "")
    for name in (
        "binary",
        "version",
        "API",
        "start",
        "CODEX_HOME",
        "configuration",
        "login",
        "models",
        "sandbox",
        "stop",
    ):
        assert f"✓ {name}" in ended.out
    assert processes_with(home.codex_home) == []


async def test_the_report_can_be_plain_ascii(home):
    ended = await run_cli("doctor", home=home, PYTHONIOENCODING="ascii", LANG="C")
    assert (ended.status, ended.err) == (0, "")
    assert "? login" in ended.out


async def test_the_json_report_has_the_same_content(home):
    ended = await run_cli("doctor", "--json", home=home)
    assert (ended.status, ended.err) == (0, "")
    report = json.loads(ended.out)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert report["ok"]
    assert found["binary"]["details"]["source"] == "package"
    assert found["version"]["details"]["standing"] == "tested"
    assert found["start"]["details"]["durationMs"] > 0
    assert found["CODEX_HOME"]["details"]["path"] == str(home.codex_home)
    assert found["login"]["details"]["needed"] is False
    assert found["models"]["details"]["count"] == 1
    assert {finding["status"] for finding in report["findings"]} == {"ok"}


async def test_an_untested_binary_and_missing_methods_are_reported(home, tmp_path):
    oldest, newest = TESTED
    (tmp_path / "bin").mkdir()
    older = script(tmp_path / "bin" / "codex", f"echo codex-cli {oldest}")
    ended = await run_cli("doctor", "--json", home=home, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert (ended.status, ended.err) == (0, "")
    found = {finding["name"]: finding for finding in json.loads(ended.out)["findings"]}
    details = {"path": str(older), "source": "path", "version": oldest}
    assert found["not used"]["details"] == details
    version = found["version"]["details"]["version"]
    assert (f"the newest known is {newest}" in found["version"]["value"]) == (version != newest)
    lacking = found["API"]["details"]["lacking"]
    assert lacking == {
        method: spec.since
        for method, spec in wire.CLIENT_REQUESTS.items()
        if spec.since is not None and check_version(version, (spec.since, spec.since)) == "older"
    }
    assert all(method in found["API"]["value"] for method in [*lacking][:2])
    assert found["API"]["hint"] == ("List them all with --json." if len(lacking) > 2 else None)


@pytest.mark.parametrize(
    ("version", "is_hinted"), [("99.0.0", True), ("0.0.1", False)], ids=["newer", "older"]
)
async def test_a_newer_binary_that_is_not_used_is_reported_with_how_to_use_it(
    version, is_hinted, home, tmp_path
):
    (tmp_path / "bin").mkdir()
    other = script(tmp_path / "bin" / "codex", f"echo codex-cli {version}")
    ended = await run_cli("doctor", home=home, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert (ended.status, ended.err) == (0, "")
    assert f"not used       {version}, {other} (on PATH)" in ended.out
    assert (f"→ It is newer. Use it with --codex-bin {other}" in ended.out) == is_hinted


async def test_a_missing_login_is_reported_with_how_to_log_in(home):
    (home.codex_home / "config.toml").write_text("[features]\nplugins = false\napps = false\n")
    ended = await run_cli("doctor", home=home)
    assert ended.status == 1
    assert "not logged in" in ended.complaint
    assert "codex login" in ended.complaint
    assert "✗ login" in ended.out


async def test_an_unreadable_configuration_is_reported_with_its_location(home):
    (home.codex_home / "config.toml").write_text("model = 'm'\nmodel = [[\n")
    ended = await run_cli("doctor", home=home)
    assert ended.status == 1
    assert "config.toml:2" in ended.complaint
    assert "Correct config.toml" in ended.complaint
    assert "· login" in ended.out


@pytest.mark.parametrize(
    "setting",
    ["[features]\nplugins = 'sk-proj-0123456789abcdef'", "sandbox_mode = 'correct-horse-battery'"],
)
async def test_nothing_secret_is_printed(home, setting):
    (home.codex_home / "config.toml").write_text(setting)
    for mode in ([], ["--json"]):
        ended = await run_cli("doctor", *mode, home=home, MY_TOKEN="correct-horse-battery")
        assert ended.status == 1
        assert "expected" in ended.complaint
        for secret in ("sk-proj", "correct-horse"):
            assert secret not in ended.out + ended.err


@pytest.mark.parametrize("kind", BAD_BINARIES)
async def test_a_program_that_is_not_codex_is_reported_on_one_line_within_the_start_timeout(
    home, tmp_path, kind
):
    behaviour, told = BAD_BINARIES[kind]
    binary = script(tmp_path / "bin-codex", behaviour or "")
    if behaviour is None:
        binary.write_bytes(b"\x7fELF nonsense")

    async def check(*command):
        # Each start has its own home: on a new home, starts wait for one another (G16).
        codex_home = tmp_path / command[0]
        codex_home.mkdir()
        args = [*command, "--codex-bin", binary, "--start-timeout", "1"]
        ended = await run_cli(*args, home=home, CODEX_HOME=codex_home, TMPDIR=tmp_path / "tmp")
        assert ended.status == 1
        assert told in ended.complaint
        assert str(binary) in ended.complaint

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for command in (["run", "Hi."], ["doctor"], ["demo"]):
                nursery.start_soon(check, *command)
    assert processes_with(tmp_path) == []
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize(
    ("binary", "told"),
    [("/no/such/codex", "does not exist"), ("/", "is a directory"), ("/etc/passwd", "is not executable")],
)
async def test_a_wrong_path_is_reported_on_one_line_with_a_hint(home, binary, told):
    for command in (["run", "Hi."], ["doctor"]):
        ended = await run_cli(*command, "--codex-bin", binary, home=home)
        assert ended.status == 1
        assert told in ended.complaint
        assert "--codex-bin" in ended.complaint


async def test_doctor_reports_a_missing_home(home):
    ended = await run_cli("doctor", home=home, CODEX_HOME="/nonexistent/home")
    assert ended.status == 1
    assert "/nonexistent/home" in ended.complaint
    assert "--codex-home" in ended.complaint
