"""Who the caller is: files that are wrong, files that change, and secrets that are not told."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import devicedb
from devicedb import _credentials
from devicedb.v1 import cluster_pb2, kv_pb2

from cluster import Certificates, until
from fake import Fake, identity, refuse

SECRET = "ddb_0123abcd_a-secret-of-43-characters"


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.place(made.issuer, made.client(made.issuer, "next"), "next")
    made.place(made.issuer, node := made.node(made.issuer, "1"), node)
    return made


@pytest.fixture
def mine(issued: Certificates, tmp_path: pathlib.Path) -> devicedb.Tls:
    """Files of the client's own, which a test may replace."""
    for name in ("ca.crt", "ops.crt", "ops.key"):
        shutil.copy(issued.dir / name, tmp_path)
    return devicedb.Tls(tmp_path / "ca.crt", tmp_path / "ops.crt", tmp_path / "ops.key")


def server(issued: Certificates) -> grpc.ServerCredentials:
    node = issued.files("node-1")
    cert, key, ca = (pathlib.Path(node[name]).read_bytes() for name in ("cert", "key", "ca"))
    return grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)


def get(*_: Any) -> bytes:
    return kv_pb2.GetResponse().SerializeToString()


def replace(path: Any, by: pathlib.Path) -> None:
    shutil.copy(by, f"{path}.new")
    os.replace(f"{path}.new", path)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"ca": "none.crt"}, "none.crt: No such file"),
        ({"ca": "ops.key"}, "ops.key: no certificate stands there, in PEM"),
        ({"ca": "half.crt"}, "half.crt: a certificate in it is damaged"),
        ({"cert": "none.crt"}, "none.crt: No such file"),
        ({"cert": "ops.key"}, "ops.key: no certificate stands there, in PEM"),
        ({"key": "ops.crt"}, "ops.crt: no private key stands there, in PEM"),
        ({"key": "other.key"}, "other.key: it is not the key of"),
        ({"key": "half.key"}, "half.key cannot be used: one is damaged, or the key is encrypted"),
        ({"ca": "."}, "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_before_anything_is_sent(
    issued: Certificates, mine: devicedb.Tls, tmp_path: pathlib.Path, broken: dict[str, str], says: str
) -> None:
    shutil.copy(issued.dir / "next.key", tmp_path / "other.key")
    for name, of in (("half.crt", "ca.crt"), ("half.key", "ops.key")):
        text = (tmp_path / of).read_text().splitlines()
        (tmp_path / name).write_text("\n".join([*text[:2], *text[-1:]]) + "\n")
    named = {"ca": mine.ca, "cert": mine.cert, "key": mine.key, **{name: tmp_path / file for name, file in broken.items()}}
    for client in (devicedb.Client, devicedb.AsyncClient):
        with pytest.raises(devicedb.LocalFile) as caught:
            client("127.0.0.1:1", tls=devicedb.Tls(**named))
        assert says in str(caught.value) and "PRIVATE" not in str(caught.value)


def test_what_belongs_together_is_named_together_and_types_are_told(mine: devicedb.Tls, tmp_path: pathlib.Path) -> None:
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({"tls": {"ca": "x"}}, TypeError, "tls must be Tls or None, not dict"),
        ({"tls": devicedb.Tls(7)}, TypeError, "int"),  # type: ignore[arg-type]
        ({"token": b"ddb_"}, TypeError, "token must be str or None, not bytes"),
        ({"tls": devicedb.Tls(mine.ca, cert=mine.cert)}, devicedb.InvalidArgument, "belong together"),
        ({"tls": devicedb.Tls(mine.ca, key=mine.key)}, devicedb.InvalidArgument, "belong together"),
        ({"token": SECRET, "token_file": "t"}, devicedb.InvalidArgument, "both given"),
        ({"token": SECRET}, devicedb.InvalidArgument, "not sent without TLS, and db.example:8080 is another machine"),
        ({"token": SECRET, "tls": mine}, devicedb.InvalidArgument, "two callers"),
        ({"token": "two words", "tls": devicedb.Tls(mine.ca)}, devicedb.LocalFile, "no token"),
        ({"token_file": tmp_path / "none", "tls": devicedb.Tls(mine.ca)}, devicedb.LocalFile, "none: No such file"),
    ]
    for options, kind, says in cases:
        with pytest.raises(kind) as caught:
            devicedb.Client("127.0.0.1:1,db.example:8080", **options)
        assert says in str(caught.value) and SECRET not in str(caught.value)


