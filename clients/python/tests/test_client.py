"""What goes wrong: bad input, servers that are away, older, newer or lie, disks that are full. Each is told clearly and in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from blake3 import blake3

import devicedb
from devicedb import _async, _sync
from devicedb._attempts import SLOWER_MAX, Attempt, Attempts
from devicedb.v1 import cluster_pb2, kv_pb2, snapshot_pb2, types_pb2

from cluster import Cluster, Port, until
from fake import Fake, identity, in_turn, refuse

CONFORMANCE = pathlib.Path(__file__).resolve().parents[2] / "conformance"
UUID = "19a7e40e-adcc-4cc2-87a7-ae599272b050"
TABLE = json.loads((CONFORMANCE / "errors.json").read_text())


async def soon(what: str, fact: Callable[[], bool]) -> None:
    """Waits for a fact without holding up the loop; `until` bounds it."""
    await asyncio.to_thread(until, what, fact)


def slow(monkeypatch: pytest.MonkeyPatch, *fakes: Fake) -> None:
    """By the clients' clock every call that these servers see takes 40 s, however long it takes here: a call with 100 s asks three times, on any machine."""
    clock = types.SimpleNamespace(monotonic=lambda: 40.0 * sum(len(fake.seen) for fake in fakes))
    for client in (_sync, _async):
        monkeypatch.setattr(client, "time", clock)


# Arguments


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.put("s", "key", b"v"), "key must be bytes, not str: encode it"),
        (lambda c: c.put("s", b"k", "v"), "value must be bytes, not str"),
        (lambda c: c.put("s", b"k", None), "value must be bytes, not NoneType"),
        (lambda c: c.put(b"s", b"k", b"v"), "site must be str, not bytes"),
        (lambda c: c.put("s", b"k", b"v", context="c"), "context must be bytes or None, not str"),
        (lambda c: c.put("s", b"k", b"v", timestamp_ms=1.5), "timestamp_ms must be int, not float"),
        (lambda c: c.put("s", b"k", b"v", bucket="lww"), "bucket must be int, not str"),
        (lambda c: c.put("s", b"k", b"v", timeout="1"), "timeout must be a number of seconds, not str"),
        (lambda c: c.get("s", bytearray(b"k")), "key must be bytes, not bytearray"),
        (lambda c: c.get("s", b"k", stale=1), "stale must be bool, not int"),
        (lambda c: c.batch("s", [b"k"]), "an operation must be Put or Delete, not bytes"),
        (lambda c: list(c.scan("s", "prefix")), "prefix must be bytes, not str"),
        (lambda c: list(c.scan("s", limit=True)), "limit must be int, not bool"),
        (lambda c: c.sites.add(None), "site must be str, not NoneType"),
        (lambda c: c.snapshots.status(7), "uuid must be str, not int"),
        (lambda c: c.snapshots.download(UUID, "1", "f"), "node must be int, not str"),
        (lambda c: devicedb.verify("one.tar"), "paths must be a list"),
        (lambda c: devicedb.Client([1]), "an endpoint must be str, not int"),
    ],
)
def test_a_wrong_type_is_named_before_anything_is_sent(call: Any, says: str) -> None:
    with Fake() as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(TypeError, match=says):
            call(client)
        assert fake.seen == []


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: devicedb.Client(""), "'' is no endpoint: write host:port"),
        (lambda c: devicedb.Client([]), "there is no endpoint"),
        (lambda c: devicedb.Client("node1"), "'node1' is no endpoint"),
        (lambda c: devicedb.Client("http://node1:80"), "is no endpoint"),
        (lambda c: devicedb.Client("node1:99999"), "is no endpoint"),
        (lambda c: devicedb.Client("a:1", timeout=0), "above 0"),
        (lambda c: c.put("s", b"k", b"v", request_id=b"short"), "5 bytes and not 16"),
        (lambda c: list(c.scan("s", limit=-1)), "limit is -1"),
        (lambda c: c.snapshots.status("x"), "'x' is not a uuid"),
        (lambda c: c.snapshots.create(wait=True, wait_timeout=-1), "above 0"),
        (lambda c: devicedb.verify([]), "no path was given"),
    ],
)
def test_an_argument_that_can_never_work_is_refused_with_what_to_write(call: Any, says: str) -> None:
    with Fake() as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(devicedb.InvalidArgument) as caught:
            call(client)
        assert says in str(caught.value)
        assert fake.seen == []


def test_a_closed_client_says_so_also_to_calls_that_were_under_way() -> None:
    hang = threading.Event()
    with Fake(Get=lambda request, context: (hang.wait(10), b"")[1]) as fake:
        client = devicedb.Client(fake.endpoint)
        caught: list[Exception] = []

        def call() -> None:
            try:
                client.get("s", b"k")
            except Exception as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        asked = ("Get", kv_pb2.GetRequest(site="s", bucket=1, key=b"k", consistency=1).SerializeToString())
        until("the server is asked", lambda: asked in fake.seen)
        client.close()
        thread.join(5)
        hang.set()
        assert [type(error) for error in caught] == [devicedb.Closed]
        for again in (lambda: client.get("s", b"k"), lambda: list(client.scan("s")), lambda: client.snapshots.list()):
            with pytest.raises(devicedb.Closed):
                again()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot tell a closed channel from a cancelled task")
