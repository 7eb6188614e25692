"""Finding the codex binary that a server is started from."""
