"""What the server asks of the client: whose policy answers, and what is recorded of it."""
