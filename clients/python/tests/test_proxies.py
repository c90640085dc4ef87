"""Calls, waits and large downloads through nginx and HAProxy, with the files of deploy/, while nodes die."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import threading
from collections.abc import Iterator

import pytest

import devicedb

from cluster import ROOT, Port, debian, free, nginx, until
from mesh import SpiffeCluster

LARGE, EACH = 100, 1 << 20


class Proxy:
    """nginx or HAProxy with its file, in which addresses and directories are those of this run."""

    def __init__(self, kind: str, cluster: SpiffeCluster) -> None:
        directory = cluster.dir / kind
        directory.mkdir()
        assert cluster.certificates is not None
        certificates = cluster.certificates.dir
        self.passed, self.tokens, self.log = Port(), Port(), directory / "log"
        file = ROOT / "deploy" / kind / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[kind]
        here = {"0.0.0.0:8443": self.passed.endpoint, "0.0.0.0:8444": self.tokens.endpoint, "/run/nginx.pid": f"{directory}/pid"}
        here |= {"/run/certs/proxy": str(directory / "proxy"), "/run/certs": str(certificates)}
        here |= {f"db{number}.acme.example:8080": node.endpoint for number, node in enumerate(cluster.nodes, 1)}
        # What Debian's package has made a place for is kept here.
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        here["access_log off;"] = " ".join(["access_log off;", *(f"{one}_temp_path {directory}/{one};" for one in temporary)])
        text = file.read_text()
        for there, found in here.items():
            text = text.replace(there, found)
        assert "db1." not in text and "0.0.0.0" not in text, f"{file} has an address that this test does not know"
        (config := directory / file.name).write_text(text)
        # Its own certificate is for who dials it, as Envoy's is.
        own = {end: (certificates / f"envoy.{end}").read_bytes() for end in ("crt", "key")}
        for end, words in {**own, "pem": own["crt"] + own["key"]}.items():
            (directory / f"proxy.{end}").write_bytes(words)
        if kind == "nginx":
            debian(program := nginx(), "nginx-light", "libnginx-mod-stream")
            command = [program, "-p", str(directory), "-e", "stderr", "-c", str(config), "-g", "daemon off; master_process off;"]
        else:
            command = [debian("/usr/sbin/haproxy", "haproxy"), "-db", "-f", str(config)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(f"{kind} listens", self._listens)

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the proxy ended by itself:\n{self.log.read_text()[-2000:]}")
        return not free(self.passed.number) and not free(self.tokens.number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpiffeCluster]:
    with SpiffeCluster() as made:
        client = devicedb.Client(made.endpoints, tls=devicedb.Tls(**made.callers["ops"]))
        client.sites.add("large")
        for number in range(LARGE):
            client.put("large", b"%d" % number, os.urandom(EACH))
        yield made


@pytest.fixture(scope="module", params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, cluster: SpiffeCluster) -> Iterator[Proxy]:
    made = Proxy(request.param, cluster)
    try:
        yield made
    finally:
        made.close()


def calls(cluster: SpiffeCluster, endpoint: str, who: str) -> devicedb.Client:
    files = dict(cluster.callers[who])
    token = files.pop("token_file", None)
    return devicedb.Client(endpoint, tls=devicedb.Tls(**files), token_file=token)


def passes(cluster: SpiffeCluster, proxy: Proxy) -> bool:
    """Whether the proxy has seen by now which nodes are well."""
    try:
        return bool(calls(cluster, proxy.passed.endpoint, "ops").sites.list())
    except devicedb.Unavailable:
        return False


def test_nodes_see_who_calls_and_whose_token_it_is(cluster: SpiffeCluster, proxy: Proxy) -> None:
    def answers(endpoint: str, who: str) -> bool:
        done = cluster.ctl("node", "list", endpoint=endpoint, check=False, files=cluster.callers[who])
        assert done["code"] == 0, done["err"]
        return True

    # Until the proxy has seen which nodes are well.
    until("calls pass", lambda: answers(proxy.passed.endpoint, "ops"))
    until("tokens pass", lambda: answers(proxy.tokens.endpoint, "token"))
    told = json.loads(cluster.ctl("-o", "json", "whoami", endpoint=proxy.passed.endpoint)["out"])
    assert told["identity"] == "spiffe://acme/ns/ops/sa/console"
    told = json.loads(cluster.ctl("-o", "json", "whoami", endpoint=proxy.tokens.endpoint, files=cluster.callers["token"])["out"])
    assert told["identity"] == "token:token"
    with pytest.raises(devicedb.NotPermitted, match="token:limited may not call"):
        calls(cluster, proxy.tokens.endpoint, "limited").nodes()
    for endpoint in (proxy.passed.endpoint, proxy.tokens.endpoint):
        with pytest.raises(devicedb.Unauthenticated):
            calls(cluster, endpoint, "nobody").nodes()


def test_writes_and_waits_go_on_while_every_node_dies_in_turn(cluster: SpiffeCluster, proxy: Proxy) -> None:
    until("calls pass", lambda: passes(cluster, proxy))
    stop, written, failed = threading.Event(), [0] * 4, []

    def write(number: int) -> None:
        client = calls(cluster, proxy.passed.endpoint, "ops")
        while not stop.is_set():
            try:
                client.put("large", b"writer-%d" % number, b"%d" % written[number])
            except (devicedb.Unavailable, devicedb.UnknownOutcome):
                # A connection that broke in its handshake: it is said again, as the table of errors has it.
                continue
            except devicedb.Error as error:
                failed.append(error)
                return
            written[number] += 1

    writers = [threading.Thread(target=write, args=(number,)) for number in range(len(written))]
    for writer in writers:
        writer.start()
    for node in cluster.nodes:
        before = min(written)
        cluster.kill(node.endpoint)
        until(f"writes go on without {node.endpoint}", lambda: failed or min(written) > before + 20)  # noqa: B023
        cluster.start()
    stop.set()
    for writer in writers:
        writer.join()
    assert not failed
    client = calls(cluster, proxy.passed.endpoint, "ops")
    for number, count in enumerate(written):
        assert [sibling.value for sibling in client.get("large", b"writer-%d" % number).siblings] == [b"%d" % (count - 1)]


def test_a_part_of_a_hundred_megabytes_comes_through_whole(cluster: SpiffeCluster, proxy: Proxy, tmp_path: pathlib.Path) -> None:
    cluster.settle()
    until("calls pass", lambda: passes(cluster, proxy))
    made = json.loads(cluster.ctl("-o", "json", "snapshot", "create", "--wait", endpoint=proxy.passed.endpoint)["out"])
    node = made["parts"][0]["node_id"]
    # A token that may download.
    file = tmp_path / "backup.token"
    cluster.ctl("token", "create", f"backup-{tmp_path.name}", "backup", "--file", str(file))
    backup = {"ca": cluster.callers["ops"]["ca"], "server_name": cluster.callers["ops"]["server_name"], "token_file": str(file)}
    for way, files in ((proxy.passed, cluster.callers["ops"]), (proxy.tokens, backup)):
        tar = tmp_path / f"{way.number}.tar"
        words = ("snapshot", "download", made["uuid"], "--node", node, "--output", str(tar))
        until("the token is known everywhere", lambda: cluster.ctl(*words, endpoint=way.endpoint, files=files, check=False)["code"] == 0)  # noqa: B023
        assert tar.stat().st_size > LARGE * EACH
        cluster.ctl("snapshot", "verify", str(tar))
    cluster.ctl("snapshot", "delete", made["uuid"])
