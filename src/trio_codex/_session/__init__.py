"""The state of threads and turns, and the handling of server requests. Independent of the public handles."""
