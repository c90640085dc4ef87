"""A part as a tar: checks it while it comes, and checks files offline.

A part is `manifest.json`, then `chunks/<hash>` sorted by hash, then two empty blocks. The manifest's last line is the blake3 of all lines before it. A chunk
is one zstd frame whose own blake3 and size stand in the manifest, and its name is the blake3 of what it decompresses to.

The rows inside chunks are not looked at, nor their order: `ddbctl snapshot verify` does that too. Chunks of a sealed part are compared with what was stored
and not opened: that takes the identity file of a recipient, `ddbctl snapshot verify --identity`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

import zstandard
from blake3 import blake3

from ._errors import Conflict, Corrupt, InvalidArgument, LocalFile

BLOCK = 512
MANIFEST = "manifest.json"
FORMAT = 4
MANIFEST_BYTES_MAX = 512 << 20
CHUNK_BYTES_MAX = 72 << 20
READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """A sound part of a snapshot in a file."""

    path: str
    snapshot: str
    """The snapshot's uuid."""
    lineage: str
    """The history it belongs to."""
    node_id: int
    bytes: int
    """Bytes of the tar."""
    digest: str
    """Blake3 of the tar, in hex."""
    manifest_digest: str
    """Blake3 of the manifest, in hex, as SnapshotPart.manifest_digest has it."""
    chunks: int
    rows: int
    cluster: str
    """The cluster it is of."""
    sealed_to: tuple[str, ...] = ()
    """Who can read its rows, if it is sealed; then they were not looked at."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What parts of one snapshot hold together, as their manifests say."""

    snapshot: str
    """The snapshot's uuid."""
    cluster: str
    """The cluster it is of."""
    lineage: str
    """The history it belongs to."""
    number: int
    """Its number in that history: later ones have higher ones."""
    parts: int
    rows: int
    """Rows of sites, of each partition once."""
    bytes: int
    """Bytes of those rows before compression."""


