"""Review a directory and keep the answers in a thread, with the blocking face. The same program as ``official.py``."""

import json
import sys
from typing import Any

from trio_codex.blocking import (
    ApprovalMode,
    CodexConfig,
    ImageInput,
    Sandbox,
    TextInput,
    errors,
    open_codex,
    retry_on_overload,
)
from trio_codex.wire import AgentMessageDeltaNotification

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYPgPAAEDAQAIicLsAAAAAElFTkSuQmCC"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["title", "days"],
    "additionalProperties": False,
}


def main(directory: str) -> None:
    """Review a directory."""
    with open_codex(CodexConfig(client_name="review")) as codex:
        print([model.display_name for model in codex.models(include_hidden=True).data])
        thread = codex.thread_start(
            cwd=directory, sandbox=Sandbox.read_only, approval_mode=ApprovalMode.deny_all
        )
        thread.set_name("Review")

        result = thread.run("What is here?", model=sys.argv[2])
        print(result.final_response)

        result = thread.run("Plan the work.", output_schema=SCHEMA)
        plan = json.loads(result.final_response or "{}")
        print(plan["title"], plan["days"])

        result = thread.run([TextInput("Which color is this?"), ImageInput(PIXEL)])
        print(result.final_response, len(result.items))

        with thread.turn("Tell me more.") as turn:
            for event in turn:
                if isinstance(event.params, AgentMessageDeltaNotification):
                    print(event.params.delta, end="")
        print()

        try:
            thread.run("This one fails.")
        except errors.TurnFailed:
            print("It failed.")

        fork = codex.thread_fork(thread.id, approval_mode=ApprovalMode.deny_all)
        print(fork.run("What else?").final_response)
        codex.thread_archive(fork.id)

        page = retry_on_overload(lambda: codex.thread_list(limit=10))
        print([stored.name for stored in page.data])
        again = codex.thread_resume(thread.id)
        print(again.run("Goodbye.").final_response)


main(sys.argv[1])
