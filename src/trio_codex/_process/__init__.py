"""The server process that this client starts: its binary, guard, pipes and shutdown."""
