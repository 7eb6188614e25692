"""The pytest plugin of trio-codex: fixtures for its test kit, and the last frames on the wire when a test fails.

pytest imports this module in every project of the environment. It is therefore outside the package, and imports the
package only in a fixture that a test uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from trio_codex import Codex
    from trio_codex.testing import FakeServer, LastFrames, MockModel, OfflineCodex

_FIXTURES: Final = ("fake_codex", "offline_codex", "mock_model")

_LOGS: Final[pytest.StashKey[list[LastFrames]]] = pytest.StashKey()

_SERVERS: Final[pytest.StashKey[list[FakeServer]]] = pytest.StashKey()


@pytest.fixture
async def mock_model() -> AsyncGenerator[MockModel]:
    """Provide a mock model for the real server; see :class:`trio_codex.testing.MockModel`."""
    from trio_codex.testing import MockModel

    async with MockModel() as model:
        yield model


@pytest.fixture
async def fake_codex(request: pytest.FixtureRequest) -> AsyncGenerator[tuple[Codex, FakeServer]]:
    """Provide a client and the scripted server that it is connected to; see :func:`trio_codex.testing.fake_codex`."""
    from trio_codex.testing import fake_codex

    options = _options(request)
    # Unexpected requests are checked after a test has passed: beside its own failure they would be noise.
    strict = options.pop("strict", True)
    async with fake_codex(**options, strict=False) as (codex, server):
        if strict:
            request.node.stash.setdefault(_SERVERS, []).append(server)
        yield codex, server


@pytest.fixture
async def offline_codex(
    request: pytest.FixtureRequest, mock_model: MockModel
) -> AsyncGenerator[OfflineCodex]:
    """Provide a client of the real server, with the fixture ``mock_model``; see :func:`trio_codex.testing.offline_codex`."""
    from trio_codex.testing import offline_codex

    async with offline_codex(**_options(request), model=mock_model) as offline:
        yield offline


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Merge the options of a test's markers, of which the closest takes precedence, and add an instrument for frames."""
    from trio_codex.testing import LastFrames

    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("codex"))):
        if marker.args:
            raise pytest.UsageError("the marker codex takes only keyword arguments")
        options |= marker.kwargs
    log = LastFrames()
    request.node.stash.setdefault(_LOGS, []).append(log)
    return {**options, "instruments": [*options.get("instruments", ()), log]}


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "codex(**options): options for the fixtures fake_codex and offline_codex"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that uses one of these fixtures outside Trio, where pytest would pass it an async generator."""
    used = [name for name in _FIXTURES if name in getattr(item, "fixturenames", ())]
    if used and item.get_closest_marker("trio") is None:
        pytest.fail(
            f"the fixture {used[0]} needs an async test that runs in Trio: install pytest-trio, and set trio_mode = true "
            "in [tool.pytest.ini_options] of pyproject.toml, or put @pytest.mark.trio on the test",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test that passed although its client sent unexpected requests."""
    yield
    for server in item.stash.get(_SERVERS, None) or ():
        server.assert_all_expected()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last frames to the report of a test that failed."""
    report = yield
    if report.failed:
        shown = [str(log) for log in item.stash.get(_LOGS, None) or () if log]
        report.sections += [("codex: the last frames on the wire", text) for text in shown]
    return report
