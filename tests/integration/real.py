"""What the scenarios share: the real server with its model replaced, for the time of a scope."""

from contextlib import asynccontextmanager

import trio

from trio_codex import CodexConfig, open_codex
from trio_codex.testing import MockModel, offline_home


@asynccontextmanager
async def offline(*, policy=None, **home_options):
    """A model, a home, and the real server as a client of both."""
    async with (
        offline_parts(**home_options) as (config, model, home),
        open_codex(config, policy=policy) as codex,
    ):
        yield codex, model, home


@asynccontextmanager
async def offline_parts(**home_options):
    """A model, a home, and how to start a server on them: for scenarios with several servers."""
    with trio.fail_after(20):
        async with MockModel() as model:
            with offline_home(model, **home_options) as home:
                yield CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace), model, home
