"""Runs clients/conformance/suite.json against a real cluster: the synchronous client directly, and both through nginx."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from blake3 import blake3

import devicedb
from devicedb.v1 import snapshot_pb2

CONFORMANCE = pathlib.Path(__file__).resolve().parents[2] / "conformance"
sys.path.insert(0, str(CONFORMANCE))

from cluster import Cluster  # noqa: E402

SUITE = json.loads((CONFORMANCE / "suite.json").read_text())
SECURED = json.loads((CONFORMANCE / "secured.json").read_text())
BYTES = {"key", "value", "prefix", "after", "context", "request_id"}


class Cut(Exception):
    """The caller has had enough."""


class Blocking:
    """The asynchronous client as the runner calls it: on a loop of its own."""

    def __init__(self, endpoints: Any, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

        async def make() -> devicedb.AsyncClient:
            return devicedb.AsyncClient(endpoints, **options)

        self.target: Any = self.wait(make())

    def wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(300)

    def call(self, path: str, *args: Any, **kwargs: Any) -> Any:
        target = self.target
        for name in path.split("."):
            target = getattr(target, name)
        made = target(*args, **kwargs)

        async def collect() -> Any:
            return [entry async for entry in made] if hasattr(made, "__aiter__") else await made

        return self.wait(collect())


class Direct:
    """The synchronous client."""

    def __init__(self, endpoints: Any, **options: Any) -> None:
        self.target: Any = devicedb.Client(endpoints, **options)

    def call(self, path: str, *args: Any, **kwargs: Any) -> Any:
        target = self.target
        for name in path.split("."):
            target = getattr(target, name)
        made = target(*args, **kwargs)
        return list(made) if isinstance(made, Iterator) else made


class Runner:
    def __init__(self, cluster: Cluster, kind: type[Direct] | type[Blocking], run: str, proxy: bool, directory: pathlib.Path, way: str = "") -> None:
        self.cluster = cluster
        self.endpoints = cluster.through[way] if way else cluster.proxy if proxy else cluster.endpoints
        self.kind = kind
        self.options = {"tls": devicedb.Tls(**cluster.callers["till" if way else "ops"])} if cluster.certificates else {}
        self.client = kind(self.endpoints, **self.options)
        self.over = threading.Event()
        self.run = run
        self.proxy = proxy
        self.directory = directory
        self.saved: dict[str, Any] = {}
        self.pool = concurrent.futures.ThreadPoolExecutor(4)
        self.background: dict[str, concurrent.futures.Future[Any]] = {}

    # Values

    def text(self, value: Any) -> Any:
        """A value as it stands in the suite, with what is saved and the name of the run put in."""
        if isinstance(value, dict) and "$" in value:
            return self.saved[value["$"]]
        if isinstance(value, dict) and "hex" in value:
            return bytes.fromhex(value["hex"])
        if isinstance(value, dict) and "random" in value:
            return blake3(value["random"].encode()).digest(length=value["bytes"])
        if isinstance(value, str):
            return value.replace("$run", self.run)
        return [self.text(one) for one in value] if isinstance(value, list) else value

    def bytes(self, value: Any) -> bytes:
        found = self.text(value)
        return found.encode() if isinstance(found, str) else found

    def args(self, args: dict[str, Any]) -> dict[str, Any]:
        found = {name: self.bytes(value) if name in BYTES else self.text(value) for name, value in args.items()}
        if "bucket" in found:
            found["bucket"] = devicedb.Bucket[found["bucket"]]
        return found

    def equal(self, expected: Any, found: Any) -> bool:
        if isinstance(expected, list) and isinstance(found, list):
            return len(expected) == len(found) and all(self.equal(e, f) for e, f in zip(expected, found, strict=True))
        return bool((self.bytes(expected) if isinstance(found, bytes) else self.text(expected)) == found)

    # Steps

    def step(self, step: dict[str, Any]) -> None:
        if step.get("only") == "proxy" and not self.proxy:
            return
        if "call" in step:
            for _ in range(step.get("times", 1)):
                if "background" in step:
                    self.background[step["background"]] = self.pool.submit(self.call, step)
                else:
                    self.call(step)
        elif "cluster" in step:
            with_ = self.text(step.get("with", []))
            if step["cluster"] == "verify":
                with_ = [[str(self.directory / name) for name in with_[0]]]
            if step["cluster"] == "damage":
                with_ = [with_[0], str(with_[1])]
            getattr(self.cluster, step["cluster"])(*with_)
        elif "join" in step:
            self.background.pop(step["join"]).result(60)
        elif "idle" in step:
            time.sleep(step["idle"])
        elif "write" in step:
            (self.directory / step["write"]).write_bytes(self.bytes(step["bytes"]))
        elif "flip" in step:
            data = bytearray((self.directory / step["flip"]).read_bytes())
            data[step["at"]] ^= 1
            (self.directory / step["flip"]).write_bytes(data)
        else:
            for name, wanted in step["files"].items():
                assert (self.directory / name).exists() == (wanted == "present"), f"{name} should be {wanted}"

    def call(self, step: dict[str, Any]) -> None:
        began = time.monotonic()
        result: dict[str, Any] = {}
        try:
            result = CALLS[step["call"]](self, step, self.args(step.get("args", {})))
            assert "error" not in step, f"it should end as {step['error']} and gave {result}"
        except devicedb.Error as error:
            if step.get("error") != type(error).__name__:
                raise
            assert self.text(step.get("says", "")) in str(error), str(error)
            assert "\n" not in str(error)
            result = {"request_id": getattr(error, "request_id", None)}
        assert time.monotonic() - began < step.get("within", 120)
        for name, expected in step.get("expect", {}).items():
            assert self.equal(expected, result[name]), f"{name} should be {expected!r:.200} and is {result[name]!r:.200}"
        for name, field in step.get("save", {}).items():
            found: Any = result
            for piece in field.split("."):
                found = found[int(piece)] if piece.isdigit() else found[piece]
            self.saved[name] = found

    def ask(self, path: str, step: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if "timeout" in step:
            kwargs["timeout"] = step["timeout"]
        return self.client.call(path, *args, **kwargs)

    def watch(self, step: dict[str, Any]) -> Callable[[int, int], None]:
        """What happens while a download is under way."""
        done = False

        def progress(received: int, total: int) -> None:
            nonlocal done
            assert 0 <= received <= total
            for what, after in (
                ("cut", step.get("cut")),
                ("during", step.get("during", {}).get("after_bytes")),
                ("stall", step.get("stall", {}).get("after_bytes")),
            ):
                if after is None or received < after or done:
                    continue
                done = True
                if what == "cut":
                    raise Cut
                if what == "stall":
                    time.sleep(step["stall"]["seconds"])
                else:
                    self.step({"cluster": step["during"]["cluster"], "with": step["during"]["with"]})

        return progress


def get(r: Runner, step: Any, a: Any) -> Any:
    got = r.ask("get", step, a.pop("site"), a.pop("key"), **a)
    return {"values": sorted(s.value for s in got.siblings), "context": got.context, "leader": got.leader.address}


def put(r: Runner, step: Any, a: Any) -> Any:
    done = r.ask("put", step, a.pop("site"), a.pop("key"), a.pop("value"), **a)
    return {"superseded": done.superseded, "context": done.context}


def delete(r: Runner, step: Any, a: Any) -> Any:
    done = r.ask("delete", step, a.pop("site"), a.pop("key"), **a)
    return {"superseded": done.superseded, "context": done.context}


def batch(r: Runner, step: Any, a: Any) -> Any:
    def operation(o: Any) -> devicedb.Put | devicedb.Delete:
        return devicedb.Put(r.bytes(o["put"]), r.bytes(o["value"])) if "put" in o else devicedb.Delete(r.bytes(o["delete"]))

    return {"count": len(r.ask("batch", step, a["site"], [operation(o) for o in a["operations"]]).results)}


def fill(r: Runner, step: Any, a: Any) -> Any:
    for first in range(0, a["count"], 2500):
        numbers = range(first, min(first + 2500, a["count"]))
        r.ask("batch", step, a["site"], [devicedb.Put(b"%05d" % n, b"value-%d" % n) for n in numbers])
    return {}


def bulk(r: Runner, step: Any, a: Any) -> Any:
    for n in range(a["count"]):
        r.ask("put", step, a["site"], b"%05d" % n, blake3(b"%d" % n).digest(length=a["bytes"]))
    return {}


def scan(r: Runner, step: Any, a: Any) -> Any:
    found = r.ask("scan", step, a.pop("site"), **a)
    keys = [entry.key for entry in found]
    values = [sorted(s.value for s in entry.siblings) for entry in found]
    ends = {"first": keys[0], "last": keys[-1]} if keys else {}
    return {"count": len(keys), "keys": keys, "values": values, "sorted": keys == sorted(set(keys)), **ends}


def overview(r: Runner, step: Any, a: Any) -> Any:
    o = r.ask("overview", step)
    fields = {name: getattr(o, name) for name in ("partitions", "groups", "replication_factor", "groups_without_leader", "cluster_id")}
    return {"nodes": len(o.nodes), "ready": sum(n.ready for n in o.nodes), **fields}


def meaning(r: Runner, step: Any, a: Any) -> Any:
    with devicedb.Client(r.endpoints, cluster_id=a["cluster_id"], **r.options) as client:
        return {"nodes": len(client.overview().nodes)}


def nodes(r: Runner, step: Any, a: Any) -> Any:
    found = r.ask("nodes", step)
    return {"count": len(found), "ready": sum(n.ready for n in found)}


def partitions(r: Runner, step: Any, a: Any) -> Any:
    found = r.ask("partitions", step)
    return {"count": len(found), "led": sum(p.leader != 0 for p in found)}


def add_site(r: Runner, step: Any, a: Any) -> Any:
    done = r.ask("sites.add", step, a["site"])
    return {"created": done.created, "site": done.site.id}


def remove_site(r: Runner, step: Any, a: Any) -> Any:
    return {"none": r.ask("sites.remove", step, a["site"])}


def sites(r: Runner, step: Any, a: Any) -> Any:
    return {"names": sorted(s.id for s in r.ask("sites.list", step) if s.id.startswith(r.run))}


def add_relay(r: Runner, step: Any, a: Any) -> Any:
    done = r.ask("relays.add", step, a["relay"], a["site"])
    return {"created": done.created, "relay": done.relay.id, "site": done.relay.site}


def move_relay(r: Runner, step: Any, a: Any) -> Any:
    done = r.ask("relays.move", step, a["relay"], a["site"])
    return {"relay": done.id, "site": done.site}


def remove_relay(r: Runner, step: Any, a: Any) -> Any:
    return {"none": r.ask("relays.remove", step, a["relay"])}


def relays(r: Runner, step: Any, a: Any) -> Any:
    return {"names": sorted(x.id for x in r.ask("relays.list", step, a["site"]))}


def told(snapshot: Any) -> Any:
    status = snapshot_pb2.SnapshotStatus.Name(snapshot.status).removeprefix("SNAPSHOT_STATUS_")
    done = sum(p.status == snapshot_pb2.SNAPSHOT_STATUS_COMPLETED for p in snapshot.parts)
    parts = {"parts": len(snapshot.parts), "completed": done, "nodes": [p.node_id for p in snapshot.parts], "addresses": [p.address for p in snapshot.parts]}
    return {"uuid": snapshot.uuid, "status": status, **parts}


def create(r: Runner, step: Any, a: Any) -> Any:
    return told(r.ask("snapshots.create", step, **a))


def status(r: Runner, step: Any, a: Any) -> Any:
    return told(r.ask("snapshots.status", step, a["uuid"]))


def snapshots(r: Runner, step: Any, a: Any) -> Any:
    return {"newest": r.ask("snapshots.list", step)[0].uuid}


def delete_snapshot(r: Runner, step: Any, a: Any) -> Any:
    return {"none": r.ask("snapshots.delete", step, a["uuid"])}


def download(r: Runner, step: Any, a: Any) -> Any:
    path = r.directory / a["path"]
    partial = pathlib.Path(devicedb.partial_path(path))
    before = partial.stat().st_size if partial.exists() else 0
    first: list[int] = []
    watch = r.watch(step)

    def progress(received: int, total: int) -> None:
        first.append(received)
        watch(received, total)

    try:
        part = r.ask("snapshots.download", step, a["uuid"], a["node"], path, on_progress=progress)
    except Cut:
        return {}
    resumed = before > 0 and first[0] == before
    return {"whole": path.stat().st_size == part.bytes, "digest": part.digest, "node": part.node_id, "resumed": resumed}


def verify(r: Runner, step: Any, a: Any) -> Any:
    parts = devicedb.verify([r.directory / name for name in a["paths"]])
    return {"parts": len(parts), "snapshots": sorted({part.snapshot for part in parts})}


def caller(r: Runner, step: Any, a: Any) -> Any:
    files = dict(r.cluster.callers[a["who"]]) if "who" in a else {}
    token = {"token_file": files.pop("token_file")} if "token_file" in files else {}
    endpoints = r.cluster.through[a["by"]] if "by" in a else r.endpoints
    client = r.kind(endpoints, **({"tls": devicedb.Tls(**files)} if files else {}), **token)
    try:
        return {"nodes": len(client.call("nodes"))}
    finally:
        client.call("close")


def load(r: Runner, step: Any, a: Any) -> Any:
    count = 0
    while not r.over.is_set():
        r.ask("put", step, a["site"], b"%05d" % count, b"%d" % count)
        assert [s.value for s in r.ask("get", step, a["site"], b"%05d" % count).siblings] == [b"%d" % count]
        count += 1
    assert count >= a["least"], f"only {count} rounds"
    return {"kept": count == len(r.ask("scan", step, a["site"], keys_only=True))}


def end_load(r: Runner, step: Any, a: Any) -> Any:
    return {"none": r.over.set()}


def close(r: Runner, step: Any, a: Any) -> Any:
    return {"none": r.ask("close", step)}


CALLS: dict[str, Callable[[Runner, Any, Any], Any]] = {
    f.__name__: f
    for f in (
        *(get, put, delete, batch, fill, bulk, scan, overview, meaning, nodes, partitions),
        *(add_site, remove_site, sites, add_relay, move_relay, remove_relay, relays),
        *(create, status, snapshots, delete_snapshot, download, verify, caller, load, end_load, close),
    )
}


def play(runner: Runner, suite: list[dict[str, Any]]) -> None:
    for scenario in suite:
        began = time.monotonic()
        for number, step in enumerate(scenario["steps"]):
            try:
                runner.step(step)
            except Exception as error:
                raise AssertionError(f"{scenario['name']}, step {number}: {json.dumps(step, ensure_ascii=False)[:300]}: {error!r}") from error
        print(f"{time.monotonic() - began:5.1f} s  {scenario['name']}")


@pytest.mark.parametrize(("kind", "proxy"), [(Direct, False), (Blocking, True), (Direct, True)], ids=["direct", "asyncio-proxy", "proxy"])
def test_the_client_does_what_the_suite_says(cluster: Cluster, tmp_path: pathlib.Path, kind: Any, proxy: bool) -> None:
    play(Runner(cluster, kind, f"py-{kind.__name__.lower()}-{'proxy' if proxy else 'direct'}", proxy, tmp_path), SUITE)


@pytest.fixture(scope="module")
def secured() -> Iterator[Cluster]:
    with Cluster(proxy=False, secured=True) as running:
        yield running


@pytest.mark.parametrize("kind", [Direct, Blocking], ids=["threads", "asyncio"])
def test_the_client_does_the_same_over_mutual_tls(secured: Cluster, tmp_path: pathlib.Path, kind: Any) -> None:
    run = f"py-{kind.__name__.lower()}-secured"
    # With threads all but what takes long: what is not about TLS goes the same way with asyncio.
    suite = [scenario for scenario in SUITE[:-1] if kind is Direct and not scenario.get("slow")]
    play(Runner(secured, kind, run, False, tmp_path), [*suite, *SECURED])
