"""The client for threads. Made from `_async` by tools/make_sync.py.

Every call of the contract can be repeated: reads because they are reads, writes because they carry a request id or name the state they want. So one loop
serves all: an attempt at an endpoint, a look at its fault, the next attempt. What differs is what is said when the time is over.
"""

from __future__ import annotations

import os
import threading
import time
import uuid as uuids
from collections.abc import Callable, Generator, Iterator, Iterable, Sequence
from contextlib import closing
from typing import Any, TypeVar

from . import _identity as identity
from . import _requests as requests
from . import _shell_sync as shell
from ._attempts import Attempt, Attempts
from ._credentials import Credentials, Tls
from ._errors import NOT_TRUSTED, Closed, Error, Failed, Fault, Faults, InvalidArgument, Unavailable, Unsupported, late, no_time, not_connected
from ._part import Part
from ._receive import Receiver
from ._requests import Bucket, Delete, Put
from ._version import VERSION
from .v1 import cluster_pb2, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc, snapshot_pb2, snapshot_pb2_grpc

A = TypeVar("A")

# Seconds that one attempt to connect may take, so that an address that swallows packets does not eat the whole timeout.
CONNECT = 3.0
LOOK_MIN = 0.1
LOOK_MAX = 1.0
# Sites whose leader is remembered.
LEADERS_MAX = 4096
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.primary_user_agent", f"devicedb-python/{VERSION}"),
    # The largest answer is one key with every sibling at its largest, and what frames it.
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A connection that is silent is asked whether it lives, also while no call is under way, so that what stands between does not forget it.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


class _Node:
    """An endpoint: its channel, whether it is known to answer, and how many calls are under way on it."""

    def __init__(self, endpoint: str, options: Sequence[tuple[str, Any]], credentials: Credentials) -> None:
        # First: a set that changes now makes this channel one of the former.
        self.generation = credentials.generation
        self.channel = shell.open_channel(endpoint, [*CHANNEL_OPTIONS, *credentials.options(), *options], credentials.channel())
        self.users = 0
        self.proven = False
        self.health: Any = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        self.kv: Any = kv_pb2_grpc.KvServiceStub(self.channel)
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(self.channel)
        self.snapshots: Any = snapshot_pb2_grpc.SnapshotServiceStub(self.channel)


