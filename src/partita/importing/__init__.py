"""Configs of other tools as documents of ours."""