class Checker:
    """Takes a tar's bytes in order, in pieces of any size, and raises Corrupt at the first that cannot belong to a part."""

    def __init__(self, whence: str) -> None:
        self.whence = whence
        self.received = 0
        self.manifest: dict[str, Any] = {}
        self.manifest_digest = ""
        self._hasher = blake3()
        self._buffer = bytearray()
        self._at = 0
        self._steps = self._read()
        self._wanted = next(self._steps)

    def feed(self, data: bytes) -> None:
        self._hasher.update(data)
        self.received += len(data)
        self._buffer += data
        used = 0
        while self._wanted >= 0 and len(self._buffer) - used >= self._wanted:
            block = bytes(memoryview(self._buffer)[used : used + self._wanted])
            used += self._wanted
            self._at += self._wanted
            try:
                self._wanted = self._steps.send(block)
            except StopIteration:
                self._wanted = -1
        del self._buffer[:used]
        if self._wanted < 0 and self._buffer:
            raise self._wrong("bytes stand behind its end")

    def wants(self) -> int:
        """How many bytes it can use before it can say anything new."""
        return self._wanted - len(self._buffer)

    def digest(self) -> str:
        """Blake3 of what came so far, in hex."""
        return self._hasher.hexdigest()

    def finish(self, path: str) -> Part:
        """What the tar is, all of it having come."""
        if self._wanted >= 0:
            raise self._wrong("it ends too early")
        m = self.manifest
        rows = sum(chunk["rows"] for chunk in m["chunks"])
        size, sealed_to = len(m["chunks"]), tuple(m.get("seal", {}).get("recipients", ()))
        return Part(path, m["snapshot"], m["lineage"], int(m["node"]), self.received, self.digest(), self.manifest_digest, size, rows, m["cluster"], sealed_to)

    def _wrong(self, what: str) -> Corrupt:
        return Corrupt(f"{self.whence}: at byte {self._at}: {what}")

    def _read(self) -> Generator[int, bytes, None]:
        """The tar as a program would read it: yields how many bytes it wants, and is sent them."""
        size = yield from self._header(MANIFEST, None)
        self._take_manifest((yield from self._content(size)))
        for chunk in self.manifest["chunks"]:
            yield from self._header(f"chunks/{chunk['hash']}", chunk["stored_bytes"])
            self._check_chunk(chunk, (yield from self._content(chunk["stored_bytes"])))
        if any((yield 2 * BLOCK)):
            raise self._wrong("its last two blocks are not empty: it holds more than its manifest says")

    def _header(self, name: str, size: int | None) -> Generator[int, bytes, int]:
        block = yield BLOCK
        summed = sum(block[:148]) + 8 * 32 + sum(block[156:])
        try:
            found, has, checksum = block[:100].rstrip(b"\0").decode(), int(block[124:136].strip(b"\0 "), 8), int(block[148:156].strip(b"\0 "), 8)
        except ValueError:
            found, has, checksum = "", 0, -1
        if checksum != summed:
            raise self._wrong(f"the header of {name} is damaged")
        if found != name or block[156:157] != b"0":
            raise self._wrong(f"{name} should stand here, and {found!r} does")
        if has != (has if size is None else size) or (size is None and has > MANIFEST_BYTES_MAX):
            raise self._wrong(f"{name} has {has} bytes, not {size}")
        return has

    def _content(self, size: int) -> Generator[int, bytes, bytes]:
        content = yield size
        if any((yield -size % BLOCK)):
            raise self._wrong("what fills the last block of a file is not empty")
        return content

    def _take_manifest(self, text: bytes) -> None:
        head = text[:64].partition(b",")[0]
        number = head.removeprefix(b'{"format":')
        if number == head or not number.isdigit():
            raise self._wrong("it does not begin as the manifest of a part begins")
        if int(number) > FORMAT:
            raise Conflict(f"{self.whence}: this part was written by a newer version: format {int(number)}, this client reads up to {FORMAT}")
        body, last = text[: -len(_last_line("0" * 64))], text[-len(_last_line("0" * 64)) :]
        self.manifest_digest = blake3(body).hexdigest()
        if last != _last_line(self.manifest_digest):
            raise self._wrong("the manifest was changed or cut short after it was written")
        self.manifest = json.loads(text)
        if "x" in self.manifest:  # as formats 1 and 2 call it
            self.manifest["seq"] = self.manifest.pop("x")

    def _check_chunk(self, chunk: dict[str, Any], frame: bytes) -> None:
        name = chunk["hash"]
        if blake3(frame).hexdigest() != chunk["stored_digest"]:
            raise self._wrong(f"the stored bytes of chunk {name} are not those that were written")
        if "seal" in self.manifest:
            return
        try:
            fits = chunk["bytes"] <= CHUNK_BYTES_MAX and zstandard.frame_content_size(frame) == chunk["bytes"]
            plain = zstandard.ZstdDecompressor().decompress(frame) if fits else b""
        except zstandard.ZstdError as error:
            raise self._wrong(f"chunk {name} cannot be decompressed: {error}") from None
        if blake3(plain).hexdigest() != name:
            raise self._wrong(f"the content of chunk {name} is not what its name says")


def _last_line(digest: str) -> bytes:
    return f'"digest":"{digest}"}}\n'.encode()


def pour(path: str | os.PathLike[str], into: Callable[[bytes], None]) -> None:
    """Reads a whole file in pieces."""
    with open(path, "rb") as file:
        while data := file.read(READ_BYTES):
            into(data)


def verify(paths: Sequence[str | os.PathLike[str]]) -> list[Part]:
    """Checks downloaded tars without a cluster: every byte of each, and that together they are one snapshot from which a cluster comes back.

    One part alone is judged by itself. Several are to be of one snapshot and history, each of another node, agree on what they both hold, cover every
    partition, and hold for every group the parts of most of its voters.

    Raises:
        InvalidArgument: no path was given.
        Corrupt: a part is damaged, or the parts do not fit or do not suffice; the text names the file, the byte and what is wrong.
        Conflict: a part was written by a newer version.
        LocalFile: a file cannot be read.
    """
    if isinstance(paths, str | bytes):
        raise TypeError("paths must be a list of paths, not one of them")
    if not paths:
        raise InvalidArgument("cannot verify: no path was given")
    parts, manifests = [], []
    for path in paths:
        name = os.fspath(path)
        checker = Checker(name)
        try:
            pour(name, checker.feed)
        except OSError as error:
            raise LocalFile(f"cannot read {name}: {error.strerror}") from error
        parts.append(checker.finish(name))
        manifests.append(checker.manifest)
    if len(parts) > 1:
        _check_set(parts, manifests)
    return parts


