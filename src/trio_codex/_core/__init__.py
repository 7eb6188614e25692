"""What needs no I/O: bytes to lines, lines to messages, and which reply answers which request."""