def test_a_closed_asynchronous_client_says_so_also_to_calls_that_were_under_way(tmp_path: pathlib.Path) -> None:
    over = threading.Event()

    async def go(endpoint: str, fake: Fake) -> None:
        client = devicedb.AsyncClient(endpoint)
        calls = [asyncio.create_task(client.get("s", b"k")), asyncio.create_task(client.snapshots.download(UUID, 7, tmp_path / "never.tar"))]
        await soon("both are asked", lambda: len({name for name, _ in fake.seen}) == 2)
        await client.close()
        ends = await asyncio.gather(*calls, client.get("s", b"k"), return_exceptions=True)
        over.set()
        assert [type(end) for end in ends] == [devicedb.Closed] * 3

    with Fake({"DownloadSnapshot": lambda *_: (over.wait(10), iter(()))[1]}, Get=lambda *_: (over.wait(10), b"")[1]) as fake:  # type: ignore[arg-type]
        asyncio.run(go(fake.endpoint, fake))


# Clusters

ONE, TWO = "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11", "7a1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c22"
NOTHING: Any = {"ListSites": lambda *_: b"", "Scan": lambda *_: iter(())}


def both(endpoints: list[str], **options: Any) -> list[Exception | None]:
    """How a call and a stream end, with either client: what was raised, if anything."""

    def ended(work: Callable[[], Any]) -> Exception | None:
        try:
            work()
        except Exception as error:
            return error
        return None

    async def listed() -> None:
        async with devicedb.AsyncClient(endpoints, **options) as client:
            await client.sites.list()

    with devicedb.Client(endpoints, **options) as client:
        return [ended(lambda: client.sites.list()), ended(lambda: list(client.scan("s"))), ended(lambda: asyncio.run(listed()))]


def fakes(*handlers: Any) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.all = [stack.enter_context(Fake({"Scan": NOTHING["Scan"]}, ListSites=NOTHING["ListSites"], **h)) for h in handlers]  # type: ignore[attr-defined]
    return stack


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (identity(ONE), identity(TWO), [f"{{0}} to cluster {ONE}", f"{{1}} to cluster {TWO}", "different clusters"]),
        (identity(ONE, "1"), identity(ONE, "2"), ["{0} to lineage 1", "{1} to lineage 2", "two histories"]),
    ],
)
def test_endpoints_of_two_clusters_or_histories_are_refused_by_name_before_anything_is_asked(first: Any, second: Any, says: list[str]) -> None:
    with fakes({"GetIdentity": first}, {"GetIdentity": second}) as stack:
        one, two = stack.all  # type: ignore[attr-defined]
        for error in both([one.endpoint, two.endpoint]):
            assert isinstance(error, devicedb.OtherCluster)
            for words in says:
                assert words.format(one.endpoint, two.endpoint) in str(error)
        assert {name for name, _ in one.seen + two.seen} == {"GetIdentity"}


def test_every_call_says_which_cluster_it_is_for_once_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Port().endpoint
    cases: list[tuple[Any, Any, dict[str, Any], str | None]] = [
        (identity(ONE), identity(ONE), {}, ONE),
        (identity(ONE), identity(ONE, ""), {}, ONE),
        (identity(""), identity(ONE), {}, ONE),
        (identity(""), identity(""), {}, None),
        (refuse("UNAVAILABLE", "UNAVAILABLE"), identity(ONE), {}, ONE),
        (refuse("UNIMPLEMENTED", None), identity(ONE), {}, ONE),
        (refuse("UNIMPLEMENTED", None), refuse("UNIMPLEMENTED", None), {}, None),
        (identity(TWO), identity(ONE), {"cluster_id": ONE.upper()}, ONE),
    ]
    for first, second, options, meant in cases:
        with fakes({"GetIdentity": first}, {"GetIdentity": second}) as stack:
            asked = stack.all  # type: ignore[attr-defined]
            assert both([away, *(fake.endpoint for fake in asked)], **options) == [None] * 3
            said = [(name, cluster) for fake in asked for (name, _), cluster in zip(fake.seen, fake.meant, strict=True) if name != "GetIdentity"]
            assert len(said) == 3 and {cluster for _, cluster in said} == {meant}
            assert not options or all(name != "GetIdentity" for fake in asked for name, _ in fake.seen), "who named the cluster is not asked to compare"
    with fakes({"GetIdentity": identity(ONE)}) as stack:
        (alone,) = stack.all  # type: ignore[attr-defined]
        assert both([alone.endpoint]) == [None] * 3 and set(alone.meant) == {None}, "one endpoint needs no comparison"
        monkeypatch.setenv("DDBCTL_CLUSTER_ID", TWO)
        assert both([alone.endpoint]) == [None] * 3 and set(alone.meant[3:]) == {TWO}
        monkeypatch.setenv("DDBCTL_CLUSTER_ID", "")
        with pytest.raises(devicedb.InvalidArgument, match="'' is not the id of a cluster"):
            devicedb.Client(alone.endpoint)


