#!/usr/bin/env bash
# Makes a container image of built binaries, without a daemon: deploy/image/build.sh BINARIES IMAGE.tar
#
# IMAGE.tar is an archive of the OCI image layout that docker (25 or later), podman, skopeo and containerd load. In its one layer: devicedb, ddbctl, the libraries that
# they are linked with, and certificates of public CAs; no shell, no package manager. The node is user 65532 and keeps its data below /var/lib/devicedb. The same
# binaries make the same image, byte for byte, under one SOURCE_DATE_EPOCH.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
binaries=${1:?the directory of the binaries} image=$(realpath -m "${2:?the file to make}")
for tool in ldd strip tar gzip sha256sum; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: sudo apt-get install binutils tar gzip coreutils" >&2; exit 1; }
done
: "${SOURCE_DATE_EPOCH:=$(git -C "$top" log -1 --format=%ct 2>/dev/null || date +%s)}"
created=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
root=$work/root layout=$work/layout
mkdir -p "$layout/blobs/sha256"

install -D -m 755 -t "$root/usr/bin" "$binaries/devicedb" "$binaries/ddbctl"
strip --strip-debug "$root/usr/bin/devicedb" "$root/usr/bin/ddbctl"
ldd "$root/usr/bin/devicedb" "$root/usr/bin/ddbctl" | grep -oE '/[^ ]+\.so[^ ]*' | sort -u | while read -r library; do
    install -D -m 755 "$library" "$root$library"
done
ca=/etc/ssl/certs/ca-certificates.crt
if [ -e "$ca" ]; then install -D -m 644 "$ca" "$root$ca"; else echo "$ca is not there: the image knows no public CA" >&2; fi
install -d "$root/etc"
echo 'devicedb:x:65532:65532:DeviceDB:/var/lib/devicedb:/sbin/nologin' >"$root/etc/passwd"
echo 'devicedb:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
install -d -m 700 "$root/var/lib/devicedb"
install -d -m 1777 "$root/tmp"

archive() { tar --directory "$root" --create --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner "$@"; }
archive --file "$work/layer.tar" --owner=0 --group=0 --exclude=./var/lib/devicedb .
tar --directory "$root" --append --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner --owner=65532 --group=65532 --file "$work/layer.tar" ./var/lib/devicedb

# Blobs are named by their digests.
digest() { sha256sum "$1" | cut -d' ' -f1; }
blob() { local name; name=$(digest "$1"); mv "$1" "$layout/blobs/sha256/$name"; echo "$name"; }
size() { stat --format=%s "$layout/blobs/sha256/$1"; }
unpacked=$(digest "$work/layer.tar")
gzip -9n "$work/layer.tar"
layer=$(blob "$work/layer.tar.gz")

version=$("$binaries/devicedb" --version | cut -d' ' -f2)
revision=$(git -C "$top" rev-parse HEAD 2>/dev/null || echo unknown)
cat >"$work/config.json" <<JSON
{
  "created": "$created", "architecture": "$arch", "os": "linux",
  "config": {
    "User": "65532:65532", "ExposedPorts": { "8080/tcp": {} }, "StopSignal": "SIGTERM", "WorkingDir": "/var/lib/devicedb",
    "Env": ["PATH=/usr/bin", "DEVICEDB_STORE=/var/lib/devicedb/store"],
    "Entrypoint": ["/usr/bin/devicedb"], "Cmd": ["start", "--help"], "Volumes": { "/var/lib/devicedb": {} },
    "Labels": {
      "org.opencontainers.image.title": "devicedb", "org.opencontainers.image.version": "$version",
      "org.opencontainers.image.revision": "$revision", "org.opencontainers.image.licenses": "Apache-2.0"
    }
  },
  "rootfs": { "type": "layers", "diff_ids": ["sha256:$unpacked"] },
  "history": [{ "created": "$created", "created_by": "deploy/image/build.sh" }]
}
JSON
config=$(blob "$work/config.json")
cat >"$work/manifest.json" <<JSON
{
  "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:$config", "size": $(size "$config") },
  "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:$layer", "size": $(size "$layer") }]
}
JSON
manifest=$(blob "$work/manifest.json")
echo '{ "imageLayoutVersion": "1.0.0" }' >"$layout/oci-layout"
cat >"$layout/index.json" <<JSON
{
  "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [{
    "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:$manifest", "size": $(size "$manifest"),
    "platform": { "architecture": "$arch", "os": "linux" },
    "annotations": { "io.containerd.image.name": "docker.io/library/devicedb:$version", "org.opencontainers.image.ref.name": "$version" }
  }]
}
JSON
# What `docker load` reads.
echo "[{ \"Config\": \"blobs/sha256/$config\", \"RepoTags\": [\"devicedb:$version\"], \"Layers\": [\"blobs/sha256/$layer\"] }]" >"$layout/manifest.json"
tar --directory "$layout" --create --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner --owner=0 --group=0 --file "$image" .
echo "$image: devicedb:$version for linux/$arch, $(($(stat --format=%s "$image") >> 20)) MiB, sha256:$manifest"
