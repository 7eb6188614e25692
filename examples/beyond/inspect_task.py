"""An Inspect task whose agent is Codex, and whose scorer checks the files that the agent wrote.

INSPECT_ASYNC_BACKEND=trio inspect eval inspect_task.py --model none --time-limit 600
"""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, accuracy, scorer
from inspect_ai.solver import TaskState
from inspect_ai.util import sandbox

from trio_codex import CodexConfig, Sandbox
from trio_codex.inspect import codex_agent

BROKEN = "def middle(values):\n    return sorted(values)[len(values) // 2 + 1]\n"
CHECK = "from stats import middle; assert middle([3, 1, 2]) == 2; assert middle([5]) == 5"


@scorer(metrics=[accuracy()])
def passes() -> Scorer:
    """Score 1 if the check passes in the agent's directory."""

    async def score(state: TaskState, target: Target) -> Score:
        done = await sandbox().exec(["python3", "-c", target.text])
        return Score(value=float(done.success), answer=state.output.completion, explanation=done.stderr)

    return score


@task
def repair(config: CodexConfig | None = None) -> Task:
    """Have the agent fix a function."""
    return Task(
        dataset=[
            Sample(input="middle() in stats.py is wrong. Fix it.", target=CHECK, files={"stats.py": BROKEN})
        ],
        solver=codex_agent(config, thread_options={"sandbox": Sandbox.workspace_write}),
        scorer=passes(),
        sandbox="local",
    )
