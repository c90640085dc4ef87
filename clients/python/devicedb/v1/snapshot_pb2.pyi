from devicedb.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SnapshotStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SNAPSHOT_STATUS_UNSPECIFIED: _ClassVar[SnapshotStatus]
    SNAPSHOT_STATUS_PROCESSING: _ClassVar[SnapshotStatus]
    SNAPSHOT_STATUS_COMPLETED: _ClassVar[SnapshotStatus]
    SNAPSHOT_STATUS_MISSING: _ClassVar[SnapshotStatus]
    SNAPSHOT_STATUS_FAILED: _ClassVar[SnapshotStatus]
    SNAPSHOT_STATUS_DAMAGED: _ClassVar[SnapshotStatus]
    SNAPSHOT_STATUS_DELETING: _ClassVar[SnapshotStatus]

class UploadStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPLOAD_STATUS_UNSPECIFIED: _ClassVar[UploadStatus]
    UPLOAD_STATUS_ABSENT: _ClassVar[UploadStatus]
    UPLOAD_STATUS_RUNNING: _ClassVar[UploadStatus]
    UPLOAD_STATUS_STORED: _ClassVar[UploadStatus]
    UPLOAD_STATUS_FAILED: _ClassVar[UploadStatus]

class PartDeletion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PART_DELETION_UNSPECIFIED: _ClassVar[PartDeletion]
    PART_DELETION_DELETED: _ClassVar[PartDeletion]
    PART_DELETION_PENDING: _ClassVar[PartDeletion]
    PART_DELETION_KEPT: _ClassVar[PartDeletion]
    PART_DELETION_UNANSWERED: _ClassVar[PartDeletion]
SNAPSHOT_STATUS_UNSPECIFIED: SnapshotStatus
SNAPSHOT_STATUS_PROCESSING: SnapshotStatus
SNAPSHOT_STATUS_COMPLETED: SnapshotStatus
SNAPSHOT_STATUS_MISSING: SnapshotStatus
SNAPSHOT_STATUS_FAILED: SnapshotStatus
SNAPSHOT_STATUS_DAMAGED: SnapshotStatus
SNAPSHOT_STATUS_DELETING: SnapshotStatus
UPLOAD_STATUS_UNSPECIFIED: UploadStatus
UPLOAD_STATUS_ABSENT: UploadStatus
UPLOAD_STATUS_RUNNING: UploadStatus
UPLOAD_STATUS_STORED: UploadStatus
UPLOAD_STATUS_FAILED: UploadStatus
PART_DELETION_UNSPECIFIED: PartDeletion
PART_DELETION_DELETED: PartDeletion
PART_DELETION_PENDING: PartDeletion
PART_DELETION_KEPT: PartDeletion
PART_DELETION_UNANSWERED: PartDeletion

class Upload(_message.Message):
    __slots__ = ("status", "reason", "repository", "bytes_done", "bytes", "new_bytes", "root", "node_id", "catalogue")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    NEW_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_FIELD_NUMBER: _ClassVar[int]
    status: UploadStatus
    reason: str
    repository: str
    bytes_done: int
    bytes: int
    new_bytes: int
    root: str
    node_id: int
    catalogue: str
    def __init__(self, status: _Optional[_Union[UploadStatus, str]] = ..., reason: _Optional[str] = ..., repository: _Optional[str] = ..., bytes_done: _Optional[int] = ..., bytes: _Optional[int] = ..., new_bytes: _Optional[int] = ..., root: _Optional[str] = ..., node_id: _Optional[int] = ..., catalogue: _Optional[str] = ...) -> None: ...

class SnapshotPart(_message.Message):
    __slots__ = ("node_id", "address", "status", "reason", "partitions", "partitions_done", "rows", "bytes", "bytes_written", "download_bytes", "manifest_digest", "seal")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    status: SnapshotStatus
    reason: str
    partitions: int
    partitions_done: int
    rows: int
    bytes: int
    bytes_written: int
    download_bytes: int
    manifest_digest: str
    seal: PartSeal
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ..., status: _Optional[_Union[SnapshotStatus, str]] = ..., reason: _Optional[str] = ..., partitions: _Optional[int] = ..., partitions_done: _Optional[int] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., bytes_written: _Optional[int] = ..., download_bytes: _Optional[int] = ..., manifest_digest: _Optional[str] = ..., seal: _Optional[_Union[PartSeal, _Mapping]] = ...) -> None: ...

