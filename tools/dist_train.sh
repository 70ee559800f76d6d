#!/usr/bin/env bash
# Trains on several GPUs of one machine, or of several machines.
# Usage: dist_train.sh CONFIG GPUS_PER_MACHINE [--max-restarts N] [arguments of tools/train.py]
# On several machines, run it on each with NNODES (how many), NODE_RANK (0, 1, ...), MASTER_ADDR and PORT set.
# --max-restarts, or MAX_RESTARTS: when a process dies, start all again, up to N times, from the last checkpoint; on
# several machines, the work dir must be one that all of them see.
# PYTHON names the interpreter (default: that of the active environment, else .venv of this repository).
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: $(basename "$0") CONFIG GPUS_PER_MACHINE [--max-restarts N] [arguments of tools/train.py]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

here=$(dirname "${BASH_SOURCE[0]}")
source "$here/dist_run.sh"
dist_run "$gpus" "$here/train.py" "$config" --launcher pytorch "$@"
