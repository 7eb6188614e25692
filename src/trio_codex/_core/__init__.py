"""The sans-I/O core: splits bytes into lines, parses messages, and matches responses to requests."""
