"""Cuts: how to cut GPUs for the queries of one model, one policy a file."""
