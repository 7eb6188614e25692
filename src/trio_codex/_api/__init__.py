"""Handles and scopes: clients, threads, turns, goals, commands and watches. Knows no bytes, lines or frames."""