def test_where_nobody_says_who_it_is_nothing_is_asked_and_the_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with fakes({"GetIdentity": refuse("UNAVAILABLE", "UNAVAILABLE", message="it restores a part")}) as stack:
        (fake,) = stack.all  # type: ignore[attr-defined]
        slow(monkeypatch, fake)
        for error in both([fake.endpoint, Port().endpoint], timeout=100):
            assert isinstance(error, devicedb.Unavailable) and f"{fake.endpoint} (it restores a part)" in str(error)
        assert {name for name, _ in fake.seen} == {"GetIdentity"}


# Servers


def test_an_endpoint_that_is_not_there_is_named_well_inside_the_timeout() -> None:
    began = time.monotonic()
    with devicedb.Client("127.0.0.1:1", timeout=10) as client, pytest.raises(devicedb.Unavailable) as caught:
        client.put("s", b"k", b"v")
    assert "127.0.0.1:1" in str(caught.value) and "refused" in str(caught.value), caught.value
    assert caught.value.endpoint == "127.0.0.1:1"
    assert time.monotonic() - began < 3


def test_an_endpoint_that_swallows_everything_costs_no_more_than_the_timeout_and_had_no_effect() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with devicedb.Client(endpoint, timeout=1) as client, pytest.raises(devicedb.Unavailable) as caught:
            client.put("s", b"k", b"v")
        assert endpoint in str(caught.value)
        assert 0.9 < time.monotonic() - began < 2


