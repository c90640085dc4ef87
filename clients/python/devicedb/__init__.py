"""DeviceDB's client: data, sites, relays, and snapshots of the whole cluster that a backup script can trust.

    import devicedb

    with devicedb.Client("node1.example:8080,node2.example:8080") as client:
        client.sites.add("shop-1")
        client.put("shop-1", b"color", b"blue")
        snapshot = client.snapshots.create(wait=True)
        for part in (part for part in snapshot.parts if part.download_bytes):  # a node that was away has none
            client.snapshots.download(snapshot.uuid, part.node_id, f"{snapshot.uuid}-{part.node_id}.tar")

`Client` is for threads, `AsyncClient` for asyncio; both have the same calls. Answers are the contract's own messages, under `devicedb.v1`. Errors are
classes by what the caller can do next. Times are seconds, sizes are bytes, keys and values are bytes.
"""

from ._async import AsyncClient, AsyncRelays, AsyncSites, AsyncSnapshots
from ._credentials import Tls
from ._errors import (
    Closed,
    Conflict,
    Corrupt,
    Error,
    Exhausted,
    Failed,
    InvalidArgument,
    LocalFile,
    NotFound,
    NotPermitted,
    OtherCluster,
    Unauthenticated,
    Unavailable,
    UnknownOutcome,
    Unsupported,
)
from ._part import Part, Summary, summarize, verify
from ._receive import partial_path
from ._requests import Bucket, Delete, Put
from ._sync import Client, Relays, Sites, Snapshots
from ._version import VERSION as __version__

__all__ = [
    "AsyncClient",
    "AsyncRelays",
    "AsyncSites",
    "AsyncSnapshots",
    "Bucket",
    "Client",
    "Closed",
    "Conflict",
    "Corrupt",
    "Delete",
    "Error",
    "Exhausted",
    "Failed",
    "InvalidArgument",
    "LocalFile",
    "NotFound",
    "NotPermitted",
    "OtherCluster",
    "Part",
    "Put",
    "Relays",
    "Sites",
    "Snapshots",
    "Summary",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "UnknownOutcome",
    "Unsupported",
    "__version__",
    "partial_path",
    "summarize",
    "verify",
]
