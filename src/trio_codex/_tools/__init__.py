"""Dynamic tools and structured output: generate JSON Schema from Python types, and convert JSON to their values."""
