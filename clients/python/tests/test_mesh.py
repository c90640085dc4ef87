"""Both kinds of the client, and ddbctl, through Envoy, with certificates as a mesh issues them: conformance/mesh.py says in which ways."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

import devicedb

from mesh import WORKLOADS, MeshCluster
from test_conformance import CONFORMANCE, SUITE, Blocking, Direct, Runner, play

MESH = json.loads((CONFORMANCE / "mesh.json").read_text())


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshCluster]:
    with MeshCluster() as running:
        yield running


@pytest.mark.parametrize(("kind", "way"), [(Direct, "passed"), (Blocking, "gateway")], ids=["threads-passed", "asyncio-gateway"])
def test_the_client_does_the_same_through_envoy(mesh: MeshCluster, tmp_path: pathlib.Path, kind: Any, way: str) -> None:
    suite = [scenario for scenario in SUITE[:-1] if not scenario.get("slow")]
    play(Runner(mesh, kind, f"py-{kind.__name__.lower()}-{way}", False, tmp_path, way), [*suite, *MESH])


def who(mesh: MeshCluster, way: str, caller: str) -> str:
    return str(json.loads(mesh.ctl_by(way, caller, "-o", "json", "whoami")["out"])["identity"])


def test_a_node_sees_the_caller_or_envoy_or_whose_token_it_is(mesh: MeshCluster) -> None:
    assert who(mesh, "passed", "till") == WORKLOADS["till"]
    assert who(mesh, "gateway", "till") == who(mesh, "sidecar", "") == WORKLOADS["envoy"]
    assert who(mesh, "passed", "token") == who(mesh, "tokens", "token") == "token:token"
    # One whom the cluster lets into its own sites alone, and Envoy not at all.
    mesh.ctl("site", "add", "kiosk-1")
    mesh.ctl_by("passed", "door", "put", "--site", "kiosk-1", "open", "yes")
    refused = mesh.ctl_by("passed", "door", "put", "--site", "shop-1", "open", "yes", check=False)
    assert refused["code"] == 4 and WORKLOADS["door"] in refused["err"], refused
    for caller in ("door", "token", "stranger"):
        refused = mesh.ctl_by("gateway", caller, "put", "--site", "kiosk-1", "open", "yes", check=False)
        assert refused["code"] == 4 and "refused where TLS ends" in refused["err"], refused


@pytest.mark.parametrize("way", ["passed", "gateway", "sidecar"])
def test_ddbctl_works_and_backs_up_through_envoy(mesh: MeshCluster, tmp_path: pathlib.Path, way: str) -> None:
    site = f"ctl-{way}"
    mesh.ctl_by(way, "till", "site", "add", site)
    mesh.ctl_by(way, "till", "put", "--site", site, "color", "blue")
    assert mesh.ctl_by(way, "till", "get", "--site", site, "color")["out"] == "blue\n"
    created = mesh.ctl_by(way, "till", "-o", "json", "snapshot", "create", "--wait")
    uuid = json.loads(created["out"])["uuid"]
    mesh.ctl_by(way, "till", "snapshot", "download", uuid, "--all", "--output", str(tmp_path))
    tars = sorted(str(tar) for tar in tmp_path.glob("*.tar"))
    assert len(tars) == 3
    mesh.ctl("snapshot", "verify", *tars)


@pytest.mark.parametrize("way", ["passed", "gateway"])
def test_a_node_that_is_killed_costs_clients_that_come_just_then_nothing(mesh: MeshCluster, way: str) -> None:
    mesh.ctl("site", "add", site := f"killed-{way}")
    mesh.kill(mesh.endpoints[0])
    for number in range(30):
        # A connection each, so that some are for the node that is gone.
        with devicedb.Client(mesh.through[way], tls=devicedb.Tls(**mesh.callers["till"])) as client:
            client.put(site, b"%d" % number, b"v")
    mesh.start()


@pytest.mark.parametrize("way", ["passed", "gateway"])
def test_a_node_that_stands_still_holds_nobody_up_for_long(mesh: MeshCluster, way: str) -> None:
    mesh.ctl("site", "add", site := f"paused-{way}")
    with devicedb.Client(mesh.through[way], tls=devicedb.Tls(**mesh.callers["till"]), timeout=8) as client:
        client.put(site, b"before", b"v")
        mesh.pause(mesh.endpoints[1])
        try:
            for number in range(6):
                client.put(site, b"%d" % number, b"v")
        finally:
            mesh.resume(mesh.endpoints[1])
    mesh.settle()
