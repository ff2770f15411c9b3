"""The one version that every model is served as."""

from __future__ import annotations

VERSION = "1"
