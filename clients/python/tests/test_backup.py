"""The example scripts, as cron runs them, against a real cluster: what they fetched brings it back."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from blake3 import blake3

import devicedb

from cluster import Cluster, until

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "examples/backup.py"
# Built by clients/test.sh.
GO = os.environ.get("DEVICEDB_GO_BACKUP", "")
PROGRAMS = {"python": [sys.executable, str(SCRIPT)], "go": [GO]}


class Program:
    """One of the scripts; its flags have the same names."""

    def __init__(self, name: str) -> None:
        self.go = name == "go"
        assert not self.go or GO, "DEVICEDB_GO_BACKUP names the Go program: run clients/test.sh"
        self.command = PROGRAMS[name]

    def argv(self, **flags: Any) -> list[str]:
        """Flags as words: --wait-timeout 3 or -wait-timeout 3s."""
        words = []
        for name, value in flags.items():
            words.append(("-" if self.go else "--") + name.replace("_", "-"))
            if value is not True:
                words += [str(v) for v in value] if isinstance(value, list) else [f"{value}s" if self.go and "timeout" in name else str(value)]
        return [*self.command, *words]

    def run(self, code: int, environment: dict[str, str] | None = None, **flags: Any) -> dict[str, Any]:
        done = subprocess.run(self.argv(**flags), capture_output=True, text=True, timeout=120, env={**os.environ, **(environment or {})})
        assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
        assert done.stdout.count("\n") == 1, "one line a run"
        return json.loads(done.stdout) if flags.get("json") else {"line": done.stdout}


@pytest.mark.parametrize("name", ["python", "go"])
def test_the_parts_that_the_script_fetched_bring_the_cluster_back(cluster: Cluster, tmp_path: pathlib.Path, name: str) -> None:
    program, other = Program(name), Program("python" if name == "go" else "go")
    directory = tmp_path / "backups"
    where = {"endpoints": ",".join(cluster.endpoints), "directory": directory}
    with devicedb.Client(cluster.endpoints) as client:
        sites = [f"{name}-{n}" for n in range(8)]
        for site in sites:
            client.sites.add(site)
            client.batch(site, [devicedb.Put(b"%d" % n, f"{site}: {n}".encode()) for n in range(100)])
        for n in range(24):
            client.put(sites[0], b"bulk-%02d" % n, blake3(f"{name}{n}".encode()).digest(length=1 << 20))
        nodes = {node.address: node.id for node in client.nodes()}

        first = program.run(0, **where, json=True)
        assert (first["result"], first["nodes"], first["copies_min"]) == ("ok", 3, 3)
        assert sum(f.stat().st_size for f in pathlib.Path(first["directory"]).iterdir()) == first["bytes"]
        assert cluster.ctl("snapshot", "status", first["uuid"])["code"] == 0

        # A second one that keeps only itself: the first is gone here and in the cluster; what we have not named stays.
        (directory / "notes").mkdir()
        second = program.run(0, **where, keep=1, json=True)
        assert second["removed"] == 1
        assert {p.name for p in directory.iterdir()} == {".lock", "notes", pathlib.Path(second["directory"]).name}
        assert cluster.ctl("snapshot", "status", first["uuid"], check=False)["code"] == 5

        interrupted(program, cluster, directory)
        tars = sorted(str(p) for p in pathlib.Path(second["directory"]).iterdir())
        assert "result=ok" in program.run(0, **where, uuid=second["uuid"])["line"], "a whole backup is left as it is"
    for reader in (program, other):
        assert reader.run(0, json=True, verify=tars)["parts"] == 3
    cluster.ctl("snapshot", "verify", *tars)

    ordered = [next(t for t in tars if t.endswith(f"-{nodes[endpoint]}.tar")) for endpoint in cluster.endpoints]
    cluster.restore(ordered)
    with devicedb.Client(cluster.endpoints) as client:
        for site in sites:
            found = {entry.key: [s.value for s in entry.siblings] for entry in client.scan(site)}
            wanted = {b"%d" % n: [f"{site}: {n}".encode()] for n in range(100)}
            if site == sites[0]:
                wanted |= {b"bulk-%02d" % n: [blake3(f"{name}{n}".encode()).digest(length=1 << 20)] for n in range(24)}
            assert found == wanted

    damaged = bytearray(pathlib.Path(tars[0]).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    pathlib.Path(tars[0]).write_bytes(damaged)
    told = program.run(6, verify=tars)["line"]
    assert tars[0] in told and "result=failed" in told


def interrupted(program: Program, cluster: Cluster, directory: pathlib.Path) -> None:
    """Ctrl-C while parts come over a slow line: what is there is named, and is gone on with."""
    argv = program.argv(endpoints=cluster.slow, directory=directory, json=True)
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until("a part is under way", lambda: any(p.stat().st_size > 1 << 20 for p in directory.glob("*.partial/*.tar.partial")) or running.poll() is not None)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130, out + err
    line = json.loads(out)
    partial = next(directory.glob("*.partial/*.tar.partial"))
    assert line["result"] == "interrupted" and str(partial) in line["error"], line
    had = partial.stat().st_size
    assert had > 0 and line["uuid"] in line["error"]
    gone_on = program.run(0, endpoints=",".join(cluster.endpoints), directory=directory, uuid=line["uuid"], json=True)
    assert gone_on["uuid"] == line["uuid"] and not list(directory.glob("*.partial"))


@pytest.fixture(scope="module")
def lone() -> Iterator[Cluster]:
    """Another cluster, that holds nothing: as one that a node without its disk has founded."""
    with Cluster(proxy=False, size=1) as running:
        yield running


@pytest.mark.parametrize("name", ["python", "go"])
def test_nothing_is_pruned_across_clusters_nor_in_favour_of_much_less(cluster: Cluster, lone: Cluster, tmp_path: pathlib.Path, name: str) -> None:
    program, directory = Program(name), tmp_path / "backups"

    def backup(code: int, *clusters: Cluster, **flags: Any) -> dict[str, Any]:
        endpoints = ",".join(endpoint for one in clusters for endpoint in one.endpoints)
        return program.run(code, endpoints=endpoints, directory=directory, keep=1, json=True, **flags)

    def kept() -> set[str]:
        return {path.name for path in directory.iterdir() if path.name != ".lock"}

    site = f"{name}-prune"
    with devicedb.Client(cluster.endpoints) as client:
        client.sites.add(site)
        client.batch(site, [devicedb.Put(b"%d" % n, b"value") for n in range(20)])
    real = pathlib.Path(backup(0, cluster)["directory"])
    mixed = backup(2, lone, cluster)
    assert "different clusters" in mixed["error"] and all(endpoint in mixed["error"] for endpoint in lone.endpoints + cluster.endpoints)
    empty = backup(0, lone)
    assert empty["others"] == 1 and empty["rows"] < 5 and "removed" not in empty
    with devicedb.Client(lone.endpoints) as client:
        lone_id = client.overview().cluster_id
    assert empty["cluster"] == lone_id
    assert lone_id in backup(2, cluster, cluster_id=lone_id)["error"]
    assert kept() == {real.name, pathlib.Path(empty["directory"]).name}

    # An interrupted run of the other cluster is not cleared up; one of this cluster, and one that had nothing yet, are.
    theirs, nothing = (directory / f"20200101T00000{n}Z-19a7e40e-adcc-4cc2-87a7-ae599272b05{n}.partial" for n in (1, 2))
    theirs.mkdir()
    nothing.mkdir()
    (theirs / "part.tar.partial").write_bytes(next(real.glob("*.tar")).read_bytes()[:100_000])

    with devicedb.Client(lone.endpoints) as client:
        client.sites.add(site)
        client.batch(site, [devicedb.Put(b"%d" % n, b"value") for n in range(20)])
        full = backup(0, lone)
        assert full["removed"] == 2 and full["others"] == 2, "the empty one of this cluster, and what had nothing yet"
        client.sites.remove(site)
        client.sites.add(site)
        smaller = backup(5, lone)
        assert smaller["result"] == "smaller" and "nothing was removed" in smaller["error"] and "accept-smaller" in smaller["error"]
        names = {pathlib.Path(one["directory"]).name for one in (full, smaller)}
        assert kept() == {real.name, theirs.name} | names and backup(5, lone)["result"] == "smaller", "it is said at each run"
        accepted = backup(0, lone, accept_smaller=True)
        assert accepted["removed"] == 3 and backup(0, lone)["removed"] == 1, "from then on it counts"
        client.sites.remove(site)
    assert real.name in kept() and theirs.name in kept()
    cluster.ctl("snapshot", "verify", *(str(tar) for tar in real.glob("*.tar")))
    with devicedb.Client(cluster.endpoints) as client:
        client.snapshots.delete(real.name[-36:])


@pytest.mark.parametrize("name", ["python", "go"])
def test_the_script_ends_by_meaning(cluster: Cluster, tmp_path: pathlib.Path, name: str) -> None:
    program = Program(name)
    here = ",".join(cluster.endpoints)
    told = program.run(3, endpoints="127.0.0.1:1", directory=tmp_path, timeout=5, json=True)
    assert "127.0.0.1:1" in told["error"]
    assert program.run(2, endpoints="no endpoint", directory=tmp_path, json=True)["exit"] == 2
    assert subprocess.run(program.argv(endpoints=here), capture_output=True, timeout=60).returncode == 2
    assert subprocess.run(program.argv(endpoints=here, directory=tmp_path, keep=0), capture_output=True, timeout=60).returncode == 2
    (tmp_path / "file").write_text("in the way")
    assert program.run(1, endpoints=here, directory=tmp_path / "file", json=True)["exit"] == 1
    with open(tmp_path / ".lock", "w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another backup" in program.run(5, endpoints=here, directory=tmp_path, json=True)["error"]


@pytest.fixture(scope="module")
def secured() -> Iterator[Cluster]:
    """A node that speaks TLS and nothing else."""
    with Cluster(proxy=False, size=1, secured=True) as running:
        yield running


@pytest.mark.parametrize("name", ["python", "go"])
def test_a_secured_cluster_is_backed_up_with_certificates_from_flags_or_the_environment(secured: Cluster, tmp_path: pathlib.Path, name: str) -> None:
    program, where = Program(name), {"endpoints": secured.endpoints[0], "directory": tmp_path, "json": True}
    files = secured.callers["ops"]
    first = program.run(0, **where, **files)
    environment = {f"DDBCTL_{word.upper()}": path for word, path in files.items()}
    second = program.run(0, environment, **where, keep=1)
    assert (first["result"], second["result"], second["removed"]) == ("ok", "ok", 1)
    tars = sorted(str(path) for path in pathlib.Path(second["directory"]).iterdir())
    assert len(tars) == 1
    secured.ctl("snapshot", "verify", *tars)

    assert "speaks TLS" in program.run(4, **where)["error"]
    assert "neither a certificate nor a token was given" in program.run(4, **where, ca=files["ca"])["error"]
    assert "not believed" in program.run(4, **where, **secured.callers["stranger"])["error"]
    assert "the node is not believed" in program.run(4, **where, **secured.callers["elsewhere"])["error"]
    damaged = secured.callers["damaged"]
    assert damaged["key"] in program.run(1, **where, **damaged)["error"]
    assert "-ca" in program.run(2, **where, cert=files["cert"], key=files["key"])["error"]
    token = tmp_path / "token"
    token.write_text("ddb_unknown")
    assert program.run(4, **where, ca=files["ca"], token_file=token)["result"] == "failed"
    assert "not sent without TLS" in program.run(2, **{**where, "endpoints": "db.example:8080"}, token_file=token)["error"]
