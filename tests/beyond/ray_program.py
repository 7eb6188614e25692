"""A driver that runs a batch on Ray, for tests that kill it: `ray_program.py ENV_JSON WORKSPACE OUT`.

It prints one line for each outcome. Of its four tasks, the first two end and the others hang.
"""

import json
import sys

import ray
from shards import some

from trio_codex import CodexConfig
from trio_codex.batch.ray import run

environment, workspace, out = sys.argv[1:]
config = CodexConfig(env=json.loads(environment), inherit_env=False, cwd=workspace)
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
run(
    [*some(2), *some(4, "hang")[2:]],
    out=out,
    shards=2,
    options={"config": config, "turns": 2},
    on_outcome=lambda outcome: print(outcome.task.id, outcome.status, outcome.resumed, flush=True),  # noqa: T201
)
