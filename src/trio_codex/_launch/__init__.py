"""Choosing and configuring the server to start."""
