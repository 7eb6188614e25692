"""Which server is started, and how."""
