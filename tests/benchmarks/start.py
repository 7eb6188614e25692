"""The time from the start of the real server to its first response, with the client already imported."""

import json
from pathlib import Path

from benchmarks.measuring import run_fresh

TITLE = "Start of the real server"
ROUNDS = 9

NOWHERE = "http://127.0.0.1:9"
"""No model is called."""


def prepare(setting):
    from trio_codex.binary import find_binary
    from trio_codex.testing import write_offline_home

    home = write_offline_home(Path(setting.directory) / "home", NOWHERE)
    command = [str(find_binary().path), "app-server"]
    (Path(setting.directory) / "server.json").write_text(json.dumps([command, dict(home.env)]))
    started("bare", setting)  # the first start creates the databases


def started(what, setting):
    command, environment = json.loads((Path(setting.directory) / "server.json").read_text())
    return {"ms": run_fresh(what, *command, environment=environment)["ms"]}


CASES = {
    what: lambda setting, what=what: started(what, setting)
    for what in ("bare", "trio-codex", "AsyncCodex", "Codex")
}
