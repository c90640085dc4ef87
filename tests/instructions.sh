#!/usr/bin/env bash
# Counts the instructions of hot paths under callgrind and compares them with tests/instructions.txt: a change that makes one dearer by more than TOLERANCE
# percent fails, one that makes it cheaper asks for its new count. `make instructions` runs it; with ACCEPT=1 the file gets what was counted.
#
# Counted is what runs inside of the engine's rounds, of checkpoints and of captures, on three nodes of the simulator in one thread, per request or row, in the
# build that all tests use, in which faults can be injected: nothing of gRPC and nothing of the kernel. It says what a change did, not how fast the database is.
set -euo pipefail
cd "$(dirname "$0")/.."

tolerance=${TOLERANCE:-5}
expected=tests/instructions.txt
binary=$(${CARGO:-cargo} test --locked --features fault-injection --test sim --no-run --message-format=json 2>/dev/null \
    | sed -nE 's/.*"executable":"([^"]*\/sim-[0-9a-f]*)".*/\1/p' | tail -1)
[ -x "$binary" ] || { echo "the simulator does not build: cargo test --test sim --no-run" >&2; exit 1; }

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
valgrind --tool=callgrind --callgrind-out-file="$dir/out" --collect-atstart=no \
    --toggle-collect='devicedb::engine::Engine::round*' --toggle-collect='devicedb::engine::checkpoint::Job::run*' \
    --toggle-collect='devicedb::service::parts::capture::copy*' --dump-after='*cost_of_*' \
    "$binary" --exact cost::what_is_counted_is_answered >"$dir/log" 2>&1 || { tail -20 "$dir/log" >&2; exit 1; }

# One dump a function.
for dump in "$dir"/out.*; do
    sed -nE 's/^desc: Trigger: --dump-after=.*cost_of_([a-z_]+)$/\1/p; s/^summary: ([0-9]+)$/\1/p' "$dump" | paste -sd' '
done | awk 'NF == 2' >"$dir/counted"

# expected: path, how many of it one run does, instructions of each.
accept=${ACCEPT:-}
awk -v tolerance="$tolerance" -v accept="$accept" -v out="$dir/accepted" '
    NR == FNR { counted[$1] = $2; next }
    /^#/ || !NF { print > out; next }
    !($1 in counted) { printf "%s was not counted\n", $1; bad = 1; next }
    {
        each = int(counted[$1] / $2 + 0.5); change = (each / ($3 + !$3) - 1) * 100; seen[$1] = 1
        word = change > tolerance ? "DEARER" : change < -tolerance ? "cheaper: ACCEPT=1 keeps that" : ""
        printf "%-14s %9d instructions each, expected %9d, %+6.1f %% %s\n", $1, each, $3, change, word
        printf "%-14s %4d %9d\n", $1, $2, each > out
        if (change > tolerance) bad = 1
    }
    END {
        for (path in counted) if (!(path in seen)) { printf "%s is not in the file of what is expected\n", path; bad = 1 }
        exit bad && !accept
    }' "$dir/counted" "$expected"
[ -z "$accept" ] || cp "$dir/accepted" "$expected"
