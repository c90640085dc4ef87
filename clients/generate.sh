#!/usr/bin/env bash
# Makes the Python and Go stubs from proto/, and the synchronous Python client from the asynchronous one. Needs Python 3.10 and Go; protoc comes with
# grpcio-tools. What it installs stays under target/, each at one version.
set -euo pipefail
cd "$(dirname "$0")/.."
source clients/tools.sh

python_tools
go_tool google.golang.org/protobuf/cmd/protoc-gen-go "$PROTOC_GEN_GO"
go_tool google.golang.org/grpc/cmd/protoc-gen-go-grpc "$PROTOC_GEN_GO_GRPC"

python=clients/python
go=clients/go
module=$(sed -n 's/^module //p' $go/go.mod)
public=(proto/devicedb/v1/*.proto)
mapping=()
for file in "${public[@]}"; do
    mapping+=("M${file#proto/}=$module/devicedbv1")
done
options=$(IFS=,; echo "module=$module,${mapping[*]}")

rm -rf $python/devicedb/v1 $go/devicedbv1
"$VENV/bin/python" -m grpc_tools.protoc --proto_path=proto \
    --plugin="protoc-gen-mypy_grpc=$VENV/bin/protoc-gen-mypy_grpc" \
    --python_out=$python --pyi_out=$python --grpc_python_out=$python --mypy_grpc_out=quiet:$python \
    --plugin="protoc-gen-go=$TOOLS/protoc-gen-go" --plugin="protoc-gen-go-grpc=$TOOLS/protoc-gen-go-grpc" \
    --go_out=$go --go_opt="$options" --go-grpc_out=$go --go-grpc_opt="$options" \
    "${public[@]}"
echo '"""What protoc makes of proto/devicedb/v1. Made by clients/generate.sh."""' >$python/devicedb/v1/__init__.py
"$VENV/bin/python" $python/tools/free_type_vars.py $python/devicedb/v1
"$VENV/bin/python" $python/tools/make_sync.py
