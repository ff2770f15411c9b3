"""The protocol's messages, in a pool of their own.

Clients of the same protocol register the same names in protobuf's default pool, and one process may hold both.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
DESCRIPTORS = "open_inference.binpb"
"""The descriptor set beside this module, made of the .proto that is there too."""


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    read = FileDescriptorSet.FromString(files(__package__).joinpath(DESCRIPTORS).read_bytes())
    for each in read.file:
        pool.Add(each)
    return pool


@cache
def message(name: str) -> Any:  # noqa: ANN401 -- classes that are made at run time have no static type
    """Return the class of a message."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))
