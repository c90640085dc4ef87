#!/usr/bin/env bash
# Tests both clients against real clusters: the Python one as the wheel that people install, in a venv of its own. Needs the devicedb binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
source clients/tools.sh

export DEVICEDB_BIN=${DEVICEDB_BIN:-$PWD/${CARGO_TARGET_DIR:-target}/debug}
export DEVICEDB_GO_BACKUP=$PWD/target/clients/backup GRPCURL=$TOOLS/grpcurl DEVICEDB_ENVOY
out=$PWD/target/clients
mkdir -p "$out"

python_tools
envoy_tool
go_tool github.com/fullstorydev/grpcurl/cmd/grpcurl "$GRPCURL_VERSION"
(cd clients/go && go build -o "$DEVICEDB_GO_BACKUP" ./examples/backup)

# result NAME PASSED FAILED: in the form of cargo test, so that results can be added up.
result() {
    local verdict=ok
    [ "$3" -eq 0 ] || verdict=FAILED
    printf '%s\ntest result: %s. %d passed; %d failed\n' "$1" "$verdict" "$2" "$3"
}
count() { { grep -cE "$1" "$2" || true; }; }

# A wheel in a fresh venv, and nothing else of ours.
rm -rf "$out/dist" "$out/fresh"
"$VENV/bin/python" -m build --wheel --no-isolation --outdir "$out/dist" clients/python >"$out/wheel.log" || { cat "$out/wheel.log"; exit 1; }
"$VENV/bin/python" -m venv "$out/fresh"
"$out/fresh/bin/pip" install --quiet --disable-pip-version-check "$out"/dist/*.whl $(grep -E '^(cryptography|pytest)=' clients/python/tools/requirements.txt)

code=0
"$out/fresh/bin/pytest" -p no:cacheprovider -q -rA --tb=short --show-capture=no clients/python/tests >"$out/python.log" 2>&1 || code=$?
result "the Python client" "$(count '^PASSED ' "$out/python.log")" "$(count '^(FAILED|ERROR) ' "$out/python.log")"
[ $code -eq 0 ] || { cat "$out/python.log"; exit $code; }

(cd clients/go && PYTHON=$VENV/bin/python go test -count=1 -v ./...) >"$out/go.log" 2>&1 || code=$?
result "the Go client" "$(count '^--- PASS' "$out/go.log")" "$(count '^--- FAIL' "$out/go.log")"
[ $code -eq 0 ] || { cat "$out/go.log"; exit $code; }
