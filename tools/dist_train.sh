#!/usr/bin/env bash
# Trains on several GPUs of one machine, or of several machines.
# Usage: dist_train.sh CONFIG GPUS_PER_MACHINE [arguments of tools/train.py]
# On several machines, run it on each with NNODES (how many), NODE_RANK (0, 1, ...), MASTER_ADDR and PORT set.
# PYTHON names the interpreter (default: python).
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: $(basename "$0") CONFIG GPUS_PER_MACHINE [arguments of tools/train.py]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --launcher pytorch "$@"
