"""Supervision: agents that outlive their server, and with a journal their program.

::

    async with open_supervisor(config, journal="agents.db") as supervisor:
        async with supervisor.thread("release-notes", cwd=repo) as thread:
            plan = await thread.run("Plan the release notes.", key="plan")
            for number, step in enumerate(parse(plan.final_response)):
                await thread.run(step, key=f"step-{number}")

Kill the server, or kill the program and start it again: it resumes where it left off, and no model receives a prompt
twice.
"""

from trio_codex.supervision._journal import JournaledThread as JournaledThread
from trio_codex.supervision._journal import read_journal as read_journal
from trio_codex.supervision._prompt import OnInterrupted as OnInterrupted
from trio_codex.supervision._supervisor import Supervisor as Supervisor
from trio_codex.supervision._supervisor import open_supervisor as open_supervisor
from trio_codex.supervision._thread import SupervisedThread as SupervisedThread
from trio_codex.supervision._turn import SupervisedTurn as SupervisedTurn
from trio_codex.supervision._values import Backoff as Backoff
from trio_codex.supervision._values import Generation as Generation
from trio_codex.supervision._values import Probe as Probe
from trio_codex.supervision._values import Restart as Restart
from trio_codex.supervision._values import SupervisorStatus as SupervisorStatus