def test_one_dead_endpoint_of_three_is_passed_over(cluster: Cluster) -> None:
    dead = Port()
    for turn in range(3):
        endpoints = cluster.endpoints[:2]
        endpoints.insert(turn, dead.endpoint)
        with devicedb.Client(endpoints, timeout=5) as client:
            client.sites.add("one-dead")
            client.put("one-dead", b"k", b"v")
            assert [s.value for s in client.get("one-dead", b"k").siblings] == [b"v"]
            assert len(list(client.scan("one-dead"))) == 1


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['code']}-{row['reason']}")
def test_every_answer_ends_as_the_table_of_errors_says(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with Fake(Get=refuse(row["code"], row["reason"]), Put=refuse(row["code"], row["reason"])) as fake:
        slow(monkeypatch, fake)
        # Whoever is asked to slow down gives up long before this deadline.
        with devicedb.Client(fake.endpoint, timeout=1000 if row["slower"] else 100) as client:
            with pytest.raises(getattr(devicedb, row["error"])) as caught:
                client.get("s", b"k")
            assert type(caught.value).__name__ == row["error"]
            asked = sum(name == "Get" for name, _ in fake.seen)
            assert asked == (SLOWER_MAX if row["slower"] else 3 if row["again"] else 1)
            with pytest.raises(devicedb.Error) as caught:
                client.put("s", b"k", b"v")
            assert isinstance(caught.value, devicedb.UnknownOutcome) == row["unsure"]
            ids = {kv_pb2.PutRequest.FromString(request).request_id for name, request in fake.seen if name == "Put"}
            assert len(ids) == 1 and len(ids.pop()) == 16


def test_a_server_that_says_how_long_to_wait_is_asked_again_no_earlier() -> None:
    asked: list[float] = []
    refused = refuse("RESOURCE_EXHAUSTED", "EXHAUSTED", rest=0.6)

    def handler(request: bytes, context: Any) -> Any:
        asked.append(time.monotonic())
        return refused(request, context) if len(asked) == 1 else b""

    with Fake(Get=handler) as fake, devicedb.Client(fake.endpoint, timeout=100) as client:
        client.get("s", b"k")
    assert len(asked) == 2 and asked[1] - asked[0] >= 0.6


def test_the_asynchronous_client_ends_as_the_table_says_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go(fake: Fake, row: dict[str, Any]) -> None:
        async with devicedb.AsyncClient(fake.endpoint, timeout=100) as client:
            with pytest.raises(getattr(devicedb, row["error"])):
                await client.get("s", b"k")
            with pytest.raises(getattr(devicedb, row["error"])):
                async for _ in client.scan("s"):
                    pass

    for row in TABLE:
        handler = refuse(row["code"], row["reason"])
        with Fake(Get=handler, streams={"Scan": handler}) as fake:
            slow(monkeypatch, fake)
            asyncio.run(go(fake, row))


def test_a_reason_of_another_domain_is_not_ours() -> None:
    with Fake(Get=refuse("PERMISSION_DENIED", "INVALID", domain="proxy.example")) as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(devicedb.NotPermitted):
            client.get("s", b"k")


def test_a_write_that_was_unsure_once_is_repeated_under_one_name_and_says_so_if_it_ends_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, busy = refuse("UNKNOWN", "UNKNOWN_OUTCOME"), refuse("UNAVAILABLE", "UNAVAILABLE")
    with Fake(Put=in_turn(lost, busy, lambda *_: kv_pb2.PutResponse(context=b"c").SerializeToString())) as fake, devicedb.Client(fake.endpoint) as client:
        assert client.put("s", b"k", b"v").context == b"c"
        assert len({kv_pb2.PutRequest.FromString(r).request_id for n, r in fake.seen if n == "Put"}) == 1
    with Fake(Put=in_turn(lost, busy)) as fake, devicedb.Client(fake.endpoint, timeout=100) as client, monkeypatch.context() as patch:
        slow(patch, fake)
        with pytest.raises(devicedb.UnknownOutcome) as caught:
            client.put("s", b"k", b"v", request_id=b"0123456789abcdef")
        assert caught.value.request_id == b"0123456789abcdef"
    with Fake(Put=in_turn(lost, refuse("NOT_FOUND", "NOT_FOUND"))) as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(devicedb.NotFound, match="an earlier attempt may have taken effect"):
            client.put("s", b"k", b"v")
    with Fake(RemoveSite=in_turn(lost, refuse("NOT_FOUND", "NOT_FOUND"))) as fake, devicedb.Client(fake.endpoint) as client:
        client.sites.remove("s")


def test_a_server_that_is_newer_by_a_field_is_understood(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = b"\xfa\x3f\x05later"  # Field 1023, which this client does not know.
    header = snapshot_pb2.DownloadSnapshotResponse(header=snapshot_pb2.DownloadHeader(node_id=7, total_bytes=0)).SerializeToString()
    calls = {
        "Get": lambda *_: kv_pb2.GetResponse(siblings=[types_pb2.Sibling(value=b"v")]).SerializeToString() + newer,
        "Put": lambda *_: kv_pb2.PutResponse().SerializeToString() + newer,
        "GetOverview": lambda *_: cluster_pb2.GetOverviewResponse(groups=8).SerializeToString() + newer,
        "GetSnapshot": lambda *_: snapshot_pb2.GetSnapshotResponse(snapshot=snapshot_pb2.Snapshot(status=99)).SerializeToString() + newer,  # type: ignore[arg-type]
    }
    streams = {
        "Scan": lambda *_: iter([kv_pb2.ScanResponse(entries=[kv_pb2.ScanEntry(key=b"k")]).SerializeToString() + newer]),
        "DownloadSnapshot": lambda *_: iter([header + newer, newer]),
    }
    with Fake(streams, **calls) as fake, devicedb.Client(fake.endpoint, timeout=100) as client:
        slow(monkeypatch, fake)
        assert client.get("s", b"k").siblings[0].value == b"v"
        client.put("s", b"k", b"v")
        assert client.overview().groups == 8
        assert client.snapshots.status(UUID).status == 99
        assert [entry.key for entry in client.scan("s")] == [b"k"]
        with pytest.raises(devicedb.Unavailable, match="before its end"):
            client.snapshots.download(UUID, 7, tmp_path / "never.tar")


def test_a_server_that_is_older_by_a_field_or_a_call_is_understood() -> None:
    with Fake(Get=lambda *_: b"", Put=lambda *_: b"", ListNodes=lambda *_: b"") as fake, devicedb.Client(fake.endpoint) as client:
        got = client.get("s", b"k")
        assert (list(got.siblings), got.context, got.leader.address) == ([], b"", "")
        client.put("s", b"k", b"v")
        assert client.nodes() == []
        with pytest.raises(devicedb.Unsupported):
            client.overview()


def test_a_list_that_does_not_end_ends() -> None:
    page = cluster_pb2.ListSitesResponse(next_page_token="the same for ever").SerializeToString()
    with Fake(ListSites=lambda *_: page) as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(devicedb.Failed, match="does not end"):
            client.sites.list()


def test_a_scan_whose_streams_break_has_every_key_once() -> None:
    def scan(request: bytes, context: Any) -> Iterator[bytes]:
        asked = kv_pb2.ScanRequest.FromString(request)
        first = int(asked.after or b"-1") + 1
        for n in range(first, min(first + 7, 50)):
            if asked.limit and n - first >= asked.limit:
                return
            yield kv_pb2.ScanResponse(entries=[kv_pb2.ScanEntry(key=b"%d" % n)]).SerializeToString()
        if first + 7 < 50:
            refuse("UNAVAILABLE", None)(request, context)

    with Fake({"Scan": scan}) as fake, devicedb.Client([fake.endpoint] * 2, timeout=5) as client:
        assert [int(e.key) for e in client.scan("s")] == list(range(50))
        assert [int(e.key) for e in client.scan("s", limit=20)] == list(range(20))

        async def collect() -> list[int]:
            async with devicedb.AsyncClient(fake.endpoint, timeout=5) as client:
                return [int(e.key) async for e in client.scan("s", limit=30)]

        assert asyncio.run(collect()) == list(range(30))


def test_a_stream_that_falls_silent_is_given_up_in_time() -> None:
    over = threading.Event()

    def silent(request: bytes, _: Any) -> Iterator[bytes]:
        if not kv_pb2.ScanRequest.FromString(request).after:
            yield kv_pb2.ScanResponse(entries=[kv_pb2.ScanEntry(key=b"k")]).SerializeToString()
        over.wait(20)

    async def collect(endpoint: str) -> list[bytes]:
        async with devicedb.AsyncClient(endpoint, timeout=0.5) as client:
            return [entry.key async for entry in client.scan("s")]

    with Fake({"Scan": silent}) as fake, devicedb.Client(fake.endpoint, timeout=0.5) as client:
        for attempt in (lambda: list(client.scan("s")), lambda: asyncio.run(collect(fake.endpoint))):
            began = time.monotonic()
            with pytest.raises(devicedb.Unavailable, match="no answer within"):
                attempt()
            assert 0.5 <= time.monotonic() - began < 10
    with Fake({"Scan": silent}) as fake, devicedb.Client(fake.endpoint) as client:
        assert [entry.key for entry in client.scan("s", limit=1)] == [b"k"]
        # A reader that leaves is not the stream's fault.
        left = client.scan("s")
        next(left)
        left.close()
        over.set()


def test_an_upload_is_begun_again_where_nobody_has_it_stored_any_more() -> None:
    absent, running, stored, failed = 1, 2, 3, 4

    def begun(status: int, reason: str = "") -> bytes:
        return snapshot_pb2.UploadSnapshotResponse(upload=snapshot_pb2.Upload(status=status, reason=reason)).SerializeToString()  # type: ignore[arg-type]

    looks = iter([running, absent, stored])

    def look(*_: object) -> bytes:
        upload = snapshot_pb2.Upload(status=next(looks), new_bytes=7)  # type: ignore[arg-type]
        return snapshot_pb2.GetSnapshotResponse(snapshot=snapshot_pb2.Snapshot(uuid=UUID, upload=upload)).SerializeToString()

    with Fake(UploadSnapshot=lambda *_: begun(running), GetSnapshot=look) as fake, devicedb.Client(fake.endpoint) as client:
        assert client.snapshots.upload(UUID, wait=True).new_bytes == 7
        assert [name for name, _ in fake.seen].count("UploadSnapshot") == 2
    with Fake(UploadSnapshot=lambda *_: begun(failed, "node 2: its disk is gone")) as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(devicedb.Failed, match="its disk is gone"):
            client.snapshots.upload(UUID)


def test_snapshots_that_fail_or_are_not_over_in_time_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(status: int, reason: str = "") -> bytes:
        return snapshot_pb2.CreateSnapshotResponse(snapshot=snapshot_pb2.Snapshot(uuid=UUID, status=status, reason=reason)).SerializeToString()  # type: ignore[arg-type]

    with Fake(CreateSnapshot=lambda *_: snapshot(4, "node 1: disk full")) as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(devicedb.Failed, match="disk full"):
            client.snapshots.create(wait=True)
    with Fake(CreateSnapshot=lambda *_: snapshot(1), GetSnapshot=lambda *_: snapshot(1)) as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(devicedb.Unavailable, match=f"{UUID} is still processing"):
            client.snapshots.create(wait=True, wait_timeout=0.3, uuid=UUID)
    with Fake(CreateSnapshot=refuse("UNKNOWN", "UNKNOWN_OUTCOME")) as fake, devicedb.Client(fake.endpoint, timeout=100) as client:
        slow(monkeypatch, fake)
        with pytest.raises(devicedb.UnknownOutcome) as caught:
            client.snapshots.create(uuid=UUID)
        assert caught.value.request_id is not None and caught.value.request_id.hex() == UUID.replace("-", "")


# Downloads


def tar_of(node: int = 7, cluster: str = "c", partitions: Sequence[tuple[int, int, int]] = ()) -> bytes:
    """The smallest part: a manifest with a group of such partitions, or none, and without chunks."""
    groups = [{"partitions": [{"id": number, "rows": rows, "bytes": size} for number, rows, size in partitions]}]
    head = f'{{"format":1,"product":"0",\n"snapshot":"{UUID}","x":4,"cluster":"{cluster}","lineage":"l","node":"{node}","chunks":[],'
    body = f'{head}"parts":{json.dumps(groups)},\n'.encode()
    text = body + f'"digest":"{blake3(body).hexdigest()}"}}\n'.encode()
    header = bytearray(512)
    header[:13], header[124:135], header[156:157] = b"manifest.json", b"%011o" % len(text), b"0"
    header[148:155] = b"%07o" % (sum(header) + 8 * 32)
    return bytes(header) + text + bytes(-len(text) % 512) + bytes(1024)


def pieces(tar: bytes, offset: int, *, node: int = 7, total: int | None = None, digest: str | None = None, size: int = 100) -> Iterator[bytes]:
    total = len(tar) if total is None else total
    answers: list[Any] = [snapshot_pb2.DownloadSnapshotResponse(header=snapshot_pb2.DownloadHeader(node_id=node, total_bytes=total, offset=offset))]
    answers += [snapshot_pb2.DownloadSnapshotResponse(data=tar[at : at + size]) for at in range(offset, len(tar), size)]
    trailer = snapshot_pb2.DownloadTrailer(total_bytes=total, digest=digest or blake3(tar).hexdigest())
    return (one.SerializeToString() for one in [*answers, snapshot_pb2.DownloadSnapshotResponse(trailer=trailer)])


def offset_of(request: bytes) -> int:
    return snapshot_pb2.DownloadSnapshotRequest.FromString(request).offset


def test_a_download_whose_streams_break_is_whole_and_asks_only_for_the_rest(tmp_path: pathlib.Path) -> None:
    tar = tar_of()

    def breaks(request: bytes, context: Any) -> Iterator[bytes]:
        for count, piece in enumerate(pieces(tar, offset_of(request))):
            yield piece
            if count == 4 and offset_of(request) < 1200:
                refuse("INTERNAL", None)(request, context)

    with Fake({"DownloadSnapshot": breaks}) as fake, devicedb.Client(fake.endpoint, timeout=5) as client:
        part = client.snapshots.download(UUID, 0, tmp_path / "part.tar")
        assert (part.bytes, part.node_id, part.snapshot) == (len(tar), 7, UUID)
        assert (tmp_path / "part.tar").read_bytes() == tar
        assert [offset_of(request) for name, request in fake.seen if name == "DownloadSnapshot"] == [0, 400, 800, 1200]
        # From the second stream on it is the node that answered which is asked.
        assert snapshot_pb2.DownloadSnapshotRequest.FromString(fake.seen[-1][1]).node_id == 7
        assert os.listdir(tmp_path) == ["part.tar"]


@pytest.mark.parametrize(
    ("flow", "error", "says", "kept"),
    [
        (lambda t: pieces(t, 0, digest="00" * 32), devicedb.Corrupt, "their blake3 is", False),
        (lambda t: pieces(t, 0, node=8), devicedb.Failed, "that of node 8 came", False),
        (lambda t: pieces(t, 0, total=len(t) - 200), devicedb.Corrupt, "more came than", False),
        (lambda t: pieces(t, 0, total=len(t) + 1), devicedb.Failed, "complete after", True),
        (lambda t: pieces(t, 100), devicedb.Failed, "begins at byte 100 and not at 0", False),
        (lambda t: pieces(t[:512] + b"x" + t[513:], 0), devicedb.Corrupt, "manifest", False),
        (lambda t: pieces(t[:-1] + b"x", 0), devicedb.Corrupt, "more than its manifest says", False),
        (lambda t: pieces(t + bytes(512), 0), devicedb.Corrupt, "behind its end", False),
        (lambda t: pieces(bytes(2048), 0), devicedb.Corrupt, "header of manifest.json is damaged", False),
        (lambda t: iter([b""]), devicedb.Failed, "does not begin with a header", False),
    ],
)
def test_a_stream_that_is_not_the_part_is_refused_with_its_reason(tmp_path: pathlib.Path, flow: Any, error: Any, says: str, kept: bool) -> None:
    path = tmp_path / "part.tar"
    with Fake({"DownloadSnapshot": lambda request, _: flow(tar_of())}) as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(error) as caught:
            client.snapshots.download(UUID, 7, path)
        assert says in str(caught.value)
        assert not path.exists()
        partial = pathlib.Path(devicedb.partial_path(path))
        assert partial.exists() == kept and (caught.value.partial is not None) == kept


def test_a_path_that_cannot_be_written_is_named_with_the_reason(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with Fake({"DownloadSnapshot": lambda request, _: pieces(tar_of(), 0)}) as fake, devicedb.Client(fake.endpoint) as client:
        for path in (tmp_path / "absent/part.tar", tmp_path / "file/part.tar"):
            with pytest.raises(devicedb.LocalFile) as caught:
                client.snapshots.download(UUID, 7, path)
            assert str(path) in str(caught.value)
            assert isinstance(caught.value.__cause__, OSError)
        (tmp_path / "directory").mkdir()
        with pytest.raises(devicedb.LocalFile):
            client.snapshots.download(UUID, 7, tmp_path / "directory")


def test_what_parts_hold_together_is_read_from_their_manifests(tmp_path: pathlib.Path) -> None:
    one, two, other, short = (tmp_path / name for name in ("one.tar", "two.tar", "other.tar", "short.tar"))
    one.write_bytes(tar_of(1, partitions=[(0, 5, 50), (1, 7, 70)]))
    two.write_bytes(tar_of(2, partitions=[(1, 7, 70), (2, 1, 10)])[:-1024] + b"cut off behind its manifest")
    other.write_bytes(tar_of(3, cluster="d"))
    short.write_bytes(one.read_bytes()[:600])
    assert devicedb.summarize([one, two]) == devicedb.Summary(UUID, "c", "l", 4, 2, 13, 130)
    for paths, error, says in (
        ([one, other], devicedb.Corrupt, "other.tar: its cluster is d"),
        ([short], devicedb.Corrupt, "short.tar: its manifest is not whole"),
        ([tmp_path / "absent.tar"], devicedb.LocalFile, "absent.tar"),
        ([], devicedb.InvalidArgument, "no path was given"),
    ):
        with pytest.raises(error, match=says):
            devicedb.summarize(paths)


def test_a_sealed_part_is_verified_without_the_key_to_its_rows(tmp_path: pathlib.Path) -> None:
    golden = CONFORMANCE.parents[1] / "tests/golden/snapshot"
    assert devicedb.verify([golden / "part-3.tar"])[0].sealed_to == ()
    [part] = devicedb.verify([golden / "part-4.tar"])
    assert part.sealed_to == ((golden / "age-recipient.txt").read_text().strip(),)
    changed = bytearray((golden / "part-4.tar").read_bytes())
    changed[-1530] ^= 1
    (tmp_path / "changed.tar").write_bytes(changed)
    with pytest.raises(devicedb.Corrupt, match="are not those that were written"):
        devicedb.verify([tmp_path / "changed.tar"])


def test_a_link_stays_and_what_is_no_file_is_written_through(tmp_path: pathlib.Path) -> None:
    tar = tar_of()
    (tmp_path / "there").mkdir()
    with Fake({"DownloadSnapshot": lambda request, _: pieces(tar, offset_of(request))}) as fake, devicedb.Client(fake.endpoint) as client:
        for name, old in (("old.tar", b"old"), ("absent.tar", None)):
            link, target = tmp_path / name, tmp_path / "there" / name
            link.symlink_to(f"there/{name}")
            if old:
                target.write_bytes(old)
            assert devicedb.partial_path(link) == f"{target}.partial"
            assert client.snapshots.download(UUID, 7, link, resume=False).path == str(link)
            assert link.is_symlink() and not target.is_symlink() and target.read_bytes() == tar
            assert stat.S_IMODE(target.stat().st_mode) == 0o600, "others can read it"
            assert client.snapshots.download(UUID, 7, link).bytes == len(tar), "it is found again by its link"

        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
        reader.start()
        client.snapshots.download(UUID, 7, fifo)
        reader.join(10)
        assert read == [tar] and fifo.is_fifo() and not pathlib.Path(devicedb.partial_path(fifo)).exists()

        # A null device of our own, where that is allowed.
        null = tmp_path / "null"
        try:
            os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            null.open("wb").close()
        except PermissionError:
            null = fifo
        if null != fifo:
            assert client.snapshots.download(UUID, 7, null).bytes == len(tar) and null.is_char_device()

        victim, path = tmp_path / "victim", tmp_path / "part.tar"
        victim.write_bytes(b"victim")
        pathlib.Path(devicedb.partial_path(path)).symlink_to(victim)
        with pytest.raises(devicedb.LocalFile, match="no file that a download left"):
            client.snapshots.download(UUID, 7, path)
        assert victim.read_bytes() == b"victim"
        with pytest.raises(devicedb.LocalFile, match="there is no directory"):
            client.snapshots.download(UUID, 7, f"{tmp_path}/none/")


def test_what_goes_through_a_fifo_and_breaks_off_is_no_part(tmp_path: pathlib.Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = threading.Thread(target=fifo.read_bytes)
    reader.start()
    flow: Any = lambda *_: pieces(tar_of(), 0, digest="00" * 32)  # noqa: E731
    with Fake({"DownloadSnapshot": flow}) as fake, devicedb.Client(fake.endpoint) as client:
        with pytest.raises(devicedb.Corrupt, match="that is no part: throw it away") as caught:
            client.snapshots.download(UUID, 7, fifo)
        assert caught.value.partial is None
    reader.join(10)
    assert fifo.is_fifo() and os.listdir(tmp_path) == ["fifo"]


def test_two_downloads_do_not_write_one_file(tmp_path: pathlib.Path) -> None:
    path, tar = tmp_path / "part.tar", tar_of()
    with Fake({"DownloadSnapshot": lambda request, _: pieces(tar, offset_of(request))}) as fake, devicedb.Client(fake.endpoint) as client:

        def second(received: int, _: int) -> None:
            with pytest.raises(devicedb.LocalFile, match="another download is writing"):
                client.snapshots.download(UUID, 7, path)

        client.snapshots.download(UUID, 7, path, on_progress=second)
        assert path.read_bytes() == tar


def test_beginning_anew_forgets_what_was_left(tmp_path: pathlib.Path) -> None:
    path, tar = tmp_path / "part.tar", tar_of()
    pathlib.Path(devicedb.partial_path(path)).write_bytes(b"old and long" * 1000)
    with Fake({"DownloadSnapshot": lambda request, _: pieces(tar, offset_of(request))}) as fake, devicedb.Client(fake.endpoint) as client:
        client.snapshots.download(UUID, 7, path, resume=False)
        assert path.read_bytes() == tar


CHILD = """
import os, signal, sys, devicedb
endpoints, uuid, node, path, what = sys.argv[1:]
def progress(received, total):
    if what == "interrupt" and received > total // 3:
        os.kill(os.getpid(), signal.SIGINT)
with devicedb.Client(endpoints, timeout=5) as client:
    print(client.snapshots.download(uuid, int(node), path, on_progress=progress).bytes)
"""


def download_apart(cluster: Cluster, path: pathlib.Path, uuid: str, node: int, what: str = "", under: list[str] | None = None) -> Any:
    argv = [*(under or []), sys.executable, "-c", CHILD, ",".join(cluster.endpoints), uuid, str(node), str(path), what]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_ctrl_c_and_a_full_disk_keep_what_came_and_the_same_call_goes_on(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    with devicedb.Client(cluster.endpoints) as client:
        client.sites.add("bulk")
        for n in range(16):
            client.put("bulk", b"%d" % n, random.Random(n).randbytes(1 << 20))
        snapshot = client.snapshots.create(wait=True)
        node = snapshot.parts[0].node_id
        total = snapshot.parts[0].download_bytes

        path = tmp_path / "part.tar"
        partial = pathlib.Path(devicedb.partial_path(path))
        done = download_apart(cluster, path, snapshot.uuid, node, "interrupt")
        assert done.returncode in (-signal.SIGINT, 130), done
        assert "KeyboardInterrupt: the download of" in done.stderr and str(partial) in done.stderr
        assert total // 3 < partial.stat().st_size < total and not path.exists()
        assert download_apart(cluster, path, snapshot.uuid, node).stdout.strip() == str(total)
        assert path.exists() and not partial.exists()

        # A disk of its own that is too small, for a process in a mount namespace.
        assert shutil.which("unshare"), "this test needs unshare, of util-linux"
        small, kept = tmp_path / "small", tmp_path / "kept"
        small.mkdir()
        script = 'mount -t tmpfs -o size=6m small "$0" && { "$@"; code=$?; cp -r "$0" "$KEPT"; exit $code; }'
        under = ["env", f"KEPT={kept}", "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(small)]
        done = download_apart(cluster, small / "part.tar", snapshot.uuid, node, under=under)
        assert done.returncode == 1 and "devicedb._errors.LocalFile" in done.stderr, done
        assert "No space left on device" in done.stderr and str(small / "part.tar.partial") in done.stderr
        left = kept / "part.tar.partial"
        assert 5 << 20 < left.stat().st_size <= 6 << 20 and os.listdir(kept) == ["part.tar.partial"]
        # With more room, it goes on with what had its place.
        assert client.snapshots.download(snapshot.uuid, node, kept / "part.tar").bytes == total
        client.snapshots.delete(snapshot.uuid)


def test_a_cancelled_task_keeps_its_partial_file_and_lets_go_of_it(tmp_path: pathlib.Path) -> None:
    path, tar = tmp_path / "part.tar", tar_of()
    over = threading.Event()

    def stops(request: bytes, _: Any) -> Iterator[bytes]:
        flow = pieces(tar, offset_of(request))
        if not over.is_set():
            yield from (next(flow), next(flow), next(flow))
            over.wait(10)
        yield from flow

    async def go(endpoint: str) -> None:
        async with devicedb.AsyncClient(endpoint) as client:
            task = asyncio.create_task(client.snapshots.download(UUID, 7, path))
            partial = path.with_suffix(".tar.partial")
            await soon("some of the part is there", lambda: partial.exists() and partial.stat().st_size >= 200)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert partial.stat().st_size == 200
            over.set()
            assert (await client.snapshots.download(UUID, 7, path)).bytes == len(tar)

    with Fake({"DownloadSnapshot": stops}) as fake:
        asyncio.run(go(fake.endpoint))


# The schedule


def test_the_schedule_gives_every_endpoint_its_share_and_progress_moves_the_deadline() -> None:
    attempts = Attempts(3, 1, 0.0, 9.0)
    assert [attempts.next(now) for now in (0.0, 3.0, 6.0, 9.0)] == [Attempt(1, 0.0, 3.0), Attempt(2, 0.0, 3.0), Attempt(0, 0.0, 3.0), None]
    refused = Attempts(2, 0, 0.0, 10.0)
    assert sum(1 for _ in iter(lambda: refused.next(0.0), None)) == 6
    busy = Attempts(1, 0, 0.0, 100.0)
    asked = 0
    while busy.next(0.0):
        busy.connected()
        busy.slower(0.0)
        asked += 1
    assert asked == 5
    told = Attempts(2, 0, 0.0, 10.0)
    told.next(0.0)
    told.connected()
    told.slower(3.0)
    assert told.next(0.0) == Attempt(1, 0.0, 10.0), "the other one has not said so"
    again = told.next(0.0)
    assert again is not None and (again.endpoint, again.after) == (0, 3.0)
    told.next(3.0)
    told.slower(20.0)
    assert told.next(3.0) is None, "nobody waits past the deadline"
    for seed in range(200):
        chance, now = random.Random(seed), 7.0
        attempts = Attempts(1 + seed % 4, seed % 3, now, 0.1 + seed / 20, patient=True, chance=chance)
        while (attempt := attempts.next(now)) is not None:
            assert attempt.within > 0 and now + attempt.after + attempt.within <= 7.0 + 0.1 + seed / 20 + 1e-9
            now += attempt.after + attempt.within / 2
