#!/usr/bin/env bash
# Makes a Debian package of built binaries: deploy/deb/build.sh BINARIES PACKAGE.deb
#
# BINARIES is a directory with devicedb and ddbctl, target/release perhaps. In the package: both, their manual pages and completions, the unit, and settings that an
# operator edits. Installing it makes the user `devicedb` and starts nothing: which cluster a node belongs to is for the operator to say.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binaries=${1:?the directory of the binaries} package=${2:?the file to make}
for tool in dpkg-deb strip objdump gzip; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: sudo apt-get install dpkg-dev binutils gzip" >&2; exit 1; }
done

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
umask 022

install -D -m 755 -t "$root/usr/bin" "$binaries/devicedb" "$binaries/ddbctl"
strip --strip-debug "$root/usr/bin/devicedb" "$root/usr/bin/ddbctl"
install -D -m 644 -t "$root/usr/lib/systemd/system" "$top/deploy/systemd/devicedb.service"
install -D -m 644 -t "$root/etc/devicedb" "$here/devicedb.toml"
install -D -m 644 "$top/LICENSE" "$root/usr/share/doc/devicedb/copyright"
install -d "$root/usr/share/doc/devicedb"
gzip -9n <"$top/CHANGELOG.md" >"$root/usr/share/doc/devicedb/changelog.gz"
for program in devicedb ddbctl; do
    "$root/usr/bin/$program" manual "$root/usr/share/man/man1"
    install -d "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
    "$root/usr/bin/$program" completions bash >"$root/usr/share/bash-completion/completions/$program"
    "$root/usr/bin/$program" completions zsh >"$root/usr/share/zsh/vendor-completions/_$program"
    "$root/usr/bin/$program" completions fish >"$root/usr/share/fish/vendor_completions.d/$program.fish"
done
gzip -9n "$root"/usr/share/man/man1/*.1
# Programs make files for their owner alone.
find "$root/usr/share" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +

version=$("$root/usr/bin/devicedb" --version | cut -d' ' -f2)
glibc=$(objdump -T "$root/usr/bin/devicedb" "$root/usr/bin/ddbctl" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -1 | cut -d_ -f2)
install -d "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: devicedb
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: DeviceDB maintainers <maintainers@devicedb.example>
Section: database
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: libc6 (>= $glibc), libgcc-s1, passwd
Recommends: ca-certificates
Description: distributed database for fleets of devices, with disaster recovery
 One command takes a consistent snapshot of a whole running cluster; each node's
 part streams away as a tar, is verified without being restored, and brings the
 cluster back on empty machines.
 .
 This package has the node, devicedb, as a systemd service that is not started
 before it is configured, and the command line, ddbctl.
CONTROL
echo /etc/devicedb/devicedb.toml >"$root/DEBIAN/conffiles"
install -m 755 -t "$root/DEBIAN" "$here/postinst" "$here/prerm" "$here/postrm"
(cd "$root" && find usr etc -type f -exec md5sum {} +) >"$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/md5sums" "$root/DEBIAN/conffiles" "$root/DEBIAN/control"

dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" --build "$root" "$package" >/dev/null
echo "$package: devicedb $version for $(dpkg --print-architecture), glibc $glibc or later"
