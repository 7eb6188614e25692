"""Values that several rooms speak in: configuration, events, inputs, results and usage. They act on nothing."""
