"""What others see of the cluster: health and reflection with grpcurl, and the package as it is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import devicedb

from cluster import Cluster, until

# Built by clients/test.sh.
GRPCURL = os.environ.get("GRPCURL", "grpcurl")


def grpcurl(*args: str) -> str:
    done = subprocess.run([GRPCURL, "-plaintext", "-max-time", "10", *args], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("through", ["node", "proxy"])
def test_grpcurl_reads_health_and_reflection(cluster: Cluster, through: str) -> None:
    endpoint = cluster.endpoints[0] if through == "node" else cluster.proxy
    for service in ("", "devicedb.v1.KvService", "devicedb.v1.ClusterService", "devicedb.v1.SnapshotService"):
        asked = ("-d", json.dumps({"service": service}), endpoint, "grpc.health.v1.Health/Check")
        # Health follows readiness up to 250 ms later.
        until(f"{service!r} is serving", lambda asked=asked: json.loads(grpcurl(*asked)) == {"status": "SERVING"}, 5)  # type: ignore[misc]
    services = grpcurl(endpoint, "list").split()
    assert {"devicedb.v1.KvService", "devicedb.v1.ClusterService", "devicedb.v1.SnapshotService", "grpc.health.v1.Health"} <= set(services)
    assert "rpc Get ( .devicedb.v1.GetRequest ) returns ( .devicedb.v1.GetResponse );" in grpcurl(endpoint, "describe", "devicedb.v1.KvService.Get")
    overview: dict[str, Any] = json.loads(grpcurl("-d", "{}", endpoint, "devicedb.v1.ClusterService/GetOverview"))
    assert len(overview["nodes"]) == 3
    # Older tools ask by another name, and hear the same.
    older = grpcurl("-d", '{"list_services": ""}', endpoint, "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    assert "devicedb.v1.KvService" in older
    # What an error carries is shown, and not its bytes.
    asked = [GRPCURL, "-plaintext", "-max-time", "10", "-format-error", "-d", '{"site": "nowhere", "key": "aw=="}', endpoint, "devicedb.v1.KvService/Get"]
    refused = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    assert refused.returncode != 0
    detail = json.loads(refused.stderr)["details"][0]
    assert detail["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert detail["domain"] == "devicedb", detail


def test_the_twenty_lines_of_the_readme_back_a_cluster_up(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    text = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text()
    program = text.split("```python\n", 1)[1].split("```", 1)[0]
    assert program.count("\n") <= 20
    program = program.replace("node1:8080,node2:8080,node3:8080", ",".join(cluster.endpoints))
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)
    tars = sorted(str(path) for path in tmp_path.glob("*.tar"))
    assert len(tars) == 3
    cluster.ctl("snapshot", "verify", *tars)


def test_the_lines_about_backups_survive_a_node_that_is_away(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    text = (pathlib.Path(__file__).resolve().parents[3] / "docs" / "backup-and-restore.md").read_text()
    program = "import devicedb\n" + text.split("```python\n", 1)[1].split("```", 1)[0]
    program = program.replace("node1:8080,node2:8080,node3:8080", ",".join(cluster.endpoints))
    cluster.kill(cluster.endpoints[0])
    try:
        # The cut is refused until the others have agreed on leaders again.
        with devicedb.Client(cluster.endpoints[1:], timeout=30) as client:
            client.sites.add("one-away")
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)
    finally:
        cluster.start()
    assert len(list(tmp_path.glob("*.tar"))) == 2


def test_the_wheel_has_types_and_stubs_and_everything_public_says_what_it_is() -> None:
    files = {str(file) for file in importlib.metadata.files("devicedb") or []}
    assert {"devicedb/py.typed", "devicedb/v1/kv_pb2.pyi", "devicedb/v1/snapshot_pb2.pyi", "devicedb/v1/kv_pb2_grpc.pyi"} <= files
    assert not any("tests" in file or "examples" in file for file in files)
    assert importlib.metadata.version("devicedb") == devicedb.__version__
    assert importlib.resources.files("devicedb").joinpath("py.typed").is_file()
    for name in devicedb.__all__:
        public = getattr(devicedb, name)
        assert name == "__version__" or public.__doc__, name
        for member, value in vars(public).items() if isinstance(public, type) else ():
            if callable(value) and not member.startswith("_"):
                assert value.__doc__, f"{name}.{member}"
