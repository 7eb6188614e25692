"""The client's log: a handler or filter of the host that raises breaks nothing, and is reported."""

import logging

import pytest

from trio_codex._core.log import SafeLogger


class Raising(logging.Handler):
    """Raises instead of writing."""

    def emit(self, record):
        raise RuntimeError("this handler does not work")


def raise_error(record):
    raise RuntimeError("this filter does not work")


@pytest.fixture
def host():
    """A logger of the host, to which each test adds handlers and filters."""
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
def test_a_handler_or_filter_that_raises_fails_nobody_and_is_reported_on_stderr(broken, level, capsys):
    getattr(SafeLogger(broken), level)("thread %s", "t1")
    assert "does not work" in capsys.readouterr().err


def test_nothing_is_printed_to_stderr_if_the_host_has_disabled_that(broken, capsys, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    SafeLogger(broken).warning("text")
    assert not capsys.readouterr().err


def test_a_handler_that_raises_fails_nobody_if_there_is_no_stderr(broken, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    SafeLogger(broken).warning("text")


def test_a_request_to_exit_leaves_a_handler(host):
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
