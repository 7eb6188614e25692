"""Helpers of the tests in this folder: the real server with its model replaced, and a timeout."""

from contextlib import asynccontextmanager

import trio

from trio_codex.binary import check_version, find_binary
from trio_codex.testing import MockModel, offline_codex, offline_home


def is_since(version):
    """Return whether the binary is at least this version, for behavior that the server has changed."""
    return check_version(find_binary().version, (version, version)) != "older"


@asynccontextmanager
async def offline(*args, **options):
    with trio.fail_after(30):
        async with offline_codex(*args, **options) as (codex, model, home):
            yield codex, model, home


@asynccontextmanager
async def offline_parts(**home_options):
    """Yield a model, a home and a function that starts a server on them, for scenarios with several servers."""
    with trio.fail_after(20):
        async with MockModel() as model:
            with offline_home(model, **home_options) as home:
                yield home.config(), model, home
