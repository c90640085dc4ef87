#!/usr/bin/env bash
# Builds the site of the documents, target/site/book: site/build.sh MDBOOK. Every link in it leads somewhere, or this fails.
#
# The tree of the project is kept, as far as the documents name it, so that their links hold in the site as they do in the repository.
set -euo pipefail
cd "$(dirname "$0")/../.."
mdbook=$1 out=${CARGO_TARGET_DIR:-$PWD/target}/site
rm -rf "$out"
mkdir -p "$out/src"

copy() {
    mkdir -p "$out/src/$(dirname "$1")"
    cp -r "$1" "$out/src/$1"
}
copy README.md; copy CHANGELOG.md; copy LICENSE; copy clients/README.md; copy clients/conformance/README.md
copy tests/compare/README.md; copy tests/compare/growth
for page in docs/*.md; do copy "$page"; done
# What is no page, and named by one: files as they are, directories as lists of what is in them.
python3 deploy/site/links.py named "$out/src" | while read -r named; do
    [ -e "$out/src/$named" ] || copy "$named"
    [ ! -d "$named" ] || python3 deploy/site/links.py list "$out/src/$named"
done
cp deploy/site/book.toml "$out/"
cp deploy/site/SUMMARY.md "$out/src/"
"$mdbook" build "$out" --dest-dir "$out/book"
python3 deploy/site/links.py check "$out/book"
