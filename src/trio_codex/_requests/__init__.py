"""Requests from the server: which policy answers them, and what is recorded about them."""
