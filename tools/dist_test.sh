#!/usr/bin/env bash
# Evaluates on several GPUs of one machine, or of several machines.
# Usage: dist_test.sh CONFIG CHECKPOINT GPUS_PER_MACHINE [arguments of tools/test.py]
# On several machines, run it on each with NNODES (how many), NODE_RANK (0, 1, ...), MASTER_ADDR and PORT set.
# PYTHON names the interpreter (default: python).
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: $(basename "$0") CONFIG CHECKPOINT GPUS_PER_MACHINE [arguments of tools/test.py]" >&2
    exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$(dirname "${BASH_SOURCE[0]}")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
