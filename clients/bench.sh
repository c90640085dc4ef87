#!/usr/bin/env bash
# Measures both clients against ddbctl, on one real cluster in one run, with release binaries. Prints the table of clients/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
source clients/tools.sh

export DEVICEDB_BIN=${DEVICEDB_BIN:-$PWD/${CARGO_TARGET_DIR:-target}/release}
python_tools
mkdir -p target/clients
(cd clients/go && go build -o ../../target/clients/measure ./internal/measure)
rm -rf target/clients/bench
"$VENV/bin/python" -m venv target/clients/bench
target/clients/bench/bin/pip install --quiet --disable-pip-version-check ./clients/python
target/clients/bench/bin/python clients/bench.py target/clients/measure
