"""Who the caller is, and whom it believes: certificates and a token, read from files again when these change.

- Files are looked at when a call begins, once in `LOOK_EVERY` at most. gRPC keeps what a channel was opened with, so channels are opened anew when the
  content has changed; calls that are under way end on the channel that they began on.
- A set that cannot be used, because it is being replaced file by file or is damaged, changes nothing: the one before it stays in use.
- Neither a key nor a token is ever told: not in a text, an error or a `repr`.

It does not look at who else may read the files.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import ssl
import time
from collections.abc import Sequence
from typing import Any

import grpc

from ._errors import InvalidArgument, LocalFile
from ._requests import need

# Seconds between two looks at the files.
LOOK_EVERY = 1.0
FILE_BYTES_MAX = 1 << 20
TOKEN_BYTES_MAX = 4096


@dataclasses.dataclass(frozen=True)
class Tls:
    """Files, in PEM, for connections over TLS. They are read again when they change.

    Attributes:
        ca: the CA that has issued for the nodes; several while a CA is changed.
        cert: the certificate that says who the caller is. None where a token does.
        key: the key of that certificate.
        server_name: whom the nodes' certificates are for, where that is not the host of the endpoint.
    """

    ca: str | os.PathLike[str]
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None


@dataclasses.dataclass(frozen=True)
class _Held:
    """What the files held."""

    ca: bytes = b""
    cert: bytes = b""
    key: bytes = b""
    token: str = ""


class Credentials:
    """What channels are opened with and calls are made with.

    Attributes:
        generation: counts the sets of certificates; channels of an older one are to be opened anew.
    """

    def __init__(self, endpoints: Sequence[str], tls: Tls | None, token: str | None, token_file: str | os.PathLike[str] | None) -> None:
        if tls is not None and not isinstance(tls, Tls):
            raise TypeError(f"tls must be Tls or None, not {type(tls).__name__}")
        self._tls = tls
        self._files = {name: os.fspath(path) for name, path in _named(tls, token_file)}
        for name in ("ca", "cert", "key", "token"):
            need("token_file" if name == "token" else f"tls.{name}", self._files.get(name), str, absent=True)
        if tls is not None:
            need("tls.server_name", tls.server_name, str, absent=True)
            if "ca" not in self._files:
                raise InvalidArgument("tls.ca is missing: name the CA that has issued for the nodes")
            if ("cert" in self._files) != ("key" in self._files):
                raise InvalidArgument("tls.cert and tls.key belong together: name both, or neither")
        if need("token", token, str, absent=True) is not None and token_file is not None:
            raise InvalidArgument("token and token_file are both given: one of them is the caller's")
        if token is not None or token_file is not None:
            if "cert" in self._files:
                raise InvalidArgument("tls.cert and a token are two callers: leave one of them out")
            _keep_off_open_lines(endpoints, tls)
        self._token = _token_of("the token", token) if token is not None else ""
        self.generation = 0
        self._looked = time.monotonic()
        self._stamps = self._stamp()
        self._held = self._read()

    def channel(self) -> grpc.ChannelCredentials | None:
        """What a channel is opened with; None for one without TLS."""
        if self._tls is None:
            return None
        held = self._held
        return grpc.ssl_channel_credentials(held.ca, held.key or None, held.cert or None)

    def options(self) -> list[tuple[str, Any]]:
        """What a channel is to know besides."""
        name = self._tls.server_name if self._tls is not None else None
        return [("grpc.ssl_target_name_override", name)] if name else []

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What says with a call who makes it."""
        token = self._token or self._held.token
        return (("authorization", f"Bearer {token}"),) if token else ()

    def is_due(self) -> bool:
        """Whether it is time for another look at the files."""
        return bool(self._files) and time.monotonic() - self._looked >= LOOK_EVERY

    def look(self) -> None:
        """Reads the files again if they have changed."""
        self._looked = time.monotonic()
        stamps = self._stamp()
        if stamps == self._stamps:
            return
        try:
            held = self._read()
        except LocalFile:
            return  # The rest of the set may still be on its way.
        if self._stamp() != stamps:
            return  # They have changed meanwhile, and may not belong together.
        is_another = dataclasses.replace(held, token="") != dataclasses.replace(self._held, token="")
        self._held, self._stamps = held, stamps
        # Last: whoever sees the new number opens with the new set.
        self.generation += is_another

    def _stamp(self) -> list[tuple[int, ...] | None]:
        return [_stamp_of(path) for path in self._files.values()]

    def _read(self) -> _Held:
        held = {name: _bytes_of(path) for name, path in self._files.items()}
        token = held.pop("token", None)
        if "ca" in held:
            _look_at_certificates(self._files, held)
        return _Held(**held, token="" if token is None else _token_of(self._files["token"], token.decode(errors="replace").strip()))


def _named(tls: Tls | None, token_file: str | os.PathLike[str] | None) -> list[tuple[str, str | os.PathLike[str]]]:
    named = [("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)] if tls is not None else []
    return [(name, path) for name, path in [*named, ("token", token_file)] if path is not None]


def _keep_off_open_lines(endpoints: Sequence[str], tls: Tls | None) -> None:
    """A token goes over TLS, or to this machine."""
    for endpoint in endpoints if tls is None else ():
        if not is_here(endpoint):
            raise InvalidArgument(f"a token is not sent without TLS, and {endpoint} is another machine: name tls=Tls(ca=...)")


def is_here(endpoint: str) -> bool:
    """Whether what is sent to it stays on this machine."""
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token_of(where: str, token: str) -> str:
    if not token:
        raise LocalFile(f"{where}: no token stands there")
    if len(token) > TOKEN_BYTES_MAX or not token.isascii() or any(c <= " " or c == "\x7f" for c in token):
        raise LocalFile(f"{where}: what stands there is no token: one line, as in ddb_...")
    return token


def _stamp_of(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _bytes_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            held = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise LocalFile(f"{path}: {error.strerror}") from error
    if len(held) > FILE_BYTES_MAX:
        raise LocalFile(f"{path}: it holds more than {FILE_BYTES_MAX} bytes")
    return held


def _look_at_certificates(files: dict[str, str], held: dict[str, bytes]) -> None:
    """gRPC says nothing of PEM that it cannot use until a handshake fails, and then not which file it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("ca", "cert"):
        if name in held and b"-----BEGIN CERTIFICATE-----" not in held[name]:
            raise LocalFile(f"{files[name]}: no certificate stands there, in PEM")
    try:
        context.load_verify_locations(cadata=held["ca"].decode("ascii", errors="replace"))
    except (ssl.SSLError, ValueError):
        raise LocalFile(f"{files['ca']}: a certificate in it is damaged") from None
    if "key" not in held:
        return
    if b"PRIVATE KEY-----" not in held["key"]:
        raise LocalFile(f"{files['key']}: no private key stands there, in PEM")
    try:
        context.load_cert_chain(files["cert"], files["key"], password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise LocalFile(f"{files['key']}: it is not the key of {files['cert']}") from None
        raise LocalFile(f"{files['cert']} and {files['key']} cannot be used: one is damaged, or the key is encrypted") from None
    except OSError as error:
        raise LocalFile(f"{files['cert']}: {error.strerror}") from error
