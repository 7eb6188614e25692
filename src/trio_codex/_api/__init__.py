"""Handles and scopes: clients, threads, turns, goals, commands and watches. Independent of bytes, lines and frames."""
