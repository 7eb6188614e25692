"""Codex as an agent of Inspect AI, the evaluation harness. Needs the ``inspect`` extra, and Inspect on Trio.

::

    @task
    def arithmetic():
        return Task(dataset=…, solver=codex_agent(), scorer=match())

    $ INSPECT_ASYNC_BACKEND=trio inspect eval arithmetic.py --model none
"""

try:
    from trio_codex.inspect._agent import codex_agent as codex_agent
except ModuleNotFoundError as _error:
    if _error.name is None or _error.name.partition(".")[0] != "inspect_ai":
        raise
    raise ModuleNotFoundError(
        "trio_codex.inspect needs inspect_ai, which the inspect extra installs: pip install '.[inspect]' in the checkout of trio-codex",
        name=_error.name,
    ) from _error
