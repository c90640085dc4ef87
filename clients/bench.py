"""Measures the clients against ddbctl: MB/s of a download, and calls a second of one caller. Run by bench.sh."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "conformance"))

import devicedb

from cluster import BIN, Cluster

MEGABYTES = 256
ROUNDS = 5
SECONDS = 1.0
SITE, KEY = "bench", b"key"


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=300).stdout


def main(go: str) -> None:
    with Cluster(proxy=False) as cluster, devicedb.Client(cluster.endpoints) as client:
        here = ",".join(cluster.endpoints)
        client.sites.add(SITE)
        client.put(SITE, KEY, b"value")
        for n in range(MEGABYTES):
            client.put(SITE, b"%05d" % n, os.urandom(1 << 20))
        snapshot = client.snapshots.create(wait=True)
        part = snapshot.parts[0]
        path = str(cluster.dir / "part.tar")
        ctl = [str(BIN / "ddbctl"), "--endpoint", here]

        def asynchronous() -> None:
            async def fetch() -> None:
                async with devicedb.AsyncClient(here) as client:
                    await client.snapshots.download(snapshot.uuid, part.node_id, path)

            asyncio.run(fetch())

        def megabytes(fetch: Callable[[], object]) -> float:
            pathlib.Path(path).unlink(missing_ok=True)
            began = time.monotonic()
            fetch()
            return part.download_bytes / 1e6 / (time.monotonic() - began)

        downloads: dict[str, Callable[[], object]] = {
            "ddbctl": lambda: run(*ctl, "snapshot", "download", snapshot.uuid, "--node", str(part.node_id), "--output", path),
            "Python": lambda: client.snapshots.download(snapshot.uuid, part.node_id, path),
            "Python asyncio": asynchronous,
            "Go": lambda: run(go, "download", here, snapshot.uuid, str(part.node_id), path),
        }
        # Turn by turn, so that what else the machine does hits all alike.
        speeds: dict[str, list[float]] = {name: [] for name in downloads}
        for _ in range(ROUNDS):
            for name, fetch in downloads.items():
                speeds[name].append(megabytes(fetch))

        def calls(call: Callable[[], object]) -> float:
            began, count = time.monotonic(), 0
            while time.monotonic() - began < SECONDS:
                call()
                count += 1
            return count / (time.monotonic() - began)

        async def calls_async(write: bool) -> float:
            async with devicedb.AsyncClient(here) as client:
                began, count = time.monotonic(), 0
                while time.monotonic() - began < SECONDS:
                    await (client.put(SITE, KEY, b"value") if write else client.get(SITE, KEY))
                    count += 1
                return count / (time.monotonic() - began)

        def counts(write: bool) -> dict[str, float]:
            words = ["put", "--site", SITE, "key", "value"] if write else ["get", "--site", SITE, "key"]
            return {
                "ddbctl": calls(lambda: run(*ctl, *words)),
                "Python": calls((lambda: client.put(SITE, KEY, b"value")) if write else (lambda: client.get(SITE, KEY))),
                "Python asyncio": asyncio.run(calls_async(write)),
                "Go": float(run(go, "put" if write else "get", here, SITE, KEY.decode(), str(SECONDS))),
            }

        unary: dict[bool, dict[str, float]] = {}
        for write in (False, True):
            rounds = [counts(write) for _ in range(ROUNDS)]
            unary[write] = {name: max(found[name] for found in rounds) for name in downloads}

    print(f"One part of {part.download_bytes / 1e6:.0f} MB; {os.cpu_count()} processors for three nodes and the client.\n")
    print("| | download MB/s | against ddbctl | gets a second | against ddbctl | puts a second | against ddbctl |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    base = max(speeds["ddbctl"])
    for name in downloads:
        speed = max(speeds[name])
        row = [name, f"{speed:.0f}", f"{speed / base:.2f}"]
        for write in (False, True):
            row += [f"{unary[write][name]:.0f}", f"{unary[write][name] / unary[write]['ddbctl']:.1f}"]
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main(sys.argv[1])
