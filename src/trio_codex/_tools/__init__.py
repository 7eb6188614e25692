"""Dynamic tools and structured output: JSON Schema from Python types, and values back."""
