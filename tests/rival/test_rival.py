"""The guarantees page agrees with the recorded behavior of the official SDK under the same faults."""

import importlib.util
import json

import pytest

from rival.record import GUARANTEES, RECORDED, record, with_table


@pytest.mark.long
@pytest.mark.real
def test_the_recorded_behavior_of_the_official_sdk_is_current():
    if importlib.util.find_spec("openai_codex") is None:
        pytest.skip("openai-codex is not installed: uv run --group bench pytest -m long tests/rival")
    recorded = json.loads(RECORDED.read_text())
    now = record()
    assert now["openai-codex"] == recorded["openai-codex"]

    def verdicts(record):
        return {
            (guarantee, probe["what"]): probe["kept"]
            for guarantee, probes in record["probes"].items()
            for probe in probes
        }

    assert verdicts(now) == verdicts(recorded), now


def test_the_table_of_the_page_matches_the_recorded_results():
    text = GUARANTEES.read_text()
    recorded = json.loads(RECORDED.read_text())
    assert with_table(text, recorded) == text, "run: python tests/rival/record.py table"
