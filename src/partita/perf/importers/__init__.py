"""Importers: one function per foreign layout, from files to a performance table."""
