"""One connection to a server: its requests, flow control, tasks, timeouts and shutdown. Independent of threads and turns."""
