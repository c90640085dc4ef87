from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Bucket(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUCKET_UNSPECIFIED: _ClassVar[Bucket]
    BUCKET_DEFAULT: _ClassVar[Bucket]
    BUCKET_LWW: _ClassVar[Bucket]
    BUCKET_CLOUD: _ClassVar[Bucket]
    BUCKET_LOCAL: _ClassVar[Bucket]

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_UNSPECIFIED: _ClassVar[Consistency]
    CONSISTENCY_LINEARIZABLE: _ClassVar[Consistency]
    CONSISTENCY_STALE: _ClassVar[Consistency]
BUCKET_UNSPECIFIED: Bucket
BUCKET_DEFAULT: Bucket
BUCKET_LWW: Bucket
BUCKET_CLOUD: Bucket
BUCKET_LOCAL: Bucket
CONSISTENCY_UNSPECIFIED: Consistency
CONSISTENCY_LINEARIZABLE: Consistency
CONSISTENCY_STALE: Consistency

class Sibling(_message.Message):
    __slots__ = ("value", "timestamp_ms")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    timestamp_ms: int
    def __init__(self, value: _Optional[bytes] = ..., timestamp_ms: _Optional[int] = ...) -> None: ...

class LeaderHint(_message.Message):
    __slots__ = ("node_id", "address")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class LocalAnswer(_message.Message):
    __slots__ = ("node_id", "address", "applied_index", "reason")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    applied_index: int
    reason: str
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ..., applied_index: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
