"""``codex.api``: one typed coroutine for each request of the protocol, generated."""
