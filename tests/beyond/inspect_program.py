"""An eval set of three samples, for tests that kill it: `inspect_program.py ENV_JSON WORKSPACE LOGS`."""

import json
import os
import sys

os.environ["INSPECT_ASYNC_BACKEND"] = "trio"
os.environ["INSPECT_DISPLAY"] = "none"

from inspect_ai import Task, eval_set, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import match

from trio_codex import CodexConfig
from trio_codex.inspect import codex_agent

environment, workspace, logs = sys.argv[1:]
config = CodexConfig(env=json.loads(environment), inherit_env=False, cwd=workspace)


@task
def three():
    samples = [
        Sample(input=f"{verb} t{number}", target=f"did t{number}", id=f"t{number}")
        for number, verb in enumerate(("do", "do", "stall"))
    ]
    return Task(dataset=samples, solver=codex_agent(config), scorer=match())


success, (log,) = eval_set(three(), log_dir=logs, model="mockllm/model", log_buffer=1, retry_attempts=0)
accuracy = log.results.scores[0].metrics["accuracy"].value
print(success, log.status, log.results.completed_samples, accuracy)  # noqa: T201  # a program of its own
