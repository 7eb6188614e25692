"""The server process that this client starts: its binary, its guard, its pipes and its end."""
