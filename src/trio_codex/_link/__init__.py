"""One connection to a server: its requests, its flow control, its tasks and timeouts, and its end. Knows no threads or turns."""
