#!/usr/bin/env python3
"""Backs a cluster up, for cron: takes a snapshot, fetches the parts of all nodes, verifies them, keeps the last N.

    backup.py --endpoints node1:8080,node2:8080,node3:8080 --directory /var/backups/devicedb-parts --keep 7
    backup.py --verify /var/backups/devicedb-parts/*/snapshot-*.tar

A backup is a directory TIME-UUID with a tar for each node. It is called TIME-UUID.partial until all in it is verified. A run that was interrupted goes on
with --uuid; the next that succeeds clears up behind it. Snapshots of backups that are not kept are deleted in the cluster too.

Only backups of the same cluster and history are counted and removed; those of another cluster, or of the time before a restore, stay until a person
removes them. When the new backup holds less than half of what an earlier one holds, nothing is removed and the run exits with 5, since an empty cluster
may have taken the place of a full one; if all is well, one run with --accept-smaller says so, and backups are counted from that one on.

Over TLS it takes the same flags as ddbctl, and the same variables: --ca or DDBCTL_CA, --cert or DDBCTL_CERT, --key or DDBCTL_KEY, --server-name or
DDBCTL_SERVER_NAME, and --token-file or DDBCTL_TOKEN_FILE. Files are read again when they change.

Prints one line a run. Exits with 0 when the backup is whole and verified, 1 when it failed, 2 for wrong arguments or another cluster than meant, 3 when
nodes could not be reached in time (try again), 4 when it is not permitted, 5 when something else is in the way (another snapshot, another run, much less
than before), 6 when parts are damaged or do not suffice, 130 when it was interrupted.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import sys
import time
import uuid as uuids
from collections.abc import Sequence
from typing import Any

import devicedb
from devicedb.v1 import snapshot_pb2

ACCEPTED = "accepted-smaller"
"""An empty file in a backup that holds much less than those before it, and is right."""


IDENTITY = {
    "ca": "the CA that has issued for the nodes, in PEM: speak TLS",
    "cert": "the certificate that says who this is, in PEM",
    "key": "the key of that certificate, in PEM",
    "server-name": "whom the nodes' certificates are for, if not for the hosts in --endpoints",
    "token-file": "a file that holds a token and nothing else",
}
"""Flags that say who calls, and whom it believes."""


class Smaller(Exception):
    """The backup is whole, and holds much less than one before it."""


EXITS: list[tuple[type[BaseException], int]] = [
    (devicedb.InvalidArgument, 2),
    (devicedb.OtherCluster, 2),
    (devicedb.Unavailable, 3),
    (devicedb.UnknownOutcome, 3),
    (devicedb.Exhausted, 3),
    (devicedb.NotPermitted, 4),
    (devicedb.NotFound, 5),
    (devicedb.Conflict, 5),
    (Smaller, 5),
    (devicedb.Corrupt, 6),
    (KeyboardInterrupt, 130),
    (Exception, 1),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    parser = argparse.ArgumentParser(description="Backs a DeviceDB cluster up.")
    parser.add_argument("--endpoints", help="host:port of nodes, with commas")
    parser.add_argument("--directory", type=pathlib.Path, help="where backups are kept")
    parser.add_argument("--keep", type=int, default=7, help="how many backups to keep, at least 1 (default 7)")
    parser.add_argument("--cluster-id", help="the cluster that is meant; nodes of another refuse (default: DDBCTL_CLUSTER_ID, if it is set)")
    for flag, meaning in IDENTITY.items():
        variable = f"DDBCTL_{flag.upper().replace('-', '_')}"
        parser.add_argument(f"--{flag}", default=os.environ.get(variable) or None, help=f"{meaning} (default: {variable}, if it is set)")
    parser.add_argument("--accept-smaller", action="store_true", help="this backup holds much less than earlier ones, and that is right")
    parser.add_argument("--uuid", help="go on with the snapshot of an interrupted run")
    parser.add_argument("--timeout", type=float, default=30, help="seconds without any answer after which to give up (default 30)")
    parser.add_argument("--wait-timeout", type=float, default=3600, help="seconds to wait for the snapshot (default 3600)")
    parser.add_argument("--json", action="store_true", help="print the line as JSON")
    parser.add_argument("--verify", nargs="+", metavar="TAR", help="only verify these parts together")
    args = parser.parse_args(argv)
    if not args.verify and not (args.endpoints and args.directory and args.keep >= 1):
        parser.error("name --endpoints and --directory, and keep at least 1; or --verify parts")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    line: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "result": "ok"}
    code = 0
    try:
        if args.verify:
            line["parts"] = len(devicedb.verify(args.verify))
        else:
            backup(args, line)
    except (Exception, KeyboardInterrupt) as error:
        code = next(code for kind, code in EXITS if isinstance(error, kind))
        result = "interrupted" if code == 130 else "smaller" if isinstance(error, Smaller) else "failed"
        line |= {"result": result, "error": str(error) or type(error).__name__, "exit": code}
    line["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(line) if args.json else " ".join(f"{k}={json.dumps(v) if ' ' in str(v) else v}" for k, v in line.items()), flush=True)
    return code


def backup(args: argparse.Namespace, line: dict[str, Any]) -> None:
    """One run; what it finds out goes into the line."""
    uuid = str(uuids.UUID(args.uuid)) if args.uuid else str(uuids.uuid4())
    line["uuid"] = uuid
    args.directory.mkdir(parents=True, exist_ok=True)
    with open(args.directory / ".lock", "w") as lock, make_client(args) as client:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise devicedb.Conflict(f"another backup is writing to {args.directory}: wait for it") from None
        snapshot = client.snapshots.create(wait=True, uuid=uuid, wait_timeout=args.wait_timeout, on_progress=show_snapshot)
        parts = [part for part in snapshot.parts if part.status == snapshot_pb2.SNAPSHOT_STATUS_COMPLETED]
        absent = [f"{part.node_id}: {part.reason}" for part in snapshot.parts if part not in parts]
        line |= {"nodes": len(parts), "copies_min": snapshot.copies_min, **({"absent": absent} if absent else {})}

        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(snapshot.created_ms / 1000))}-{uuid}"
        aside, final = args.directory / f"{name}.partial", args.directory / name
        line["directory"] = str(final)
        if not final.exists():
            aside.mkdir(exist_ok=True)
            line["bytes"] = fetch(client, uuid, parts, aside)
            devicedb.verify(sorted(aside.glob("*.tar")))
            aside.rename(final)
            sync(args.directory)
        if args.accept_smaller:
            (final / ACCEPTED).touch()
        backups = Backups(args.directory, final)
        line |= {"cluster": backups.summary.cluster, "rows": backups.summary.rows, **({"others": len(backups.others)} if backups.others else {})}
        backups.compare()
        removed = prune(client, backups, args.keep)
        if removed:
            line["removed"] = len(removed)


def make_client(args: argparse.Namespace) -> devicedb.Client:
    """A client of the cluster that is meant."""
    if (args.cert or args.key or args.server_name) and not args.ca:
        raise devicedb.InvalidArgument("--cert, --key and --server-name are for TLS: name the CA that has issued for the nodes with --ca")
    tls = devicedb.Tls(args.ca, args.cert, args.key, args.server_name) if args.ca else None
    return devicedb.Client(args.endpoints, timeout=args.timeout, cluster_id=args.cluster_id, tls=tls, token_file=args.token_file)


class Backups:
    """What a directory holds: the backup that was just made, those of the same cluster and history in their order, and all others."""

    def __init__(self, directory: pathlib.Path, final: pathlib.Path) -> None:
        """Looks at every directory that has a backup's name."""
        self.final = final
        self.summary = devicedb.summarize(sorted(final.glob("*.tar")))
        self.ours: dict[pathlib.Path, devicedb.Summary] = {}
        self.left: list[pathlib.Path] = []
        self.others: list[pathlib.Path] = []
        for path in sorted(directory.iterdir()):
            if path.is_symlink() or not path.is_dir() or not is_backup(path.name.removesuffix(".partial")):
                continue
            partial = path.name.endswith(".partial")
            summary = summary_of(path)
            # Of an interrupted run that has no manifest yet nothing is worth keeping; a whole backup that cannot be read is for a person to look at.
            is_ours = self._is_like(summary) if summary else partial
            if not is_ours:
                self.others.append(path)
            elif partial:
                self.left.append(path)
            elif summary:
                self.ours[path] = summary
        # In the order in which they were taken, whatever clocks said then.
        self.ours = dict(sorted(self.ours.items(), key=lambda one: one[1].number))

    def _is_like(self, summary: devicedb.Summary) -> bool:
        return (summary.cluster, summary.lineage) == (self.summary.cluster, self.summary.lineage)

    def compare(self) -> None:
        """Raises Smaller where the newest holds much less than one before it."""
        paths = list(self.ours)
        accepted = max((at for at, path in enumerate(paths) if (path / ACCEPTED).exists()), default=0)
        for newest in {paths[-1], self.final}:
            now = self.ours[newest]
            for path in paths[accepted : paths.index(newest)]:
                then = self.ours[path]
                if 2 * now.rows < then.rows or 2 * now.bytes < then.bytes:
                    held = f"{newest.name} holds {now.rows} rows of {now.bytes} bytes, and {path.name} holds {then.rows} of {then.bytes}"
                    raise Smaller(f"the backup is whole, and nothing was removed: {held}: if that is right, run once with --accept-smaller")


