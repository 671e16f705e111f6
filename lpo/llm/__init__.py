"""Access to language models: one protocol, several back ends, and a durable journal of every finished call."""
