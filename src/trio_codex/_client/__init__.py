"""The client and its threads, and what they share: the session and its router."""
