"""The real server with nothing but its model replaced, as one scope: a model, a home for it, and a client of both."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from trio_codex import Budget, Codex, CodexConfig, Policy, open_codex

from ._home import ApprovalPolicy, OfflineHome, SandboxMode, offline_home
from ._model import MockModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from trio_codex._tools._toolbox import AnyTool
    from trio_codex.instruments import Instrument


class OfflineCodex(NamedTuple):
    """What :func:`offline_codex` gives; it can be unpacked.

    Attributes:
        codex: The client.
        model: What the server takes for its model.
        home: Where the server runs. ``home.config()`` starts another on the same home.
    """

    codex: Codex
    model: MockModel
    home: OfflineHome


@asynccontextmanager
async def offline_codex(
    config: CodexConfig | None = None,
    *,
    policy: Policy | None = None,
    tools: Iterable[AnyTool] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
    model: MockModel | None = None,
    approval_policy: ApprovalPolicy = "never",
    sandbox_mode: SandboxMode = "read-only",
    features: Mapping[str, bool] | None = None,
    mcp_servers: Mapping[str, Mapping[str, Any]] | None = None,
    server_config: Mapping[str, Any] | str | None = None,
    catalog: bool = True,
) -> AsyncGenerator[OfflineCodex]:
    """Run the real server offline, with a scripted model, for the time of a scope. What the body raises leaves as itself.

    ::

        async with offline_codex(policy=policies.accept_all) as (codex, model, home):
            model.say("hello")
            thread = await codex.thread_start()
            assert (await thread.run("hi")).final_response == "hello"

    Args:
        config: As in :func:`~trio_codex.open_codex`, with the environment of the home (see :meth:`OfflineHome.config`).
        policy: As there.
        tools: As there.
        budget: As there.
        instruments: As there.
        model: A model that is entered already; by default one that lives as long as the scope.
        approval_policy: As in :func:`write_offline_home`.
        sandbox_mode: As there.
        features: As there.
        mcp_servers: As there.
        server_config: Its ``config``.
        catalog: As there.

    Raises:
        StartError: The server did not come up.
        ImportError: If hypercorn is not installed.
        TypeError: If the server's configuration holds what TOML cannot, or something is no tool.
        ValueError: ``server_config`` is not TOML, or two tools have the same name.
        OSError: There is no port for the model, or the home cannot be written.
    """
    async with AsyncExitStack() as stack:
        if model is None:
            model = await stack.enter_async_context(MockModel())
        home = stack.enter_context(
            offline_home(
                model,
                approval_policy=approval_policy,
                sandbox_mode=sandbox_mode,
                features=features,
                mcp_servers=mcp_servers,
                config=server_config,
                catalog=catalog,
            )
        )
        codex = await stack.enter_async_context(
            open_codex(
                home.config(config), policy=policy, tools=tools, budget=budget, instruments=instruments
            )
        )
        yield OfflineCodex(codex, model, home)
