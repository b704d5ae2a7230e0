"""The messages of caffe.proto, from the compiled descriptor set that ships beside it.

They live in a descriptor pool of their own: importing this beside another package's caffe_pb2 clashes with nothing, and
no generated code ties us to one protobuf release.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from converter.errors import WeightsError


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    files = descriptor_pb2.FileDescriptorSet.FromString((Path(__file__).parent / "caffe.desc").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


@cache
def message_class(name: str) -> Any:
    """The class of a message of caffe.proto: message_class("NetParameter")."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"caffezoo.{name}"))


def is_repeated(field: Any) -> bool:
    """Whether a field holds a list. Releases before 6.31 have no property for it, later ones warn of the older way."""
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def parse_binary(name: str, data: bytes, where: str) -> Any:
    """A message from wire format.

    Raises:
        WeightsError: the bytes are no such message.
    """
    from google.protobuf.message import DecodeError

    try:
        return message_class(name).FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{where}: its {name} does not decode ({error}); the file is damaged.") from error


def text_of(message: bytes) -> str:
    """A NetParameter's bytes as prototxt text."""
    from google.protobuf import text_format

    return text_format.MessageToString(message_class("NetParameter").FromString(message), as_utf8=True)
