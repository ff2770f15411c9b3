"""Other servers that do what the gateway does, each run by the Python of an environment of its own."""
