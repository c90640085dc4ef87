#!/usr/bin/env bash
# Looks at both clients without running them: layout, types, and what gofmt, go vet, staticcheck, ruff and mypy know of mistakes.
set -euo pipefail
cd "$(dirname "$0")/.."
source clients/tools.sh

python_tools
go_tool honnef.co/go/tools/cmd/staticcheck "$STATICCHECK"

"$VENV/bin/ruff" format --quiet --check --diff --config clients/python/pyproject.toml clients
"$VENV/bin/ruff" check --quiet --config clients/python/pyproject.toml clients
(cd clients/python && "$VENV/bin/mypy")
cd clients/go
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { printf 'not as gofmt lays it out:\n%s\n' "$unformatted" >&2; exit 1; }
go vet ./...
"$TOOLS/staticcheck" ./...
