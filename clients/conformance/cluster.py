"""A real cluster for the tests of both clients: devicedb processes on loopback, and nginx before them.

Python tests import it. Others start it as a program and speak lines of JSON with it: it says first where the cluster is, then answers each
{"do": name, "args": {...}} with {"ok": result} or {"error": text}. It ends, and everything with it, when its stdin does. With --secured it speaks TLS,
and says which files callers of several kinds have.

Binaries are taken from DEVICEDB_BIN, a directory, or from target/debug.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import IO, Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("DEVICEDB_BIN", ROOT / "target/debug")).resolve()
# A time is how long a test is willing to wait for a fact.
SOON = 60.0

END = "-----END CERTIFICATE-----"

NGINX = """
daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx-error.log warn;
events {{ worker_connections 512; }}
http {{
    log_format calls '$uri $status $request_time $body_bytes_sent';
    access_log {dir}/nginx-calls.log calls;
    client_body_temp_path {dir}/nginx-body; proxy_temp_path {dir}/nginx-proxy; fastcgi_temp_path {dir}/nginx-fastcgi;
    uwsgi_temp_path {dir}/nginx-uwsgi; scgi_temp_path {dir}/nginx-scgi;
    upstream nodes {{ {servers} }}
    server {{
        listen 127.0.0.1:{port} http2;
        client_max_body_size 16m;
        # What is silent for five seconds is cut, in either direction.
        grpc_read_timeout 5s; grpc_send_timeout 5s; send_timeout 5s; client_body_timeout 5s; keepalive_timeout 5s;
        grpc_connect_timeout 2s;
        location / {{ grpc_pass grpc://nodes; }}
    }}
    # A long line: so slow that a download can be interrupted.
    server {{
        listen 127.0.0.1:{slow} http2;
        location / {{ grpc_pass grpc://nodes; limit_rate 1m; }}
    }}
}}
"""


class Port:
    """A loopback port that no other test has: a locked file, as the Rust tests have them, below the range that the kernel draws from."""

    turn = 0

    def __init__(self) -> None:
        claims = pathlib.Path(tempfile.gettempdir()) / "devicedb-test-ports"
        claims.mkdir(exist_ok=True)
        for _ in range(10_000):
            Port.turn += 1
            self.number = 20_000 + (os.getpid() * 37 + Port.turn) % 10_000
            self.claim = open(claims / str(self.number), "w")
            try:
                fcntl.flock(self.claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if free(self.number):
                return
        raise RuntimeError("no port is free")

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.number}"


def free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def until(what: str, look: Any, bound: float = SOON) -> Any:
    """Waits for a fact: `look` returns something true, or raises what is still wrong."""
    deadline = time.monotonic() + bound
    while True:
        try:
            if found := look():
                return found
            why: object = "not yet"
        except (AssertionError, OSError, urllib.error.URLError, ValueError) as error:
            why = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {bound:.0f} s: {what}: {why}")
        time.sleep(0.05)


class Certificates:
    """A CA of the cluster's own and what it has issued, made by `ddbctl cert`; files that are in use keep their names when others take their place."""

    # Whose files are in use, beside those of the nodes.
    clients: tuple[str, ...] = ("ops",)

    def __init__(self, directory: pathlib.Path) -> None:
        self.dir = directory
        self.ca = directory / "ca.crt"
        self.turn = 0
        self.issuer = self._authority()
        self.believe(self.issuer)
        for name in self.clients:
            self.place(self.issuer, self.client(self.issuer, name), name)
        self.callers = self._strangers()

    def _authority(self) -> pathlib.Path:
        self.turn += 1
        made = self.dir / f"ca-{self.turn}"
        self._make("init", "--dir", str(made))
        return made

    def successor(self) -> pathlib.Path:
        """Another CA, which is believed beside the one in use."""
        made = self._authority()
        self.believe(self.issuer, made)
        return made

    def believe(self, *issuers: pathlib.Path) -> None:
        """What these have issued is believed from now on, and nothing else."""
        aside = self.dir / "ca.crt.new"
        aside.write_bytes(b"".join((issuer / "ca.crt").read_bytes() for issuer in issuers))
        os.replace(aside, self.ca)

    def node(self, issuer: pathlib.Path, name: str) -> str:
        self._make("node", name, "--host", "127.0.0.1", "--dir", str(issuer))
        return f"node-{name}"

    def client(self, issuer: pathlib.Path, name: str) -> str:
        """One that may do everything. Returns what its files are called there, without their ends."""
        self._make("client", name, "--admin", "--dir", str(issuer))
        return f"admin-{name}"

    def place(self, issuer: pathlib.Path, stem: str, name: str) -> None:
        """Moves what was issued over what was there: the key first, as the documentation has it."""
        for end in ("key", "crt"):
            os.replace(issuer / f"{stem}.{end}", self.dir / f"{name}.{end}")

    def files(self, stem: str, directory: pathlib.Path | None = None) -> dict[str, str]:
        """The CA, a certificate and its key."""
        place = directory or self.dir
        return {"ca": str(self.ca), "cert": str(place / f"{stem}.crt"), "key": str(place / f"{stem}.key")}

    def words(self, files: dict[str, str], prefix: str = "--") -> list[str]:
        """The flags that name them."""
        return [word for name, value in files.items() for word in (prefix + name.replace("_", "-"), value)]

    def _strangers(self) -> dict[str, dict[str, str]]:
        """Files of callers that are not to be served, and those of the one that is."""
        other = self._authority()
        stranger = self.client(other, "stranger")
        node = self.node(self.issuer, "false")
        damaged = self.dir / "damaged.key"
        damaged.write_text("nothing")
        ops = self.files("ops")
        return {
            "ops": ops,
            "nobody": {"ca": ops["ca"]},
            "stranger": self.files(stranger, other),
            "node": self.files(node, self.issuer),
            "elsewhere": {**ops, "ca": str(other / "ca.crt")},
            "misnamed": {**ops, "server_name": "db.example"},
            "damaged": {**ops, "key": str(damaged)},
        }

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.dir / "ops.crt", self.dir / "ops.key")
        return context

    def _make(self, *args: str) -> None:
        subprocess.run([str(BIN / "ddbctl"), "cert", *args], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=SOON)


class Node:
    """One devicedb process with a store of its own."""

    def __init__(self, name: str, directory: pathlib.Path, args: list[str], certificates: Certificates | None = None) -> None:
        self.port = Port()
        self.endpoint = self.port.endpoint
        self.store = directory / name
        self.log = directory / f"{name}.log"
        self.args = [str(BIN / "devicedb"), "start", "--store", str(self.store), "--listen", self.endpoint, *args]
        self.certificates = certificates
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self, path: str) -> None:
        def look() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"a node ended by itself:\n{self.log.read_text()[-2000:]}")
            context = self.certificates.context() if self.certificates else None
            with urllib.request.urlopen(f"http{'s' if context else ''}://{self.endpoint}{path}", timeout=5, context=context) as answer:
                return bool(answer.status == 200)

        until(f"{self.endpoint} answers {path}", look)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Cluster:
    """Three nodes, and nginx as the one endpoint that hides them; or one node that is a whole cluster. Secured ones speak TLS and nothing else."""

    # What makes the certificates, and the words that every node gets besides.
    issues: type[Certificates] = Certificates
    words: tuple[str, ...] = ()

    def __init__(self, proxy: bool = True, size: int = 3, secured: bool = False) -> None:
        self.size = size
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="devicedb-clients-"))
        self.nodes: list[Node] = []
        self.nginx: subprocess.Popen[bytes] | None = None
        self.certificates: Certificates | None = None
        # Endpoints that lead to the cluster by other ways.
        self.through: dict[str, str] = {}
        try:
            if secured:
                (self.dir / "certs").mkdir()
                self.certificates = self.issues(self.dir / "certs")
            self._found()
            if self.certificates:
                self.certificates.callers |= {name: self._token(name, role) for name, role in (("token", "viewer"), ("limited", "reader"))}
            self.slow = ""
            self.proxy = self._front() if proxy else ""
        except BaseException:
            self.close()
            raise

    @property
    def endpoints(self) -> list[str]:
        return [node.endpoint for node in self.nodes]

    def _token(self, name: str, role: str) -> dict[str, str]:
        """The files of a caller that has no certificate."""
        assert self.certificates is not None, "tokens are for clusters with certificates"
        file = self.dir / f"{name}.token"
        self.ctl("token", "create", name, role, "--file", str(file))
        return {"ca": str(self.certificates.ca), "token_file": str(file)}

    def _found(self) -> None:
        (self.dir / "snapshots").mkdir()
        for number in range(1, self.size + 1):
            founds = ["--found", "--partitions=64", "--groups=8", f"--replication-factor={self.size}"]
            shape = ["--join", self.nodes[0].endpoint] if self.nodes else founds
            words = [*shape, "--snapshot-store", str(self.dir / "snapshots"), *self.words]
            if self.certificates:
                self.certificates.place(self.certificates.issuer, stem := self.certificates.node(self.certificates.issuer, str(number)), stem)
                words += self.certificates.words(self.certificates.files(stem), "--tls-")
            node = Node(f"node{number}", self.dir, words, self.certificates)
            self.nodes.append(node)
            node.start()
            node.wait("/healthz")
        self.settle()

    def _front(self) -> str:
        self.port, self.slow_port = port, slow = Port(), Port()
        servers = " ".join(f"server {node.endpoint} max_fails=1 fail_timeout=1s;" for node in self.nodes)
        config = self.dir / "nginx.conf"
        config.write_text(NGINX.format(dir=self.dir, port=port.number, slow=slow.number, servers=servers))
        self.nginx = subprocess.Popen([nginx(), "-p", str(self.dir), "-e", str(self.dir / "nginx-error.log"), "-c", str(config)], stdin=subprocess.DEVNULL)

        def listens() -> bool:
            if self.nginx is None or self.nginx.poll() is not None:
                raise RuntimeError("nginx ended by itself")
            return not free(port.number)

        until("nginx listens", listens)
        self.slow = slow.endpoint
        return port.endpoint

    # What a test may do to it.

    def settle(self) -> None:
        """Waits until every started node is ready and the cluster says of itself that nothing is missing."""
        for node in self.nodes:
            if node.process is not None:
                node.wait("/readyz")
        running = [node.endpoint for node in self.nodes if node.process is not None]

        def healthy() -> bool:
            done = self.ctl("cluster", "health", endpoint=",".join(running), check=False)
            if done["code"] != 0:
                raise AssertionError(done["out"] + done["err"])
            # Whoever is asked has heard so from each of them.
            for endpoint in running:
                listed = json.loads(self.ctl("-o", "json", "node", "list", endpoint=endpoint)["out"])["nodes"]
                ready = sum(node["ready"] for node in listed)
                assert ready == len(running), f"{endpoint} says that {ready} nodes are ready"
            return True

        until("the cluster is healthy", healthy)

    def pause(self, endpoint: str) -> None:
        """Stops a node in the middle of whatever it does, with its connections open. Returns when all its threads stand: the signal only asks for that."""
        self._signal(endpoint, signal.SIGSTOP)
        process = self._node(endpoint).process
        assert process is not None

        def stands() -> bool:
            stats = pathlib.Path(f"/proc/{process.pid}/task").glob("*/stat")
            return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)

        until(f"{endpoint} stands still", stands)

    def resume(self, endpoint: str) -> None:
        self._signal(endpoint, signal.SIGCONT)

    def pause_all(self) -> None:
        for node in self.nodes:
            self.pause(node.endpoint)

    def resume_all(self) -> None:
        for node in self.nodes:
            self.resume(node.endpoint)

    def kill(self, endpoint: str) -> None:
        """As a power cut for the process."""
        self._node(endpoint).stop()

    def start(self) -> None:
        """Starts all nodes that are down, and waits until the cluster is whole."""
        for node in self.nodes:
            if node.process is None:
                node.start()
        self.settle()

    def ctl(self, *args: str, endpoint: str = "", check: bool = True, files: dict[str, str] | None = None) -> dict[str, Any]:
        """ddbctl, which both clients are compared with; with these files, or those of the client that may do everything."""
        who = self.certificates.words(self.callers["ops"] if files is None else files) if self.certificates else []
        command = [str(BIN / "ddbctl"), "--endpoint", endpoint or ",".join(self.endpoints), *who, *args]
        # What the person who runs the tests has written down is not what is tested.
        alone = {**os.environ, "DDBCTL_CONTEXT": ""}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SOON, env=alone)
        if check and done.returncode != 0:
            raise AssertionError(f"{args} exited with {done.returncode}: {done.stdout}{done.stderr}")
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr}

    @property
    def callers(self) -> dict[str, dict[str, str]]:
        """Files of clients, by who they are for the cluster."""
        return self.certificates.callers if self.certificates else {}

    def rotate(self) -> dict[str, dict[str, str]]:
        """Another CA takes the place of the one in use: for the clients, for the nodes, and then nobody believes the one before any more.

        Nodes are restarted one after the other at the end, so that every connection is made anew, with what the files hold now. Returns `callers`,
        the client's former certificate among them.
        """
        assert self.certificates is not None, "the cluster has no certificates"
        made = self.certificates
        former = made.dir / "former"
        former.mkdir(exist_ok=True)
        for end in ("crt", "key"):
            shutil.copy(made.dir / f"ops.{end}", former)
        next_one = made.successor()
        renewed = {name: made.client(next_one, name) for name in made.clients}
        files = made.files(renewed["ops"], next_one)
        for node in self.nodes:
            self._signal(node.endpoint, signal.SIGHUP)
            until(f"{node.endpoint} believes the next CA", lambda node=node: self._believes(node, files))  # type: ignore[misc]
        for name, stem in renewed.items():
            made.place(next_one, stem, name)
        for number, node in enumerate(self.nodes, 1):
            made.place(next_one, stem := made.node(next_one, str(number)), stem)
            self._signal(node.endpoint, signal.SIGHUP)
            until(f"{node.endpoint} shows its new certificate", lambda node=node, stem=stem: self._shows(node, stem))  # type: ignore[misc]
        made.issuer = next_one
        self.follow()
        made.believe(next_one)
        for node in self.nodes:
            node.stop()
            self.start()
        made.callers |= {"former": made.files("ops", former), "node": made.files(made.node(next_one, "false"), next_one)}
        return self.callers

    def follow(self) -> None:
        """Waits for others who use the files, before nobody believes the former ones any more."""

    def _believes(self, node: Node, files: dict[str, str]) -> bool:
        done = self.ctl("node", "list", endpoint=node.endpoint, check=False, files=files)
        assert done["code"] == 0, done["err"]
        return True

    def _shows(self, node: Node, stem: str) -> bool:
        return self.shows(node.port, stem)

    def shows(self, port: Port, stem: str) -> bool:
        """Whether who listens there has the certificate that lies there now."""
        assert self.certificates is not None
        shown = ssl.get_server_certificate(("127.0.0.1", port.number), timeout=5)
        return shown.split() == (self.certificates.dir / f"{stem}.crt").read_text().partition(END)[0].split() + END.split()

    def damage(self, uuid: str, node: str) -> str:
        """Changes a byte of a chunk of a node's part, where it lies on disk; returns the chunk's name."""
        shelf = self.dir / "snapshots" / f"node-{node}"
        manifest = json.loads((shelf / "snapshots" / uuid / "manifest.json").read_text())
        chunk: str = max(manifest["chunks"], key=lambda c: c["stored_bytes"])["hash"]
        with open(shelf / "chunks" / chunk[:2] / chunk, "r+b") as file:
            file.seek(10)
            byte = file.read(1)
            file.seek(10)
            file.write(bytes([byte[0] ^ 1]))
        return chunk

    def verify(self, paths: list[str]) -> None:
        """What ddbctl says of parts."""
        self.ctl("snapshot", "verify", *paths)

    def forget_calls(self) -> None:
        os.truncate(self.dir / "nginx-calls.log", 0)

    def downloads_logged(self, least: int) -> None:
        """Waits until so many downloads have passed through nginx: one that resumed is several."""

        def look() -> bool:
            calls = (self.dir / "nginx-calls.log").read_text()
            count = calls.count("/DownloadSnapshot ")
            assert count >= least, f"{count} downloads passed: {calls}"
            return True

        until(f"{least} downloads pass through nginx", look, 10)

    def restore(self, tars: list[str]) -> None:
        """The disaster and the way back: every store is lost, and each part is extracted into an empty one."""
        for node, tar in zip(self.nodes, tars, strict=True):
            node.stop()
            shutil.rmtree(node.store)
            node.store.mkdir()
            subprocess.run(["tar", "xf", tar, "-C", str(node.store)], check=True, timeout=SOON)
        self.start()

    def close(self) -> None:
        if self.nginx is not None:
            self.nginx.terminate()
            self.nginx.wait()
        for node in self.nodes:
            node.stop()
        if os.environ.get("DEVICEDB_KEEP"):
            print(f"kept: {self.dir}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _node(self, endpoint: str) -> Node:
        return next(node for node in self.nodes if node.endpoint == endpoint)

    def _signal(self, endpoint: str, number: int) -> None:
        process = self._node(endpoint).process
        assert process is not None, f"{endpoint} does not run"
        process.send_signal(number)


def nginx() -> str:
    return debian("/usr/sbin/nginx", "nginx-light")


def debian(program: str, *packages: str) -> str:
    """A program of Debian's; installed where that is allowed. Without it the tests through a proxy fail, and say so."""
    if os.access(program, os.X_OK) and all(installed(package) for package in packages[1:]):
        return program
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "timeout": 300}
        subprocess.run(["apt-get", "update", "-qq"], check=True, **quiet)  # type: ignore[call-overload]
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=True, **quiet)  # type: ignore[call-overload]
        return program
    raise RuntimeError(f"the tests through a proxy need {program} and cannot install it: sudo apt-get install {' '.join(packages)}")


def installed(package: str) -> bool:
    """Whether a package is there that adds to a program."""
    return subprocess.run(["dpkg", "--status", package], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def serve(cluster: Cluster, asked: IO[str], told: IO[str]) -> None:
    def tell(message: dict[str, Any]) -> None:
        told.write(json.dumps(message) + "\n")
        told.flush()

    with cluster:
        tell({"endpoints": cluster.endpoints, "proxy": cluster.proxy, "dir": str(cluster.dir), "callers": cluster.callers, "through": cluster.through})
        for line in asked:
            order = json.loads(line)
            try:
                tell({"ok": getattr(cluster, order["do"])(*order.get("args", []))})
            except Exception as error:
                tell({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    secured = "--secured" in sys.argv[1:]
    serve(Cluster(proxy=not secured, secured=secured), sys.stdin, sys.stdout)