def fetch(client: devicedb.Client, uuid: str, parts: list[snapshot_pb2.SnapshotPart], into: pathlib.Path) -> int:
    """Downloads all parts at once, and returns how many bytes they are. One that fails does not keep the others from being fetched."""
    here = dict.fromkeys((part.node_id for part in parts), 0)
    total = sum(part.download_bytes for part in parts)

    def one(part: snapshot_pb2.SnapshotPart) -> int:
        def progress(received: int, _: int) -> None:
            here[part.node_id] = received
            show(f"{sum(here.values()) / 1e6:.0f} of {total / 1e6:.0f} MB")

        done = client.snapshots.download(uuid, part.node_id, into / f"snapshot-{uuid}-{part.node_id}.tar", on_progress=progress)
        if done.manifest_digest != part.manifest_digest:
            raise devicedb.Corrupt(f"{done.path}: its manifest is not the one that node {part.node_id} reported")
        return done.bytes

    with concurrent.futures.ThreadPoolExecutor(max(1, len(parts))) as pool:
        downloads = [pool.submit(one, part) for part in parts]
        try:
            concurrent.futures.wait(downloads)
        except KeyboardInterrupt:
            client.close()
            concurrent.futures.wait(downloads)
            partial = [error.partial for d in downloads if isinstance(error := d.exception(), devicedb.Error) and error.partial]
            raise KeyboardInterrupt(f"the downloads were interrupted: {', '.join(partial)} can be gone on with: --uuid {uuid}") from None
    return sum(download.result() for download in downloads)


