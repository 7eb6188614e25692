"""What the server reports about threads and turns, and who answers its requests. Knows no handles."""
