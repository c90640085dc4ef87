"""What a caller says, as types that cannot be wrong: wrong types are told at once, by the name of the argument."""

from __future__ import annotations

import dataclasses
import enum
import os
import uuid as uuids
from collections.abc import Iterable, Sequence
from typing import Any

from ._errors import InvalidArgument
from .v1 import kv_pb2, types_pb2


class Bucket(enum.IntEnum):
    """How concurrent writes of one key are settled, and who may write."""

    DEFAULT = types_pb2.BUCKET_DEFAULT
    """Concurrent values stand side by side as siblings."""
    LWW = types_pb2.BUCKET_LWW
    """The value with the newest timestamp stands."""
    CLOUD = types_pb2.BUCKET_CLOUD
    """As DEFAULT; relays only read it."""
    LOCAL = types_pb2.BUCKET_LOCAL
    """A relay's own: the cluster refuses it."""


@dataclasses.dataclass(frozen=True)
class Put:
    """A step of a batch: writes a value. `context` and `timestamp_ms` as in Client.put."""

    key: bytes
    value: bytes
    context: bytes | None = None
    timestamp_ms: int | None = None


@dataclasses.dataclass(frozen=True)
class Delete:
    """A step of a batch: deletes a key. `context` and `timestamp_ms` as in Client.put."""

    key: bytes
    context: bytes | None = None
    timestamp_ms: int | None = None


def need(name: str, value: Any, kind: type, *, absent: bool = False) -> Any:
    """The value, if it is of this type."""
    if (absent and value is None) or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    hint = ": encode it, as in 'text'.encode()" if kind is bytes and isinstance(value, str) else ""
    raise TypeError(f"{name} must be {kind.__name__}{' or None' if absent else ''}, not {type(value).__name__}{hint}")


def endpoints_of(endpoints: str | Iterable[str]) -> list[str]:
    """host:port, one or several."""
    listed = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    if not listed:
        raise InvalidArgument("there is no endpoint: name at least one, as in node1.example:8080")
    for endpoint in listed:
        host, colon, port = need("an endpoint", endpoint, str).rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536) or "/" in host:
            raise InvalidArgument(f"{endpoint!r} is no endpoint: write host:port, as in node1.example:8080")
    return listed


def request_id_of(request_id: bytes | None) -> bytes:
    """16 bytes: the caller's or new ones."""
    if need("request_id", request_id, bytes, absent=True) is None:
        return uuids.uuid4().bytes
    if len(request_id or b"") != 16:
        raise InvalidArgument(f"request_id has {len(request_id or b'')} bytes and not 16")
    return request_id or b""


def uuid_of(uuid: str | uuids.UUID) -> str:
    """A snapshot's name in its usual form."""
    if isinstance(uuid, uuids.UUID):
        return str(uuid)
    try:
        return str(uuids.UUID(need("uuid", uuid, str)))
    except ValueError:
        raise InvalidArgument(f"{uuid!r} is not a uuid, as in 19a7e40e-adcc-4cc2-87a7-ae599272b050") from None


def consistency(stale: bool) -> types_pb2.Consistency:
    return types_pb2.CONSISTENCY_STALE if need("stale", stale, bool) else types_pb2.CONSISTENCY_LINEARIZABLE


def get(site: str, key: bytes, bucket: Bucket, stale: bool) -> kv_pb2.GetRequest:
    return kv_pb2.GetRequest(**_place(site, bucket), key=need("key", key, bytes), consistency=consistency(stale))


def put(site: str, key: bytes, value: bytes, bucket: Bucket, context: bytes | None, timestamp_ms: int | None, request_id: bytes | None) -> kv_pb2.PutRequest:
    step: dict[str, Any] = {**_step(key, context, timestamp_ms), "request_id": request_id_of(request_id)}
    return kv_pb2.PutRequest(**_place(site, bucket), value=need("value", value, bytes), **step)


def delete(site: str, key: bytes, bucket: Bucket, context: bytes | None, timestamp_ms: int | None, request_id: bytes | None) -> kv_pb2.DeleteRequest:
    return kv_pb2.DeleteRequest(**_place(site, bucket), **_step(key, context, timestamp_ms), request_id=request_id_of(request_id))


def batch(site: str, operations: Sequence[Put | Delete], bucket: Bucket, request_id: bytes | None) -> kv_pb2.BatchRequest:
    return kv_pb2.BatchRequest(**_place(site, bucket), operations=[_operation(o) for o in operations], request_id=request_id_of(request_id))


def scan(site: str, prefix: bytes, bucket: Bucket, after: bytes, limit: int, keys_only: bool, stale: bool) -> kv_pb2.ScanRequest:
    return kv_pb2.ScanRequest(
        **_place(site, bucket),
        prefix=need("prefix", prefix, bytes),
        after=need("after", after, bytes),
        limit=natural("limit", limit),
        keys_only=need("keys_only", keys_only, bool),
        consistency=consistency(stale),
    )


def natural(name: str, value: int) -> int:
    if not 0 <= need(name, value, int) < 1 << 64:
        raise InvalidArgument(f"{name} is {value} and must be from 0 to 2^64 - 1")
    return value


def file_path(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return str(need("path", name, str))


def _place(site: str, bucket: Bucket) -> dict[str, Any]:
    return {"site": need("site", site, str), "bucket": need("bucket", bucket, int)}


def _step(key: bytes, context: bytes | None, timestamp_ms: int | None) -> dict[str, Any]:
    step: dict[str, Any] = {"key": need("key", key, bytes)}
    if need("context", context, bytes, absent=True) is not None:
        step["context"] = context
    if timestamp_ms is not None:
        step["timestamp_ms"] = natural("timestamp_ms", timestamp_ms)
    return step


def _operation(operation: Put | Delete) -> kv_pb2.BatchOperation:
    if not isinstance(operation, Put | Delete):
        raise TypeError(f"an operation must be Put or Delete, not {type(operation).__name__}")
    action: dict[str, Any] = {"put": need("value", operation.value, bytes)} if isinstance(operation, Put) else {"delete": True}
    return kv_pb2.BatchOperation(**_step(operation.key, operation.context, operation.timestamp_ms), **action)
