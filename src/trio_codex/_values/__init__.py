"""Values shared by several packages: configuration, events, inputs, results and usage."""
