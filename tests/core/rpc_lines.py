"""Helpers for the JSON-RPC tests: encode lines, and receive them in a state with pending requests."""

import json

from hypothesis import strategies as st

from trio_codex._core.rpc import RpcState

LIMIT = 10_000


def line_of(**members):
    return json.dumps(members).encode()


def waiting(count=1, method="thread/read"):
    """Return a state with requests 1 to ``count`` in flight; their tokens are ``"t1"`` and so on."""
    state = RpcState(LIMIT)
    for number in range(1, count + 1):
        assert state.request(method, None, f"t{number}")[0] == number
    return state


def receive(state, frame):
    """Receive one frame, and return its event."""
    [message] = state.receive([frame])
    return message[0] if isinstance(message, list) else message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
