"""The receiving end of a download: a file that has its name only when it is whole.

- `PATH.partial` holds what has arrived. It is made when the server has something to send, locked against a second download, and becomes `PATH` by
  rename, after an fsync, when every chunk and the digest of the whole are right.
- Resuming checks what is there, since nothing else knows whether it is the beginning of the part. A whole `PATH` is checked likewise and not written.
- A rename would put a regular file in the place of whatever stands there. So where `PATH` is a link, what it leads to is replaced, beside itself; a device, a
  FIFO or a socket is written through as it is, without a partial file, and each download to it begins anew.
- Every stream of one download tells of the same node and the same size, and begins where the last one broke off.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import IO

from ._errors import Corrupt, Error, Failed, InvalidArgument, LocalFile, NotFound
from ._part import Checker, Part, pour
from .v1 import snapshot_pb2 as pb


def partial_path(path: str | os.PathLike[str]) -> str:
    """Where a download to `path` keeps what it has, until it is whole: beside the file that a link leads to."""
    name = os.fspath(path)
    return (os.path.realpath(name) if os.path.islink(name) else name) + ".partial"


class Receiver:
    def __init__(self, uuid: str, node_id: int, path: str, resume: bool) -> None:
        self.uuid = uuid
        self.node_id = node_id
        self.path = path
        self.partial = partial_path(path)
        self.total: int | None = None
        self.whole = False
        self.through = False
        self._checker = Checker("the stream")
        self._file: IO[bytes] | None = None
        self._in_stream = False
        self._ruined = False
        try:
            self._look()
            if resume and not self.through:
                self._resume()
        except OSError as error:
            raise self._unusable(error) from error

    def _look(self) -> None:
        """What stands there decides how it is written."""
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            if self.path.endswith("/"):
                raise LocalFile(f"there is no directory {self.path}: make it, or name a file") from None
            return
        if stat.S_ISDIR(mode):
            raise LocalFile(f"{self.path} is a directory, and the part wants a file: name a file in it")
        if not stat.S_ISREG(mode):
            self.through = True
            # As a shell's `>` does: a FIFO waits for its reader.
            self._file = open(os.open(self.path, os.O_WRONLY), "wb", buffering=0)  # noqa: SIM115

    @property
    def received(self) -> int:
        return self._checker.received

    def _resume(self) -> None:
        try:
            if os.path.exists(self.partial):
                self._open()
                self._checker.whence = self.partial
                pour(self.partial, self._checker.feed)
            elif os.path.exists(self.path):
                self.whole = True
                self._checker.whence = self.path
                pour(self.path, self._checker.feed)
        except Corrupt as error:
            raise self._discard(error) from None

    def request(self) -> pb.DownloadSnapshotRequest:
        """Asks for what is still to come, of a stream that begins now."""
        self._in_stream = False
        return pb.DownloadSnapshotRequest(uuid=self.uuid, node_id=self.node_id, offset=self.received)

    def take(self, message: pb.DownloadSnapshotResponse) -> bool:
        """True when everything is here and is what was sent."""
        piece = message.WhichOneof("piece")
        if not self._in_stream:
            if piece != "header":
                raise Failed("the stream is not a download: it does not begin with a header")
            self._begin(message.header)
        elif piece == "data":
            self._write(message.data)
        elif piece == "trailer":
            self._check_trailer(message.trailer)
            return True
        elif piece == "header":
            raise Failed("the stream is not a download: a second header came")
        # Anything else is from a newer server. If it matters, the digest will not fit.
        return False

    def _begin(self, header: pb.DownloadHeader) -> None:
        if self.node_id not in (0, header.node_id):
            raise Failed(f"the part of node {self.node_id} was asked for and that of node {header.node_id} came")
        if self.received > header.total_bytes:
            raise LocalFile(f"{self._kept()} is from something else: it has {self.received} bytes and the part has {header.total_bytes}: move it away")
        if self.total not in (None, header.total_bytes):
            raise self._discard(Corrupt(f"the part had {self.total} bytes and now has {header.total_bytes}"))
        if header.offset != self.received:
            raise Failed(f"the stream begins at byte {header.offset} and not at {self.received}")
        self._in_stream, self.node_id, self.total = True, header.node_id, header.total_bytes
        if self._file is None and not self.whole:
            try:
                self._open().truncate(0)
            except OSError as error:
                raise self._unusable(error) from error

    def _write(self, data: bytes) -> None:
        if self.received + len(data) > (self.total or 0):
            raise self._discard(Corrupt(f"more came than the {self.total} bytes of the part"))
        if self._file is None:
            raise LocalFile(f"{self.path} has its name and is not whole: move it away")
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._checker.feed(data)
        except Corrupt as error:
            raise self._discard(error) from None

    def _check_trailer(self, trailer: pb.DownloadTrailer) -> None:
        if trailer.total_bytes != self.total:
            raise self._discard(Corrupt(f"the part had {self.total} bytes and now has {trailer.total_bytes}"))
        if self.received < trailer.total_bytes:
            raise Failed(f"the stream says that it is complete after {self.received} of {self.total} bytes")
        ours = self._checker.digest()
        if ours != trailer.digest.lower():
            raise self._discard(Corrupt(f"the bytes are not what was sent: their blake3 is {ours} and should be {trailer.digest}"))

    def finish(self) -> Part:
        """Gives the file its name."""
        try:
            part = self._checker.finish(self.path)
        except Corrupt as error:
            raise self._discard(error) from None
        if self._file is not None:
            try:
                self._sync(self._file)
                if not self.through:
                    os.rename(self.partial, self.partial.removesuffix(".partial"))
                self._file.close()
                self._file = None
                if not self.through:
                    _sync_directory(self.partial)
            except OSError as error:
                raise self._unusable(error) from error
        return part

    def _sync(self, file: IO[bytes]) -> None:
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as error:
            # Of what is written through, only a disk has something to sync.
            if not (self.through and error.errno in (errno.EINVAL, errno.EROFS, errno.ENOTSUP)):
                raise

    def close(self) -> None:
        """Lets go of the file; takes it away where nothing of the part is in it."""
        if self._file is None:
            return
        try:
            self._file.close()
            if self.through:
                pass
            elif self._ruined or os.path.getsize(self.partial) == 0:
                os.remove(self.partial)
        except OSError:
            pass  # What made the download fail is told already.
        self._file = None

    def cut_short(self, error: Error) -> Error:
        """The same error, with what is left and how to go on."""
        self.close()
        if self.through and self.received:
            got = f"{self.path} got {self.received}{self._of_total()} bytes: that is no part: throw it away and download again"
            error.args = (f"the download of {self.whose()} is incomplete: {error}: {got}",)
        if self.through or not os.path.exists(self.partial):
            return error
        error.partial = self.partial
        again = "" if isinstance(error, InvalidArgument | NotFound | Corrupt) else ": the same call goes on there"
        message = f"the download of {self.whose()} is incomplete: {error}: {self.partial} holds {os.path.getsize(self.partial)}{self._of_total()} bytes{again}"
        error.args = (message,)
        return error

    def interrupted(self) -> str:
        self.close()
        there = not self.through and os.path.exists(self.partial)
        kept = f": {self.partial} holds {os.path.getsize(self.partial)}{self._of_total()} bytes: the same call goes on there" if there else ""
        return f"the download of {self.whose()} was interrupted{kept}"

    def whose(self) -> str:
        return f"the part of node {self.node_id} of snapshot {self.uuid}" if self.node_id else f"a part of snapshot {self.uuid}"

    def _of_total(self) -> str:
        return "" if self.total is None else f" of {self.total}"

    def _kept(self) -> str:
        return self.path if self.whole or self.through else self.partial

    def _open(self) -> IO[bytes]:
        # Nothing but a file of its own, since it is cut short, renamed and removed.
        if os.path.lexists(self.partial) and not stat.S_ISREG(os.lstat(self.partial).st_mode):
            raise LocalFile(f"{self.partial} is no file that a download left: move it away")
        # Its owner's alone: it holds all data, unless it is sealed.
        file = open(os.open(self.partial, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise LocalFile(f"another download is writing {self.partial}: wait for it") from None
        self._file = file
        return file

    def _discard(self, error: Corrupt) -> Error:
        if self.whole:
            return LocalFile(f"{self.path} is not this part: {error}: move it away")
        self._ruined = True
        self.close()
        if self.through:
            return error
        return Corrupt(f"{error}: the partial file was removed, since it can never become the part: download it again")

    def _unusable(self, error: OSError) -> LocalFile:
        return LocalFile(f"cannot use {self._kept()}: {error.strerror}: free its disk or name another path")


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