class PartSeal(_message.Message):
    __slots__ = ("recipients",)
    RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    recipients: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, recipients: _Optional[_Iterable[str]] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("uuid", "status", "reason", "parts", "partitions", "partitions_covered", "copies_min", "created_ms", "lineage", "cluster_id", "upload")
    UUID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_COVERED_FIELD_NUMBER: _ClassVar[int]
    COPIES_MIN_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    status: SnapshotStatus
    reason: str
    parts: _containers.RepeatedCompositeFieldContainer[SnapshotPart]
    partitions: int
    partitions_covered: int
    copies_min: int
    created_ms: int
    lineage: str
    cluster_id: str
    upload: Upload
    def __init__(self, uuid: _Optional[str] = ..., status: _Optional[_Union[SnapshotStatus, str]] = ..., reason: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[SnapshotPart, _Mapping]]] = ..., partitions: _Optional[int] = ..., partitions_covered: _Optional[int] = ..., copies_min: _Optional[int] = ..., created_ms: _Optional[int] = ..., lineage: _Optional[str] = ..., cluster_id: _Optional[str] = ..., upload: _Optional[_Union[Upload, _Mapping]] = ...) -> None: ...

class CreateSnapshotRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    def __init__(self, request_id: _Optional[bytes] = ...) -> None: ...

class CreateSnapshotResponse(_message.Message):
    __slots__ = ("snapshot", "warning")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    warning: str
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., warning: _Optional[str] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("uuid", "local")
    UUID_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    local: bool
    def __init__(self, uuid: _Optional[str] = ..., local: bool = ...) -> None: ...

class GetSnapshotResponse(_message.Message):
    __slots__ = ("snapshot", "answered_by", "local")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_BY_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    answered_by: int
    local: _types_pb2.LocalAnswer
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., answered_by: _Optional[int] = ..., local: _Optional[_Union[_types_pb2.LocalAnswer, _Mapping]] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "local")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    local: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., local: bool = ...) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots", "next_page_token", "cluster_id", "local")
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[Snapshot]
    next_page_token: str
    cluster_id: str
    local: _types_pb2.LocalAnswer
    def __init__(self, snapshots: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., cluster_id: _Optional[str] = ..., local: _Optional[_Union[_types_pb2.LocalAnswer, _Mapping]] = ...) -> None: ...

class DeleteSnapshotRequest(_message.Message):
    __slots__ = ("uuid", "lineage")
    UUID_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    lineage: str
    def __init__(self, uuid: _Optional[str] = ..., lineage: _Optional[str] = ...) -> None: ...

class DeletedPart(_message.Message):
    __slots__ = ("node_id", "address", "lineage", "deletion", "reason")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    DELETION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    lineage: str
    deletion: PartDeletion
    reason: str
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ..., lineage: _Optional[str] = ..., deletion: _Optional[_Union[PartDeletion, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class DeleteSnapshotResponse(_message.Message):
    __slots__ = ("parts", "known")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[DeletedPart]
    known: bool
    def __init__(self, parts: _Optional[_Iterable[_Union[DeletedPart, _Mapping]]] = ..., known: bool = ...) -> None: ...

class UploadSnapshotRequest(_message.Message):
    __slots__ = ("uuid",)
    UUID_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    def __init__(self, uuid: _Optional[str] = ...) -> None: ...

class UploadSnapshotResponse(_message.Message):
    __slots__ = ("upload",)
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    upload: Upload
    def __init__(self, upload: _Optional[_Union[Upload, _Mapping]] = ...) -> None: ...

class ListOrphansRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class Orphan(_message.Message):
    __slots__ = ("node_id", "address", "uuid", "lineage", "written_ms", "stored_bytes", "damage", "left_by")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_MS_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    LEFT_BY_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    uuid: str
    lineage: str
    written_ms: int
    stored_bytes: int
    damage: str
    left_by: int
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ..., uuid: _Optional[str] = ..., lineage: _Optional[str] = ..., written_ms: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., damage: _Optional[str] = ..., left_by: _Optional[int] = ...) -> None: ...

class UnansweredNode(_message.Message):
    __slots__ = ("node_id", "address", "reason")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    reason: str
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListOrphansResponse(_message.Message):
    __slots__ = ("orphans", "next_page_token", "unanswered")
    ORPHANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    orphans: _containers.RepeatedCompositeFieldContainer[Orphan]
    next_page_token: str
    unanswered: _containers.RepeatedCompositeFieldContainer[UnansweredNode]
    def __init__(self, orphans: _Optional[_Iterable[_Union[Orphan, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unanswered: _Optional[_Iterable[_Union[UnansweredNode, _Mapping]]] = ...) -> None: ...

class DownloadSnapshotRequest(_message.Message):
    __slots__ = ("uuid", "node_id", "offset")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    node_id: int
    offset: int
    def __init__(self, uuid: _Optional[str] = ..., node_id: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadHeader(_message.Message):
    __slots__ = ("node_id", "total_bytes", "offset")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    total_bytes: int
    offset: int
    def __init__(self, node_id: _Optional[int] = ..., total_bytes: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadTrailer(_message.Message):
    __slots__ = ("total_bytes", "digest")
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    digest: str
    def __init__(self, total_bytes: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class DownloadSnapshotResponse(_message.Message):
    __slots__ = ("header", "data", "trailer")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    header: DownloadHeader
    data: bytes
    trailer: DownloadTrailer
    def __init__(self, header: _Optional[_Union[DownloadHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., trailer: _Optional[_Union[DownloadTrailer, _Mapping]] = ...) -> None: ...
