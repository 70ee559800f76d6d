#!/usr/bin/env bash
# Evaluates on several GPUs of one machine, or of several machines.
# Usage: dist_test.sh CONFIG CHECKPOINT GPUS_PER_MACHINE [--max-restarts N] [arguments of tools/test.py]
# On several machines, run it on each with NNODES (how many), NODE_RANK (0, 1, ...), MASTER_ADDR and PORT set.
# --max-restarts, or MAX_RESTARTS: when a process dies, start all again, up to N times.
# PYTHON names the interpreter (default: that of the active environment, else .venv of this repository).
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: $(basename "$0") CONFIG CHECKPOINT GPUS_PER_MACHINE [--max-restarts N] [arguments of tools/test.py]" >&2
    exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3

here=$(dirname "${BASH_SOURCE[0]}")
source "$here/dist_run.sh"
dist_run "$gpus" "$here/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
