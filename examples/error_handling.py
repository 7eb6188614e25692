"""Distinguish the failures of a turn: the model refuses, or the server crashes.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import os
import signal

import trio
from _offline import example_config

from trio_codex import errors, open_codex, wire


async def main() -> None:
    """Run the example."""
    async with example_config("error_handling") as config, open_codex(config) as codex:
        assert codex.pid is not None
        thread = await codex.thread_start()

        for question in ("Are you there?", "And now?"):
            try:
                result = await thread.run(question)
                print(f"answer: {result.final_response}")
            except errors.TurnFailed as exc:  # the thread can still be used
                match exc.result.error and exc.result.error.codex_error_info:
                    case wire.ResponseTooManyFailedAttemptsCodexErrorInfo(http_status_code=status):
                        print(f"failed: the model's provider refused, HTTP {status}")
                    case info:
                        print(f"failed: {info}: {exc}")

        try:
            async with thread.turn("Take your time.") as turn:
                async for _ in turn.text():
                    os.kill(codex.pid, signal.SIGKILL)
        except errors.TurnLost as exc:  # every current and later wait on the crashed server raises the cause
            if isinstance(exc.__cause__, errors.ServerExited):
                print(f"lost: {exc.__cause__.reason}")
        try:
            await codex.models()
        except errors.ServerExited as exc:
            print(f"closed: return code {exc.returncode}")


if __name__ == "__main__":
    trio.run(main)
