"""Record the server's reports as model calls, so that Inspect logs them, counts their tokens and checks its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio
from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, ModelUsage, get_model, modelapi

from trio_codex import TokenUsage

if TYPE_CHECKING:
    from inspect_ai.model import ChatMessage, ChatMessageAssistant
    from inspect_ai.tool import ToolChoice, ToolInfo

PROVIDER: Final = "codex"
"""The provider name of Codex models in the log."""


class RecordedModel(ModelAPI):
    """A model that returns recorded output, without calling anything."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # as in the base class
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self.output: ModelOutput | None = None

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002  # of the interface
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Return the recorded output.

        Raises:
            RuntimeError: There is none, because the model was passed to an evaluation.
        """
        await trio.lowlevel.checkpoint()
        output, self.output = self.output, None
        if output is None:
            raise RuntimeError(
                "codex models cannot be called: pass --model none, and codex_agent() as the solver"
            )
        return output


@modelapi(name=PROVIDER)
def recorded_model() -> type[ModelAPI]:
    """Register the provider."""
    return RecordedModel


class Record:
    """Records responses of one model with their usage.

    Args:
        model: The name of the model.

    Attributes:
        model: The name of the model.
    """

    def __init__(self, model: str) -> None:
        self.model: str = model
        self._model = get_model(f"{PROVIDER}/{model}", memoize=False)
        self._before = TokenUsage()

    async def response(
        self, messages: list[ChatMessage], message: ChatMessageAssistant, usage: TokenUsage | None
    ) -> ModelOutput:
        """Record a response.

        Args:
            messages: The messages before it.
            message: The response.
            usage: The usage of the turn so far.

        Raises:
            LimitExceededError: It exceeds an Inspect limit.
        """
        api = self._model.api
        assert isinstance(api, RecordedModel)
        used = usage or self._before
        api.output = ModelOutput.from_message(message)
        api.output.model = self.model
        api.output.usage = _difference(used, self._before)
        self._before = used
        return await self._model.generate(messages)


def _difference(now: TokenUsage, before: TokenUsage) -> ModelUsage:
    def grown(name: str) -> int:
        return max((getattr(now, name) or 0) - (getattr(before, name) or 0), 0)

    cached, written = grown("cached_input_tokens"), grown("cache_write_input_tokens")
    return ModelUsage(
        # Inspect does not count cached tokens here.
        input_tokens=max(grown("input_tokens") - cached - written, 0),
        input_tokens_cache_read=cached,
        input_tokens_cache_write=written,
        output_tokens=grown("output_tokens"),
        reasoning_tokens=grown("reasoning_output_tokens"),
        total_tokens=grown("total_tokens"),
    )
