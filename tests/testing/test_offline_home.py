"""The offline home: its files, which the real server accepts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trio
from app_server_driver import LIMIT, app_server, played
from hypothesis import given
from hypothesis import strategies as st

from prepared_homes import write_new_home
from trio_codex.testing import MockModel, offline_home, write_offline_home
from trio_codex.testing._toml import dump_toml

URL = "http://127.0.0.1:9/v1"

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_toml_survives_a_round_trip(table: dict[str, Any]) -> None:
    assert tomllib.loads(dump_toml(table)) == table


def test_the_configuration_is_written_as_utf8_in_every_locale(tmp_path: Path) -> None:
    code = (
        "import locale, sys; from trio_codex.testing import write_offline_home;"
        "assert locale.getpreferredencoding(False) != 'UTF-8';"
        "write_offline_home(sys.argv[1], 'http://127.0.0.1:9/v1', config={'instructions': 'gr\\u00fcn'})"
    )
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=True, timeout=30)
    assert read(tmp_path)["instructions"] == "gr\u00fcn"


@pytest.mark.parametrize("value", [None, b"bytes", {"inner": object()}, [1, {"inner": None}]])
def test_a_value_without_a_toml_form_is_rejected_with_its_path(value: object) -> None:
    with pytest.raises(TypeError, match=r"^outer"):
        dump_toml({"outer": value})


def read(home_directory: Path) -> dict[str, Any]:
    return tomllib.loads((home_directory / "codex_home" / "config.toml").read_text(encoding="utf-8"))


def test_a_home_keeps_codex_off_the_network(tmp_path: Path) -> None:
    home = write_new_home(tmp_path, URL)
    config = read(tmp_path)
    assert config["model_providers"][config["model_provider"]]["base_url"] == URL
    off = ("plugins", "apps", "unbounded_connection_retries", "shell_snapshot")
    assert config["features"] == dict.fromkeys(off, False)
    assert (config["approval_policy"], config["sandbox_mode"]) == ("never", "read-only")
    (model,) = json.loads(Path(config["model_catalog_json"]).read_text())["models"]
    assert model["slug"] == config["model"]
    assert set(home.env) == {"PATH", "HOME", "TMPDIR", "LANG", "CODEX_HOME", "RUST_LOG"}
    assert home.env["CODEX_HOME"] == str(home.codex_home)
    for empty in (home.home, home.workspace, home.tmp):
        assert list(empty.iterdir()) == []


def test_further_configuration_is_merged_table_by_table(tmp_path: Path) -> None:
    write_offline_home(
        tmp_path,
        URL,
        approval_policy="on-request",
        sandbox_mode="workspace-write",
        features={"apps": True, "unified_exec": False},
        mcp_servers={"held": {"command": "python3", "args": ["-c", "pass"]}},
        config='model = "other"\n[features]\ngoals = true\n[model_providers.mock]\nrequest_max_retries = 2\n',
        catalog=False,
    )
    config = read(tmp_path)
    assert (config["model"], config["approval_policy"], config["sandbox_mode"]) == (
        "other",
        "on-request",
        "workspace-write",
    )
    assert config["features"] == {
        "plugins": False,
        "apps": True,
        "unbounded_connection_retries": False,
        "shell_snapshot": False,
        "unified_exec": False,
        "goals": True,
    }
    assert config["mcp_servers"]["held"]["args"] == ["-c", "pass"]
    assert config["model_providers"]["mock"]["request_max_retries"] == 2
    assert config["model_providers"]["mock"]["base_url"] == URL
    assert "model_catalog_json" not in config


def test_further_configuration_can_be_a_mapping(tmp_path: Path) -> None:
    write_offline_home(tmp_path, URL, config={"tools": {"update_plan": {"enabled": True}}})
    assert read(tmp_path)["tools"] == {"update_plan": {"enabled": True}}


def test_invalid_toml_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        write_offline_home(tmp_path, URL, config="= nonsense")


def test_a_temporary_home_is_removed() -> None:
    with offline_home(URL) as home:
        assert home.codex_home.is_dir()
    assert not home.codex_home.parent.exists()


def test_a_home_needs_a_model_whose_scope_was_entered() -> None:
    with pytest.raises(RuntimeError, match="before it is entered"), offline_home(MockModel()):
        pytest.fail("it was entered")


@pytest.mark.real
async def test_the_server_starts_in_the_home_without_warnings() -> None:
    async with played() as (model, server):
        model.say("ok")
        await server.run_turn("go")
        warnings = server.params_of("configWarning") + server.params_of("warning")
        # The home does not determine whether bubblewrap is installed.
        assert [each for each in warnings if "bubblewrap" not in json.dumps(each)] == []


@pytest.mark.real
async def test_the_path_of_a_home_can_contain_special_characters(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.say("ok")
            home = write_offline_home(tmp_path / 'an "odd" \\ näme', model)
            async with app_server(home) as server:
                assert (await server.run_turn("go"))["status"] == "completed"
                assert "apply_patch" in model.requests[0].tools


@pytest.mark.real
async def test_without_a_catalog_there_is_no_apply_patch() -> None:
    async with played(catalog=False) as (model, server):
        model.say("ok")
        await server.run_turn("go")
        assert "apply_patch" not in model.requests[0].tools


MCP_SERVER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    match message.get("method"):
        case "initialize":
            result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
                      "serverInfo": {"name": "held", "version": "0"}}
        case "tools/list":
            result = {"tools": [{"name": "ask", "description": "d", "inputSchema": {"type": "object"},
                                 "annotations": {"readOnlyHint": True}}]}
        case "tools/call":
            result = {"content": [{"type": "text", "text": "from the MCP server"}]}
        case _:
            continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


@pytest.mark.real
async def test_a_tool_of_an_mcp_server_is_called() -> None:
    servers = {"held": {"command": "python3", "args": ["-c", MCP_SERVER]}}
    async with played(mcp_servers=servers) as (model, server):
        model.call_tool("ask", {}, namespace="mcp__held")
        model.say("done")
        assert (await server.run_turn("go"))["status"] == "completed"
        assert "mcp__held.ask" in model.requests[0].tools
        (output,) = model.requests[1].function_outputs.values()
        assert "from the MCP server" in output
