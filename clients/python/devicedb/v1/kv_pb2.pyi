from devicedb.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetRequest(_message.Message):
    __slots__ = ("site", "bucket", "key", "consistency")
    SITE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    site: str
    bucket: _types_pb2.Bucket
    key: bytes
    consistency: _types_pb2.Consistency
    def __init__(self, site: _Optional[str] = ..., bucket: _Optional[_Union[_types_pb2.Bucket, str]] = ..., key: _Optional[bytes] = ..., consistency: _Optional[_Union[_types_pb2.Consistency, str]] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("siblings", "context", "leader")
    SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    siblings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Sibling]
    context: bytes
    leader: _types_pb2.LeaderHint
    def __init__(self, siblings: _Optional[_Iterable[_Union[_types_pb2.Sibling, _Mapping]]] = ..., context: _Optional[bytes] = ..., leader: _Optional[_Union[_types_pb2.LeaderHint, _Mapping]] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("site", "bucket", "key", "value", "context", "timestamp_ms", "request_id")
    SITE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    site: str
    bucket: _types_pb2.Bucket
    key: bytes
    value: bytes
    context: bytes
    timestamp_ms: int
    request_id: bytes
    def __init__(self, site: _Optional[str] = ..., bucket: _Optional[_Union[_types_pb2.Bucket, str]] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., context: _Optional[bytes] = ..., timestamp_ms: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ("context", "superseded", "leader")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    context: bytes
    superseded: bool
    leader: _types_pb2.LeaderHint
    def __init__(self, context: _Optional[bytes] = ..., superseded: bool = ..., leader: _Optional[_Union[_types_pb2.LeaderHint, _Mapping]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("site", "bucket", "key", "context", "timestamp_ms", "request_id")
    SITE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    site: str
    bucket: _types_pb2.Bucket
    key: bytes
    context: bytes
    timestamp_ms: int
    request_id: bytes
    def __init__(self, site: _Optional[str] = ..., bucket: _Optional[_Union[_types_pb2.Bucket, str]] = ..., key: _Optional[bytes] = ..., context: _Optional[bytes] = ..., timestamp_ms: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("context", "superseded", "leader")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    context: bytes
    superseded: bool
    leader: _types_pb2.LeaderHint
    def __init__(self, context: _Optional[bytes] = ..., superseded: bool = ..., leader: _Optional[_Union[_types_pb2.LeaderHint, _Mapping]] = ...) -> None: ...

class BatchOperation(_message.Message):
    __slots__ = ("key", "put", "delete", "context", "timestamp_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    put: bytes
    delete: bool
    context: bytes
    timestamp_ms: int
    def __init__(self, key: _Optional[bytes] = ..., put: _Optional[bytes] = ..., delete: bool = ..., context: _Optional[bytes] = ..., timestamp_ms: _Optional[int] = ...) -> None: ...

class BatchRequest(_message.Message):
    __slots__ = ("site", "bucket", "operations", "request_id")
    SITE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    site: str
    bucket: _types_pb2.Bucket
    operations: _containers.RepeatedCompositeFieldContainer[BatchOperation]
    request_id: bytes
    def __init__(self, site: _Optional[str] = ..., bucket: _Optional[_Union[_types_pb2.Bucket, str]] = ..., operations: _Optional[_Iterable[_Union[BatchOperation, _Mapping]]] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("context", "superseded")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    context: bytes
    superseded: bool
    def __init__(self, context: _Optional[bytes] = ..., superseded: bool = ...) -> None: ...

class BatchResponse(_message.Message):
    __slots__ = ("results", "leader")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchResult]
    leader: _types_pb2.LeaderHint
    def __init__(self, results: _Optional[_Iterable[_Union[BatchResult, _Mapping]]] = ..., leader: _Optional[_Union[_types_pb2.LeaderHint, _Mapping]] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("site", "bucket", "prefix", "after", "limit", "keys_only", "consistency")
    SITE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    KEYS_ONLY_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    site: str
    bucket: _types_pb2.Bucket
    prefix: bytes
    after: bytes
    limit: int
    keys_only: bool
    consistency: _types_pb2.Consistency
    def __init__(self, site: _Optional[str] = ..., bucket: _Optional[_Union[_types_pb2.Bucket, str]] = ..., prefix: _Optional[bytes] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ..., keys_only: bool = ..., consistency: _Optional[_Union[_types_pb2.Consistency, str]] = ...) -> None: ...

class ScanEntry(_message.Message):
    __slots__ = ("key", "siblings", "context")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    siblings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Sibling]
    context: bytes
    def __init__(self, key: _Optional[bytes] = ..., siblings: _Optional[_Iterable[_Union[_types_pb2.Sibling, _Mapping]]] = ..., context: _Optional[bytes] = ...) -> None: ...

class ScanResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[ScanEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[ScanEntry, _Mapping]]] = ...) -> None: ...