def test_a_token_goes_with_every_call_and_is_read_again_when_its_file_changes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_credentials, "LOOK_EVERY", 0.0)
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    sites = cluster_pb2.ListSitesResponse().SerializeToString()
    calls: dict[str, Any] = {"GetIdentity": identity("5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11"), "Get": get, "ListSites": lambda *_: sites}
    with Fake({"Scan": lambda *_: iter(())}, **calls) as one, Fake(**calls) as two:
        with devicedb.Client([one.endpoint, two.endpoint], token_file=file) as client:
            client.get("s", b"k")
            list(client.scan("s"))
            assert SECRET not in repr(client) + repr(vars(client))
            file.write_text("")  # It is being written anew.
            client.get("s", b"k")
            file.write_text("ddb_next")
            client.get("s", b"k")

        async def go() -> None:
            async with devicedb.AsyncClient(one.endpoint, token=SECRET) as other:
                await other.sites.list()

        asyncio.run(go())
        said = [caller for caller, _ in one.callers]
        assert [caller for caller, _ in two.callers] == [f"Bearer {SECRET}"], "also the question which cluster it is"
        assert said == [f"Bearer {token}" for token in (SECRET, SECRET, SECRET, SECRET, "ddb_next", SECRET)]


def test_certificates_that_change_are_used_from_the_next_call_on_and_what_is_under_way_goes_on(
    issued: Certificates, mine: devicedb.Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_credentials, "LOOK_EVERY", 0.0)
    go_on = threading.Event()

    def pages(*_: Any) -> Iterator[bytes]:
        for key in (b"a", b"b"):
            yield kv_pb2.ScanResponse(entries=[kv_pb2.ScanEntry(key=key)]).SerializeToString()
            go_on.wait(10)

    former, following = (pathlib.Path(path).read_bytes() for path in (issued.dir / "ops.crt", issued.dir / "next.crt"))
    with Fake({"Scan": pages}, credentials=server(issued), Get=get) as fake, devicedb.Client(fake.endpoint, tls=mine) as client:
        client.get("s", b"k")
        scan = client.scan("s")
        assert next(scan).key == b"a"
        replace(mine.key, issued.dir / "next.key")
        client.get("s", b"k")  # The certificate is not there yet: the former pair is in use.
        replace(mine.cert, issued.dir / "next.crt")
        for _ in range(2):
            client.get("s", b"k")
        assert len(client._retired) == 1, "the scan is under way there"
        go_on.set()
        assert [entry.key for entry in scan] == [b"b"]
        assert not client._retired, "and then its channel is closed"
        assert [certificate for _, certificate in fake.callers] == [former, former, former, following, following]

    async def asyncio_too() -> None:
        async with devicedb.AsyncClient(fake.endpoint, tls=mine) as other:
            await other.get("s", b"k")
            replace(mine.key, issued.dir / "ops.key")
            replace(mine.cert, issued.dir / "ops.crt")
            await other.get("s", b"k")

    with Fake(credentials=server(issued), Get=get) as fake:
        asyncio.run(asyncio_too())
        assert [certificate for _, certificate in fake.callers] == [following, former]


def test_who_is_not_permitted_is_told_at_once_and_not_again(issued: Certificates) -> None:
    for code, kind in (("UNAUTHENTICATED", devicedb.Unauthenticated), ("PERMISSION_DENIED", devicedb.NotPermitted)):
        with Fake(Get=refuse(code, None, message="grant writer of site s")) as fake, devicedb.Client(fake.endpoint) as client:
            with pytest.raises(devicedb.NotPermitted, match="grant writer of site s") as caught:
                client.get("s", b"k")
            assert type(caught.value) is kind and [name for name, _ in fake.seen] == ["Get"]


def test_a_closed_client_lets_go_of_channels_of_former_certificates_too(issued: Certificates, mine: devicedb.Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_credentials, "LOOK_EVERY", 0.0)
    over = threading.Event()

    def hang(*_: Any) -> bytes:
        over.wait(10)
        return get()

    caught: list[BaseException] = []
    with Fake(credentials=server(issued), Get=hang, Put=lambda *_: kv_pb2.PutResponse().SerializeToString()) as fake:
        client = devicedb.Client(fake.endpoint, tls=mine)

        def ask() -> None:
            try:
                client.get("s", b"k")
            except devicedb.Error as error:
                caught.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        until("the server is asked", lambda: any(name == "Get" for name, _ in fake.seen))
        replace(mine.key, issued.dir / "next.key")
        replace(mine.cert, issued.dir / "next.crt")
        client.put("s", b"k", b"v")
        assert len(client._retired) == 1
        client.close()
        thread.join(5)
        over.set()
        assert [type(error) for error in caught] == [devicedb.Closed] and not client._retired
