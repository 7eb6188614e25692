"""The protocol as data: definitions, types and methods, read from a JSON Schema or from the wire classes."""
