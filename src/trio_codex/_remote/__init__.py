"""What runs on the server outside of turns: processes, watches, terminals."""
