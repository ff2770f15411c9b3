"""The protocol's messages, in a pool of their own.

Clients of the same protocol register the same names in protobuf's default pool, and one process may hold both.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
DESCRIPTORS = "open_inference.binpb"
"""The descriptor set beside this module, made of the .proto that is there too."""


def protocol_files() -> tuple[FileDescriptorProto, ...]:
    """Return the descriptors of the protocol's files."""
    return tuple(FileDescriptorSet.FromString(files(__package__).joinpath(DESCRIPTORS).read_bytes()).file)


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for each in protocol_files():
        pool.Add(each)
    return pool


@cache
def message(name: str) -> Any:  # noqa: ANN401 -- classes that are made at run time have no static type
    """Return the class of a message."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))
