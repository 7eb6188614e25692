"""One scope that runs the real server with a mock model, an offline home, and a client."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from trio_codex import Budget, Codex, CodexConfig, Policy, open_codex

from ._home import ApprovalPolicy, OfflineHome, SandboxMode, offline_home
from ._model import MockModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from trio_codex._tools.tool import AnyTool
    from trio_codex.instruments import Instrument


class OfflineCodex(NamedTuple):
    """The value of :func:`offline_codex`; it can be unpacked.

    Attributes:
        codex: The client.
        model: The mock model that the server uses.
        home: The home that the server runs in. Pass ``home.config()`` to a client to start another server there.
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
    """Run the real server offline with a scripted model. Exceptions from the body propagate unchanged.

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
        model: A model that is already entered; by default a new one that lasts as long as the scope.
        approval_policy: As in :func:`write_offline_home`.
        sandbox_mode: As there.
        features: As there.
        mcp_servers: As there.
        server_config: The ``config`` of :func:`write_offline_home`.
        catalog: As in :func:`write_offline_home`.

    Raises:
        StartError: The server failed to start.
        ModuleNotFoundError: hypercorn is not installed.
        TypeError: The server's configuration holds a value that TOML cannot represent, or an entry of ``tools`` is
            not a tool.
        ValueError: ``server_config`` is not TOML, or two tools have the same name.
        OSError: No port is available for the model, or the home cannot be written.
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
