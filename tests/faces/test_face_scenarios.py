"""The integration tests that do not use Trio themselves, run through each face.

In the default run, the faces take turns: each test runs through one of them, and each face gets half of the tests.
"""

import importlib
import inspect
import sys
from pathlib import Path

import pytest
from face_drivers import FACES

INTEGRATION = Path(__file__).parents[1] / "integration"

MODULES = {
    "test_scenarios_client": (),
    "test_scenarios_goals": (),
    "test_scenarios_threads": (),
    "test_scenarios_turns": (),
    "test_real_turns": pytest.mark.long,
    "test_real_output": pytest.mark.long,
}

NEEDS_TRIO = ("trio.", "model.default", ".open()", "until(", ".closed.wait(")
"""Names that show that a test uses Trio itself, mostly with the scripted model."""

pytestmark = pytest.mark.real


def scenarios():
    """List the tests without arguments that need no Trio, with their modules."""
    sys.path.insert(0, str(INTEGRATION))
    try:
        modules = {importlib.import_module(name): marks for name, marks in MODULES.items()}
    finally:
        sys.path.remove(str(INTEGRATION))
    return [
        pytest.param(module, test, id=name, marks=marks)
        for module, marks in modules.items()
        for name, test in vars(module).items()
        if name.startswith("test_") and inspect.iscoroutinefunction(test) and is_neutral(test)
    ]


def is_neutral(test):
    source = inspect.getsource(test)
    return "offline()" in source and not (
        inspect.signature(test).parameters or any(use in source for use in NEEDS_TRIO)
    )


def through_the_faces(found):
    """Return every scenario with every face. All but one face of each are marked long."""
    return [
        pytest.param(
            *scenario.values,
            face,
            id=f"{scenario.id}-{face.name}",
            marks=[*scenario.marks, *([] if number % len(FACES) == turn else [pytest.mark.long])],
        )
        for number, scenario in enumerate(found)
        for turn, face in enumerate(FACES)
    ]


@pytest.mark.parametrize(("module", "test", "face"), through_the_faces(scenarios()))
def test_the_scenario_passes_through_the_face(module, test, face, monkeypatch):
    monkeypatch.setattr(module, "offline", face.offline)
    face.run(test)


def test_most_scenarios_are_included():
    assert len(scenarios()) > 30