class Client:
    """A client of a DeviceDB cluster. It may be shared by threads, and is closed by `with` or `close()`.

    Args:
        endpoints: host:port of one or more nodes, as a list or with commas; of a proxy, one is enough. Every endpoint is tried once before any is
            tried again. Leaders are asked directly where they are among the endpoints. Several are asked before the first call whether they are of one
            cluster; OtherCluster is raised where they are not.
        timeout: seconds for each call as a whole, retries included. Scans, downloads and waits may take longer as long as something keeps arriving
            within that time.
        channel_options: further options of gRPC's channels.
        cluster_id: the cluster that is meant, as `overview` tells it: nodes of any other refuse every call with OtherCluster. None takes it from the
            environment, DDBCTL_CLUSTER_ID, if it is there.
        tls: files for connections over TLS. None speaks without it.
        token: says who the caller is, as in `ddb_...`. It is sent over TLS only, or to this machine.
        token_file: a file that holds a token and nothing else; read again when it changes.

    Calls raise subclasses of `Error`, named by what the caller can do next, and TypeError for arguments of wrong types. Each takes a `timeout` of its
    own, in seconds.

    Attributes:
        sites: the sites of the cluster.
        relays: its relays.
        snapshots: its snapshots.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        timeout: float = 10.0,
        channel_options: Sequence[tuple[str, Any]] = (),
        cluster_id: str | uuids.UUID | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._endpoints = requests.endpoints_of(endpoints)
        self._credentials = Credentials(self._endpoints, tls, token, token_file)
        self._timeout = _seconds(timeout)
        self._options = channel_options
        self._cluster_id = identity.pinned(cluster_id)
        self._settled = bool(self._cluster_id) or len(self._endpoints) == 1
        self._nodes: list[_Node | None] = [None] * len(self._endpoints)
        # Channels that were opened with other files, as long as calls are under way on them.
        self._retired: set[_Node] = set()
        self._lock = threading.Lock()
        self._preferred = 0
        self._leaders: dict[str, int] = {}
        self._closed = False
        self.sites = Sites(self)
        self.relays = Relays(self)
        self.snapshots = Snapshots(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections. Calls under way and later ones raise Closed."""
        with self._lock:
            self._closed = True
            nodes = [node for node in self._nodes if node is not None] + list(self._retired)
        for node in nodes:
            shell.close_channel(node.channel)

    # Data

    def get(self, site: str, key: bytes, *, bucket: Bucket = Bucket.DEFAULT, stale: bool = False, timeout: float | None = None) -> kv_pb2.GetResponse:
        """Reads one key: its concurrent values as `siblings`, none where it does not exist, and the `context` to write with.

        With `stale` the answer is whatever the contacted node holds, and possibly old.
        """
        request = requests.get(site, key, bucket, stale)
        return self._call(Faults(f"get {key!r} of site {site!r}", self._endpoints), lambda n: n.kv.Get, request, timeout, site)

    def put(
        self,
        site: str,
        key: bytes,
        value: bytes,
        *,
        bucket: Bucket = Bucket.DEFAULT,
        context: bytes | None = None,
        timestamp_ms: int | None = None,
        request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> kv_pb2.PutResponse:
        """Writes one key: 1 to 1024 bytes, with a value of at most 1 MiB. When it returns, the write is on disk on a majority of replicas.

        Args:
            context: of the read that this write follows from; values not seen by it stay as siblings. None overwrites all. Not used in Bucket.LWW.
            timestamp_ms: for Bucket.LWW, milliseconds since 1970. None is made newer than what stands.
            request_id: 16 bytes of an UnknownOutcome, to repeat that write. None draws new ones.
        """
        request = requests.put(site, key, value, bucket, context, timestamp_ms, request_id)
        return self._call(self._write(f"put {key!r} of site {site!r}", request.request_id), lambda n: n.kv.Put, request, timeout, site)

    def delete(
        self,
        site: str,
        key: bytes,
        *,
        bucket: Bucket = Bucket.DEFAULT,
        context: bytes | None = None,
        timestamp_ms: int | None = None,
        request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> kv_pb2.DeleteResponse:
        """Deletes one key; arguments as in `put`. Deleting a key that does not exist is no error."""
        request = requests.delete(site, key, bucket, context, timestamp_ms, request_id)
        return self._call(self._write(f"delete {key!r} of site {site!r}", request.request_id), lambda n: n.kv.Delete, request, timeout, site)

    def batch(
        self,
        site: str,
        operations: Sequence[Put | Delete],
        *,
        bucket: Bucket = Bucket.DEFAULT,
        request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> kv_pb2.BatchResponse:
        """Writes several keys of one site and bucket, all or none: 1 to 4096 steps, at most 4 MiB of keys and values."""
        request = requests.batch(site, operations, bucket, request_id)
        faults = self._write(f"write a batch to site {site!r}", request.request_id)
        return self._call(faults, lambda n: n.kv.Batch, request, timeout, site)

    def scan(
        self,
        site: str,
        prefix: bytes = b"",
        *,
        bucket: Bucket = Bucket.DEFAULT,
        after: bytes = b"",
        limit: int = 0,
        keys_only: bool = False,
        stale: bool = False,
        timeout: float | None = None,
    ) -> Iterator[kv_pb2.ScanEntry]:
        """Goes through the keys with a prefix in key order. Pages are linearizable, the scan as a whole is not one instant.

        Args:
            after: only keys behind this one.
            limit: at most so many keys; 0 for all.
            keys_only: leave the values out.
            timeout: seconds within which something has to arrive; the time between two items that the caller takes does not count.
        """
        request = requests.scan(site, prefix, bucket, after, limit, keys_only, stale)
        left = limit
        pages = self._stream(
            Faults(f"scan site {site!r}", self._endpoints), lambda n: n.kv.Scan, lambda: request, lambda page: bool(page.entries), timeout, True
        )
        with closing(pages):
            for page in pages:
                for entry in page.entries:
                    request.after = entry.key
                    left -= 1
                    request.limit = max(left, 0)
                    yield entry
                    if left == 0:
                        return

    # The cluster

    def overview(self, *, timeout: float | None = None) -> cluster_pb2.GetOverviewResponse:
        """The cluster at a glance, with what every node said within a second."""
        faults = Faults("look at the cluster", self._endpoints)
        return self._call(faults, lambda n: n.cluster.GetOverview, cluster_pb2.GetOverviewRequest(), timeout)

    def nodes(self, *, timeout: float | None = None) -> list[cluster_pb2.Node]:
        """The nodes, by id."""
        faults = Faults("list the nodes", self._endpoints)
        return self._pages(faults, lambda n: n.cluster.ListNodes, cluster_pb2.ListNodesRequest(), lambda page: page.nodes, timeout)

    def partitions(self, *, timeout: float | None = None) -> list[cluster_pb2.Partition]:
        """The partitions and where they are, by number."""
        faults = Faults("list the partitions", self._endpoints)
        return self._pages(faults, lambda n: n.cluster.ListPartitions, cluster_pb2.ListPartitionsRequest(), lambda page: page.partitions, timeout)

    # What all calls share

    def _write(self, what: str, request_id: bytes | None = None) -> Faults:
        return Faults(what, self._endpoints, write=True, request_id=request_id)

    def _call(
        self, faults: Faults, method: Callable[[_Node], Any], request: Any, timeout: float | None = None, site: str = "", *, patient: bool = False
    ) -> Any:
        """One question, one answer."""
        first = self._leaders.get(site, self._preferred)
        attempts = Attempts(len(self._endpoints), first, time.monotonic(), self._patience(timeout), patient=patient)
        self._settle(faults.what, self._patience(timeout), patient)
        while (attempt := attempts.next(time.monotonic())) is not None:
            node = None
            try:
                node = self._hold(attempt)
                left = self._connect(attempts, attempt, node)
                answer = shell.unary(method(node), request, left, self._metadata())
            except Fault as fault:
                self._note(attempts, faults, attempt, fault, site)
                if not fault.rule.again:
                    break
                continue
            finally:
                if node is not None:
                    self._release(node)
            self._preferred = attempt.endpoint
            if site:
                self._follow(site, answer.leader.address)
            return answer
        raise faults.error()

    def _remove(self, faults: Faults, method: Callable[[_Node], Any], request: Any, timeout: float | None) -> None:
        """As `_call`, for what makes something vanish: when an earlier attempt may have done it and the last finds nothing, it is done."""
        try:
            self._call(faults, method, request, timeout)
        except Error:
            if not faults.done_before(list(faults.last.values())[-1] if faults.last else late(0)):
                raise

    def _pages(self, faults: Faults, method: Callable[[_Node], Any], request: Any, split: Callable[[Any], Iterable[A]], timeout: float | None) -> list[A]:
        """Every page of a list."""
        found: list[A] = []
        while True:
            page = self._call(faults, method, request, timeout)
            found.extend(split(page))
            if not page.next_page_token:
                return found
            if page.next_page_token == request.page_token:
                raise Failed(f"cannot {faults.what}: the list does not end: a page names itself as the next one")
            request.page_token = page.next_page_token

    def _stream(
        self,
        faults: Faults,
        method: Callable[[_Node], Any],
        request: Callable[[], Any],
        counts: Callable[[Any], bool],
        timeout: float | None,
        ends: bool,
    ) -> Generator[Any, None, None]:
        """One question, a stream of messages. One that breaks is opened again with what `request` then says, for as long as what `counts` arrives."""
        attempts = Attempts(len(self._endpoints), self._preferred, time.monotonic(), self._patience(timeout))
        self._settle(faults.what, self._patience(timeout), False)
        while (attempt := attempts.next(time.monotonic())) is not None:
            stream, node = None, None
            try:
                node = self._hold(attempt)
                left = self._connect(attempts, attempt, node)
                stream = shell.Stream[Any](method(node), request(), self._metadata())
                while (message := stream.next(left, ends)) is not None:
                    yield message
                    if counts(message):
                        self._preferred = attempt.endpoint
                        left = attempts.progress(time.monotonic())
                return
            except Fault as fault:
                self._note(attempts, faults, attempt, fault, "")
                if not fault.rule.again:
                    break
            finally:
                if stream is not None:
                    stream.cancel()
                if node is not None:
                    self._release(node)
        raise faults.error()

    def _settle(self, what: str, patience: float, patient: bool) -> None:
        """Finds out which cluster the endpoints belong to, unless that is known."""
        if self._settled:
            return
        # The endpoints together are as one: whoever answers speaks for all that do not.
        attempts = Attempts(1, 0, time.monotonic(), patience, patient=patient)
        faults = Faults(what, self._endpoints)
        while (attempt := attempts.next(time.monotonic())) is not None:
            if attempt.after:
                shell.sleep(attempt.after)
            nodes = [self._take(at) for at in range(len(self._endpoints))]
            try:
                questions = [node.cluster.GetIdentity for node in nodes]
                answers = shell.each(questions, identity.REQUEST, min(attempt.within, identity.ANSWER), self._metadata())
            finally:
                for node in nodes:
                    self._release(node)
            said, too_old = [], 0
            for at, answer in enumerate(answers):
                if not isinstance(answer, Fault):
                    said.append((self._endpoints[at], answer))
                elif answer.rule.error is Unsupported:
                    too_old += 1
                else:
                    faults.add(at, answer)
                    continue
                nodes[at].proven = True
            if said or too_old:
                self._cluster_id = identity.compare(what, said)
                self._settled = bool(self._cluster_id) or not said
                return
            if self._closed:
                raise Closed(f"cannot {what}: the client was closed meanwhile")
            if any(not fault.rule.again for fault in faults.last.values()):
                break
        raise faults.error()

    def _metadata(self) -> shell.Metadata:
        """Says with a call which cluster it is for, and who makes it."""
        meant = ((identity.HEADER, self._cluster_id),) if self._cluster_id else ()
        return (*meant, *self._credentials.metadata())

    def _take(self, at: int) -> _Node:
        """The endpoint's channel, opened anew if files have changed. Whoever takes it gives it back with `_release`."""
        if self._credentials.is_due():
            shell.run(self._credentials.look)
        old = None
        with self._lock:
            if self._closed:
                raise Closed("the client is closed")
            node = self._nodes[at]
            if node is not None and node.generation != self._credentials.generation:
                node.users += 1
                self._retired.add(node)
                old, node = node, None
            if node is None:
                node = self._nodes[at] = _Node(self._endpoints[at], self._options, self._credentials)
            node.users += 1
        if old is not None:
            self._release(old)
        return node

    def _release(self, node: _Node) -> None:
        with self._lock:
            node.users -= 1
            is_over = node.users == 0 and node in self._retired
            self._retired -= {node} if is_over else set()
        if is_over:
            shell.close_channel(node.channel)

    def _hold(self, attempt: Attempt) -> _Node:
        """Waits for its turn, and takes the channel."""
        if attempt.after:
            shell.sleep(attempt.after)
        return self._take(attempt.endpoint)

    def _connect(self, attempts: Attempts, attempt: Attempt, node: _Node) -> float:
        """Sees that somebody answers there, and says how much of the attempt's time is left.

        The question is one that changes nothing, so that what cannot connect is known to have had no effect.
        """
        began = time.monotonic()
        if not node.proven:
            within = min(attempt.within, CONNECT)
            try:
                shell.unary(node.health, b"", within)
            except Fault as fault:
                if fault.rule is NOT_TRUSTED:
                    raise
                # Any other answer is an answer, also that there is no such service.
                if fault.rule.error is Unavailable:
                    raise not_connected(fault.message) from None
            node.proven = True
        attempts.connected()
        left = attempt.within - (time.monotonic() - began)
        if left <= 0:
            raise no_time()
        return left

    def _note(self, attempts: Attempts, faults: Faults, attempt: Attempt, fault: Fault, site: str) -> None:
        if self._closed:
            raise Closed(f"cannot {faults.what}: the client was closed meanwhile")
        if fault.rule.slower:
            attempts.slower(fault.rest)
        node = self._nodes[attempt.endpoint]
        if fault.rule.error is Unavailable:
            self._leaders.pop(site, None)
            if node is not None:
                node.proven = False
        faults.add(attempt.endpoint, fault)

    def _follow(self, site: str, leader: str) -> None:
        """Remembers who led, if it can be asked directly: behind a proxy nobody is."""
        if leader in self._endpoints:
            if len(self._leaders) >= LEADERS_MAX:
                self._leaders.clear()
            self._leaders[site] = self._endpoints.index(leader)

    def _patience(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else _seconds(timeout)


def _seconds(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout <= 86400 * 365:
        raise InvalidArgument(f"timeout is {timeout} s: it must be above 0 and at most a year")
    return float(timeout)


class Sites:
    """The sites of a cluster. A site is a tenant's database; its name has 1 to 255 bytes of UTF-8 without control characters."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(self, site: str, *, timeout: float | None = None) -> cluster_pb2.AddSiteResponse:
        """Adds a site. Adding one that exists changes nothing; `created` is false then, or when an earlier attempt of this call had its effect."""
        request = cluster_pb2.AddSiteRequest(site=requests.need("site", site, str))
        return self._client._call(self._client._write(f"add site {site!r}"), lambda n: n.cluster.AddSite, request, timeout)

    def remove(self, site: str, *, timeout: float | None = None) -> None:
        """Removes a site and all its data."""
        request = cluster_pb2.RemoveSiteRequest(site=requests.need("site", site, str))
        self._client._remove(self._client._write(f"remove site {site!r}"), lambda n: n.cluster.RemoveSite, request, timeout)

    def list(self, *, timeout: float | None = None) -> list[cluster_pb2.Site]:
        """The sites, by name."""
        faults = Faults("list the sites", self._client._endpoints)
        return self._client._pages(faults, lambda n: n.cluster.ListSites, cluster_pb2.ListSitesRequest(), lambda page: page.sites, timeout)


class Relays:
    """The relays of a cluster: edge gateways, each of at most one site. Only their registration is kept so far."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(self, relay: str, site: str = "", *, timeout: float | None = None) -> cluster_pb2.AddRelayResponse:
        """Registers a relay, with a site or without. Adding one that exists changes nothing; `created` as with sites."""
        request = cluster_pb2.AddRelayRequest(relay=requests.need("relay", relay, str), site=requests.need("site", site, str))
        return self._client._call(self._client._write(f"add relay {relay!r}"), lambda n: n.cluster.AddRelay, request, timeout)

    def remove(self, relay: str, *, timeout: float | None = None) -> None:
        """Removes a relay from the registry."""
        request = cluster_pb2.RemoveRelayRequest(relay=requests.need("relay", relay, str))
        self._client._remove(self._client._write(f"remove relay {relay!r}"), lambda n: n.cluster.RemoveRelay, request, timeout)

    def move(self, relay: str, site: str = "", *, timeout: float | None = None) -> cluster_pb2.Relay:
        """Gives a relay to another site, or to none."""
        request = cluster_pb2.MoveRelayRequest(relay=requests.need("relay", relay, str), site=requests.need("site", site, str))
        answer = self._client._call(self._client._write(f"move relay {relay!r}"), lambda n: n.cluster.MoveRelay, request, timeout)
        relay_now: cluster_pb2.Relay = answer.relay
        return relay_now

    def list(self, site: str = "", *, timeout: float | None = None) -> list[cluster_pb2.Relay]:
        """The relays, by name; of one site if it is named."""
        faults = Faults("list the relays", self._client._endpoints)
        request = cluster_pb2.ListRelaysRequest(site=requests.need("site", site, str))
        return self._client._pages(faults, lambda n: n.cluster.ListRelays, request, lambda page: page.relays, timeout)


class Snapshots:
    """The snapshots of a cluster, named by uuids."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
        self,
        *,
        wait: bool = False,
        uuid: str | uuids.UUID | None = None,
        wait_timeout: float = 3600,
        on_progress: Callable[[snapshot_pb2.Snapshot], None] | None = None,
        timeout: float | None = None,
    ) -> snapshot_pb2.Snapshot:
        """Takes a snapshot of the whole cluster.

        Args:
            wait: return when no part is being written any more, and not at once.
            uuid: its name; the same uuid is the same snapshot, so repeating the call with it is safe. None draws one.
            wait_timeout: seconds to wait at most. The snapshot goes on without us.
            on_progress: called with the snapshot at every look.
            timeout: seconds for each look.

        Raises:
            Failed: it cannot be completed any more; the text has the reason.
            Conflict: another snapshot is being taken.
            Unavailable: `wait_timeout` is over, or no node answers; `status` tells later.
        """
        name = uuids.UUID(requests.uuid_of(uuid)) if uuid is not None else uuids.uuid4()
        limit = time.monotonic() + _seconds(wait_timeout)
        request = snapshot_pb2.CreateSnapshotRequest(request_id=name.bytes)
        faults = self._client._write(f"take snapshot {name}", name.bytes)
        answer = self._client._call(faults, lambda n: n.snapshots.CreateSnapshot, request, timeout)
        snapshot: snapshot_pb2.Snapshot = answer.snapshot
        pause = LOOK_MIN
        while True:
            if on_progress is not None:
                on_progress(snapshot)
            if snapshot.status in _OVER:
                raise Failed(f"snapshot {name} failed: {snapshot.reason or 'it was deleted meanwhile'}")
            if not wait or not _under_way(snapshot):
                return snapshot
            if time.monotonic() + pause > limit:
                raise Unavailable(f"snapshot {name} is still processing after {wait_timeout} s: it goes on; look with status")
            shell.sleep(pause)
            pause = min(pause * 2, LOOK_MAX)
            snapshot = self._look(name, timeout, patient=True)

    def upload(
        self,
        uuid: str | uuids.UUID,
        *,
        wait: bool = False,
        wait_timeout: float = 86400,
        on_progress: Callable[[snapshot_pb2.Upload], None] | None = None,
        timeout: float | None = None,
    ) -> snapshot_pb2.Upload:
        """Has the nodes store a completed snapshot in their repository. What is stored is not stored again.

        Args:
            wait: return when it is there, and not at once.
            wait_timeout: seconds to wait at most. The upload goes on without us.
            on_progress: called with the upload at every look.
            timeout: seconds for each look.

        Raises:
            Failed: it was given up; the text has the reason. The same call goes on where it ended.
            Conflict: the node that was asked has no repository.
            Unavailable: `wait_timeout` is over, or no node answers; `status` tells later.
        """
        name = uuids.UUID(requests.uuid_of(uuid))
        limit = time.monotonic() + _seconds(wait_timeout)
        request = snapshot_pb2.UploadSnapshotRequest(uuid=str(name))
        faults = self._client._write(f"upload snapshot {name}")
        pause = LOOK_MIN
        upload = snapshot_pb2.Upload()
        while True:
            if upload.status not in _UPLOADING:
                # At first, and where the node that had it stored has ended.
                answer = self._client._call(faults, lambda n: n.snapshots.UploadSnapshot, request, timeout, patient=True)
                upload = answer.upload
            if on_progress is not None:
                on_progress(upload)
            if upload.status == snapshot_pb2.UPLOAD_STATUS_FAILED:
                raise Failed(f"snapshot {name} is not stored: {upload.reason}")
            if not wait or upload.status == snapshot_pb2.UPLOAD_STATUS_STORED:
                return upload
            if time.monotonic() + pause > limit:
                raise Unavailable(f"snapshot {name} is not stored after {wait_timeout} s: it goes on; look with status")
            shell.sleep(pause)
            pause = min(pause * 2, LOOK_MAX)
            upload = (self._look(name, timeout, patient=True)).upload

    def status(self, uuid: str | uuids.UUID, *, timeout: float | None = None) -> snapshot_pb2.Snapshot:
        """How far a snapshot is, in the cluster and on each node. An unknown one has SNAPSHOT_STATUS_MISSING and raises nothing."""
        return self._look(uuids.UUID(requests.uuid_of(uuid)), timeout)

    def list(self, *, timeout: float | None = None) -> list[snapshot_pb2.Snapshot]:
        """The snapshots, newest first."""
        faults = Faults("list the snapshots", self._client._endpoints)
        request = snapshot_pb2.ListSnapshotsRequest()
        return self._client._pages(faults, lambda n: n.snapshots.ListSnapshots, request, lambda page: page.snapshots, timeout)

    def delete(self, uuid: str | uuids.UUID, *, timeout: float | None = None) -> None:
        """Deletes a snapshot on every node and gives its space back; a node that is away does so when it returns."""
        name = requests.uuid_of(uuid)
        request = snapshot_pb2.DeleteSnapshotRequest(uuid=name)
        self._client._remove(self._client._write(f"delete snapshot {name}"), lambda n: n.snapshots.DeleteSnapshot, request, timeout)

    def download(
        self,
        uuid: str | uuids.UUID,
        node: int,
        path: str | os.PathLike[str],
        *,
        resume: bool = True,
        on_progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> Part:
        """Fetches one node's part as a tar, checking every chunk and the digest of the whole.

        What has arrived stands in `partial_path(path)`, and gets its name by rename when it is whole and on disk. A stream that breaks is opened again
        at the byte where it broke, at any endpoint, for as long as bytes keep coming. When the call fails or is interrupted, the partial file stays, its
        name stands in the error, and the same call goes on there. A whole file at `path` is compared and not written. Where `path` is a link, what it
        leads to is written, and the link stays. A device or a FIFO is written through as bytes come, and nothing is kept of a call that failed.

        Args:
            node: the node's id; 0 for the part of the node that is asked.
            resume: False begins anew, whatever an earlier call left.
            on_progress: called with the bytes that are here and the bytes of the whole.
            timeout: seconds within which something has to arrive.

        Raises:
            Unavailable: no node could go on within the timeout; call again.
            NotFound: the cluster or the node has no such part.
            Corrupt: what came, or what lay there, can never become the part; the partial file was removed.
            LocalFile: the file cannot be written, is something else, or is being written by another download.
            KeyboardInterrupt: by the user; its text names the partial file.
        """
        name = requests.uuid_of(uuid)
        file = requests.file_path(path)
        receiver = shell.run(Receiver, name, requests.natural("node", node), file, requests.need("resume", resume, bool))
        faults = Faults(f"download {receiver.whose()}", self._client._endpoints)
        try:
            done = False
            pieces = self._client._stream(faults, lambda n: n.snapshots.DownloadSnapshot, receiver.request, lambda piece: bool(piece.data), timeout, False)
            with closing(pieces):
                for piece in pieces:
                    done = shell.run(receiver.take, piece)
                    if on_progress is not None and receiver.total is not None:
                        on_progress(receiver.received, receiver.total)
                    if done:
                        break
            return shell.run(receiver.finish)
        except Error as error:
            raise receiver.cut_short(error) from error.__cause__
        except KeyboardInterrupt as error:
            error.args = (receiver.interrupted(),)
            raise
        finally:
            receiver.close()

    def _look(self, name: uuids.UUID, timeout: float | None, *, patient: bool = False) -> snapshot_pb2.Snapshot:
        faults = Faults(f"look at snapshot {name}", self._client._endpoints)
        request = snapshot_pb2.GetSnapshotRequest(uuid=str(name))
        answer = self._client._call(faults, lambda n: n.snapshots.GetSnapshot, request, timeout, patient=patient)
        snapshot: snapshot_pb2.Snapshot = answer.snapshot
        return snapshot


# An upload of which more is to be heard.
_UPLOADING = (snapshot_pb2.UPLOAD_STATUS_RUNNING, snapshot_pb2.UPLOAD_STATUS_STORED, snapshot_pb2.UPLOAD_STATUS_FAILED)

# What no snapshot becomes completed from.
_OVER = (
    snapshot_pb2.SNAPSHOT_STATUS_FAILED,
    snapshot_pb2.SNAPSHOT_STATUS_MISSING,
    snapshot_pb2.SNAPSHOT_STATUS_DAMAGED,
    snapshot_pb2.SNAPSHOT_STATUS_DELETING,
)


def _under_way(snapshot: snapshot_pb2.Snapshot) -> bool:
    """Whether something may still come."""
    processing = snapshot_pb2.SNAPSHOT_STATUS_PROCESSING
    return snapshot.status == processing or any(part.status == processing for part in snapshot.parts)
