"""The agent: a server, a thread and a turn for each sample and epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence  # noqa: TC003  # Inspect evaluates the annotations of an agent
from contextlib import AsyncExitStack
from typing import Any

import attrs
import sniffio
import trio
from inspect_ai.agent import Agent, AgentState, agent
from inspect_ai.log import transcript
from inspect_ai.util import sandbox as sandbox_of_sample
from inspect_ai.util import store
from inspect_ai.util._sandbox.local import LocalSandboxEnvironment

import trio_codex.tools
from trio_codex import (
    Codex,  # as above
    CodexConfig,
    Policy,
    ThreadStartOptions,
    TurnStatus,
    errors,
    open_codex,
)
from trio_codex.inspect._conversation import Conversation, prompt_of
from trio_codex.inspect._record import Record

STORED = "codex_thread_id"
"""The key of the thread's id in the store of a sample."""


@agent(name="codex", description="A Codex agent.")
def codex_agent(
    config: CodexConfig | None = None,
    *,
    codex: Codex | None = None,
    policy: Policy | None = None,
    tools: Sequence[trio_codex.tools.Tool[..., Any]] = (),
    thread_options: ThreadStartOptions | None = None,
    sandbox: str | bool = True,
) -> Agent:
    """Create an Inspect agent that runs a Codex turn for each sample and epoch, each in its own server and thread.

    The messages of the sample are the input: system messages become developer instructions, the last user messages
    the prompt, and earlier messages the history. The agent's messages and tool calls are appended as they happen.
    Each response from the model is logged as a model event with its usage, under the name ``codex/MODEL``.

    Inspect's limits apply: time limits as Trio cancel scopes, token and message limits as usage is reported. If a
    limit is exceeded, the turn is interrupted on the server, and its output so far is scored.

    The store of the sample contains the thread's id as ``codex_thread_id``.

    Args:
        config: The configuration of the server. In a container, it has the container's environment plus ``env``.
        codex: A running client to use instead of a server for each sample. It must belong to the same Trio run, as it does
            with ``inspect_ai.eval_async``.
        policy: As in :func:`~trio_codex.open_codex`.
        tools: As in :func:`~trio_codex.open_codex`.
        thread_options: Options of each thread, such as ``model``, ``sandbox`` or ``cwd``. By default, the directory
            is that of the sample's sandbox, or a temporary one.
        sandbox: Where the server runs: ``True`` for the sample's sandbox, if it has one; the name of a sandbox, if
            it has several; or ``False`` for this machine. In a Docker sandbox, ``docker exec`` starts the server, so the
            image must contain ``codex``.

    Raises:
        ValueError: ``codex`` is combined with a configuration, a policy or tools, which it already has.

    The agent raises ``RuntimeError`` if Inspect does not run on Trio, and any exception that a turn raises. A failed
    turn fails the sample, which Inspect repeats with ``retry_on_error``.
    """
    if codex is not None and (config is not None or policy is not None or tools):
        raise ValueError("codex already has a configuration, a policy and tools: do not pass others")
    setup = _Setup(config or CodexConfig(), codex, policy, tuple(tools), thread_options or {}, sandbox)

    async def execute(state: AgentState) -> AgentState:
        """Run a turn."""
        library = sniffio.current_async_library()
        if library != "trio":
            raise RuntimeError(
                f"codex_agent needs Trio, and Inspect runs on {library}: set INSPECT_ASYNC_BACKEND=trio in the environment"
            )
        await setup.run(state)
        return state

    return execute


@attrs.frozen
class _Setup:
    config: CodexConfig
    codex: Codex | None
    policy: Policy | None
    tools: Sequence[trio_codex.tools.Tool[..., Any]]
    thread_options: ThreadStartOptions
    sandbox: str | bool

    async def run(self, state: AgentState) -> None:
        """Run a turn with the messages of a sample, and append those of the turn."""
        prompt = prompt_of(state.messages)
        options: Any = dict(self.thread_options)
        if prompt.instructions:
            given = options.get("developer_instructions")
            options["developer_instructions"] = "\n\n".join(filter(None, [given, prompt.instructions]))
        async with AsyncExitStack() as stack:
            config, cwd = await self._place(stack)
            options.setdefault("cwd", cwd)
            codex = self.codex
            if codex is None:
                opening = open_codex(config, policy=self.policy, tools=self.tools)
                codex = await stack.enter_async_context(opening)
            thread = await stack.enter_async_context(await codex.thread_start(**options))
            store().set(STORED, thread.id)
            if prompt.history:
                await thread.inject_items(prompt.history)
            model = thread.info.model or options.get("model") or "default"
            conversation = Conversation(state, Record(model))
            turn = None
            try:
                async with thread.turn(prompt.input) as turn:
                    async for event in turn:
                        await conversation.feed(event, turn.usage)
            except BaseException:
                await conversation.cut(None if turn is None else turn.usage)  # noqa: ASYNC102  # shielded and bounded inside
                raise
            result = turn.result
            await conversation.finish(result.final_response, turn.usage)
            facts = {"thread_id": thread.id, "turn_id": result.id, "status": str(result.status)}
            usage = None if result.turn_usage is None else attrs.asdict(result.turn_usage)
            transcript().info({**facts, "usage": usage}, source="codex")
            if result.status == TurnStatus.failed:
                raise errors.TurnFailed(result)

    async def _place(self, stack: AsyncExitStack) -> tuple[CodexConfig, str]:
        """Return the configuration of the server, and the directory of the thread.

        Raises:
            RuntimeError: The server cannot be started in this kind of sandbox.
        """
        await trio.lowlevel.checkpoint()
        environment = None
        if self.sandbox is not False:
            try:
                environment = sandbox_of_sample(None if self.sandbox is True else self.sandbox)
            except ProcessLookupError:
                if self.sandbox is not True:
                    raise
        if environment is None:
            directory = tempfile.TemporaryDirectory(prefix="trio-codex-", ignore_cleanup_errors=True)
            return self.config, stack.enter_context(directory)
        cwd = (await environment.exec(["pwd"])).stdout.strip()
        try:
            environment.as_type(LocalSandboxEnvironment)
        except TypeError:
            connection = await environment.connection()
        else:
            return self.config, cwd
        if connection.container is None:
            raise RuntimeError(
                f"codex_agent can start servers in Docker containers, but not in a sandbox of type {connection.type!r}: "
                "pass sandbox=False to run them on this machine"
            )
        return attrs.evolve(self.config, launch_args_override=self._docker(connection.container, cwd)), cwd

    def _docker(self, container: str, cwd: str) -> list[str]:
        config = self.config
        if config.launch_args_override is not None:
            inner = list(config.launch_args_override)
        else:
            inner = config.command_line(str(config.codex_bin or "codex"))
        home = {} if config.codex_home is None else {"CODEX_HOME": str(config.codex_home)}
        added = {**config.env, **home}
        # Pass only names: Docker's client has the values in its environment, so no process list shows them.
        names = [part for name, value in added.items() if value is not None for part in ("--env", name)]
        return ["docker", "exec", "--interactive", "--workdir", cwd, *names, container, *inner]