def summarize(paths: Sequence[str | os.PathLike[str]]) -> Summary:
    """What downloaded tars of one snapshot say that they hold. Only their manifests are read and checked, so a partial file will do that has its manifest.

    Raises:
        InvalidArgument: no path was given.
        Corrupt: a manifest is damaged or not there yet, or the parts are not of one snapshot.
        Conflict: a part was written by a newer version.
        LocalFile: a file cannot be read.
    """
    if isinstance(paths, str | bytes):
        raise TypeError("paths must be a list of paths, not one of them")
    if not paths:
        raise InvalidArgument("cannot summarize: no path was given")
    manifests = [_manifest(os.fspath(path)) for path in paths]
    first = manifests[0]
    rows: dict[int, int] = {}
    size: dict[int, int] = {}
    for path, m in zip(paths, manifests, strict=True):
        for key in ("snapshot", "seq", "cluster", "lineage"):
            if m[key] != first[key]:
                raise Corrupt(f"{os.fspath(path)}: its {key} is {m[key]}, and that of {os.fspath(paths[0])} is {first[key]}: they are not one snapshot")
        for partition in (p for group in m["parts"] for p in group["partitions"]):
            rows[partition["id"]] = max(partition["rows"], rows.get(partition["id"], 0))
            size[partition["id"]] = max(partition["bytes"], size.get(partition["id"], 0))
    return Summary(first["snapshot"], first["cluster"], first["lineage"], first["seq"], len(manifests), sum(rows.values()), sum(size.values()))


def _manifest(path: str) -> dict[str, Any]:
    checker = Checker(path)
    try:
        with open(path, "rb") as file:
            while not checker.manifest:
                data = file.read(checker.wants())
                if not data and checker.wants():
                    raise Corrupt(f"{path}: its manifest is not whole")
                checker.feed(data)
    except OSError as error:
        raise LocalFile(f"cannot read {path}: {error.strerror}") from error
    return checker.manifest


def _check_set(parts: list[Part], manifests: list[dict[str, Any]]) -> None:
    identity = ("snapshot", "seq", "cluster", "lineage", "partitions", "groups")
    nodes: dict[str, str] = {}
    said: dict[tuple[str, int], tuple[Any, str]] = {}
    voters: dict[int, tuple[list[str], set[str]]] = {}
    for part, m in zip(parts, manifests, strict=True):
        for key in identity:
            if m[key] != manifests[0][key]:
                raise Corrupt(f"{part.path}: its {key} is {m[key]}, and that of {parts[0].path} is {manifests[0][key]}: they are not one snapshot")
        if m["node"] in nodes:
            raise Corrupt(f"{part.path}: it is of node {m['node']}, as is {nodes[m['node']]}")
        nodes[m["node"]] = part.path
        # Names of chunks, and digests of them, are those of one seal.
        seal = m.get("seal", {}).get("wrapped", "")
        under = f" under seal {blake3(seal.encode()).hexdigest()[:8]}" if seal else ""
        for group in ([{**m["meta"], "group": -1}] if m["meta"] else []) + m["parts"]:
            mark = [group[key] for key in ("mark_index", "mark_term", "voters", "learners", *(("rows",) if group["group"] < 0 else ()))]
            mark.append(group.get("dots", 0))
            facts = [(("group", group["group"]), mark)]
            facts += [(("partition", p["id"]), [p["rows"], p["data_index"]]) for p in group.get("partitions", [])]
            facts += [((f"the digest{under} of partition", p["id"]), p["digest"]) for p in group.get("partitions", [])]
            facts += [((f"the digest{under} of group", -1), group["digest"])] if group["group"] < 0 else []
            for about, fact in facts:
                first, by = said.setdefault(about, (fact, part.path))
                if first != fact:
                    raise Corrupt(f"{part.path}: {about[0]} {about[1]} is {fact} here and {first} in {by}")
            # A node whose part lacks the meta group cannot be restored from it.
            voters.setdefault(group["group"], (group["voters"], set()))[1].update({m["node"]} if m["meta"] else ())
    missing = [p for p in range(manifests[0]["partitions"]) if ("partition", p) not in said]
    if missing:
        raise Corrupt(f"the parts lack {len(missing)} partitions, the first of them {missing[0]}")
    for group in [-1, *range(manifests[0]["groups"])]:
        members, present = voters.get(group, ([], set()))
        if 2 * len(present & set(members)) <= len(members):
            name = "the meta group" if group < 0 else f"group {group}"
            raise Corrupt(f"the parts at hand are not of a majority of the voters of {name}: a restore of them does not come up")
