"""The command line: views and composition; nothing imports it."""