def prune(client: devicedb.Client, backups: Backups, keep: int) -> list[str]:
    """Removes all backups of this cluster and history but the last, and what interrupted runs left, here and in the cluster."""
    old = [path for path in list(backups.ours)[:-keep] if path != backups.final]
    removed = []
    for path in old + backups.left:
        # Aside first, so that half a backup never looks like one.
        aside = path if path.name.endswith(".partial") else path.rename(f"{path}.partial")
        # A cluster that was restored refuses to delete what the one before it took: that one may be alive.
        with contextlib.suppress(devicedb.NotFound, devicedb.Conflict):
            client.snapshots.delete(aside.name.removesuffix(".partial")[-36:])
        shutil.rmtree(aside)
        removed.append(path.name)
    return removed


def summary_of(path: pathlib.Path) -> devicedb.Summary | None:
    """What a backup holds, or the first of its parts that can say; none where none can."""
    tars = sorted(path.glob("*.tar"))
    for some in ([tars] if tars else []) + [[file] for file in sorted(path.glob("*.tar*"))]:
        with contextlib.suppress(devicedb.Corrupt, devicedb.Conflict):
            return devicedb.summarize(some)
    return None


def is_backup(name: str) -> bool:
    """Whether we have given this name: nothing else is ever removed."""
    try:
        time.strptime(name[:-37], "%Y%m%dT%H%M%SZ")
        return name[-37] == "-" and str(uuids.UUID(name[-36:])) == name[-36:]
    except (ValueError, IndexError):
        return False


def show_snapshot(snapshot: snapshot_pb2.Snapshot) -> None:
    """Progress of the snapshot."""
    show(f"{sum(p.partitions_done for p in snapshot.parts)} of {sum(p.partitions for p in snapshot.parts)} partitions written")


def show(text: str) -> None:
    """Progress for a person who looks on; cron sees one line."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def sync(directory: pathlib.Path) -> None:
    """Makes a rename durable."""
    handle = os.open(directory, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


if __name__ == "__main__":
    sys.exit(main())
