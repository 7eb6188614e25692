"""Set most options of a turn.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import ApprovalMode, Budget, Sandbox, blocking, policies

ANSWER = {
    "type": "object",
    "properties": {"files": {"type": "integer"}},
    "required": ["files"],
    "additionalProperties": False,
}

with offline_config("all_turn_options") as config, blocking.open_codex(config) as codex:
    model = codex.models().data[0]
    result = codex.thread_start(developer_instructions="Be brief.").run(
        "Count the files.",
        # for this turn only
        policy=policies.decline_all,
        budget=Budget(tokens=100_000, seconds=300),
        output_schema=ANSWER,
        source="example",
        # for this turn and later ones
        approval_mode=ApprovalMode.ask,
        cwd=".",
        effort=model.supported_reasoning_efforts[0].reasoning_effort,
        model=model.model,
        sandbox=Sandbox.read_only,
        summary="concise",
    )
    print(result.final_response)
