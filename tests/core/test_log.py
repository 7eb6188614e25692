"""Logging: a handler or filter of the host that raises is reported, and breaks nothing."""

import logging

import pytest

from trio_codex._core.log import SafeLogger


class Raising(logging.Handler):
    """A handler that raises an exception instead of writing."""

    def emit(self, record):
        raise RuntimeError("this handler does not work")


def raise_error(record):
    raise RuntimeError("this filter does not work")


@pytest.fixture
def host():
    """Return a logger of the host, to which each test adds handlers and filters."""
    logger = logging.Logger("host", logging.DEBUG)
    logger.propagate = False
    return logger


@pytest.fixture(params=["handler", "filter of a handler", "filter of the logger"])
def broken(request, host):
    if request.param == "handler":
        host.addHandler(Raising())
    elif request.param == "filter of a handler":
        handler = logging.StreamHandler()
        handler.addFilter(raise_error)
        host.addHandler(handler)
    else:
        host.addFilter(raise_error)
    return host


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_handler_or_filter_that_raises_is_reported_on_stderr_and_breaks_nothing(broken, level, capsys):
    getattr(SafeLogger(broken), level)("thread %s", "t1")
    assert "does not work" in capsys.readouterr().err


def test_nothing_is_reported_on_stderr_if_the_host_has_disabled_reports(broken, capsys, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    SafeLogger(broken).warning("text")
    assert not capsys.readouterr().err


def test_a_handler_that_raises_breaks_nothing_if_there_is_no_stderr(broken, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    SafeLogger(broken).warning("text")


def test_system_exit_in_a_handler_propagates(host):
    def exit_program(record):
        raise SystemExit(3)

    host.addFilter(exit_program)
    with pytest.raises(SystemExit):
        SafeLogger(host).warning("text")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_record_names_the_line_that_logged_it(host, level):
    records = []
    host.addFilter(lambda record: bool(records.append(record)))
    getattr(SafeLogger(host), level)("text")
    SafeLogger(host).log(logging.INFO, "text")
    assert {record.funcName for record in records} == {"test_a_record_names_the_line_that_logged_it"}
    assert records[0].levelname == level.upper()


def test_a_record_carries_its_exception_and_its_extra_attributes(host):
    records = []
    host.addFilter(lambda record: bool(records.append(record)))
    error = ValueError("x")
    SafeLogger(host).error("text", exc_info=error)
    SafeLogger(host).log(logging.INFO, "text", extra={"decision": 1})
    assert records[0].exc_info[1] is error
    assert records[1].decision == 1
