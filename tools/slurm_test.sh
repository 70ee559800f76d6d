#!/usr/bin/env bash
# Evaluates on a Slurm cluster.
# Usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
# Environment: GPUS (in all, default 8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS (more options of srun,
# separated by blanks), PYTHON (the interpreter, default: python).
set -euo pipefail

if [ "$#" -lt 4 ]; then
    echo "usage: $(basename "$0") PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
checkpoint=$4
shift 4
read -r -a srun_args <<< "${SRUN_ARGS:-}"

set -x
exec srun --partition="$partition" \
    --job-name="$job_name" \
    --gres=gpu:"${GPUS_PER_NODE:-8}" \
    --ntasks="${GPUS:-8}" \
    --ntasks-per-node="${GPUS_PER_NODE:-8}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$(dirname "${BASH_SOURCE[0]}")/test.py" "$config" "$checkpoint" \
    --launcher slurm "$@"
