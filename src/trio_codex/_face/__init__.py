"""Shared code of the faces for callers without Trio: a thread that runs Trio, and proxies for the objects in it."""
