"""The Trio shell: the process, its streams, the nursery that owns them, and scopes. It knows nothing of threads and turns."""
