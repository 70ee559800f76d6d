#!/usr/bin/env bash
# Trains on a Slurm cluster.
# Usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [--max-restarts N] [arguments of tools/train.py]
# Environment: GPUS (in all, default 8), GPUS_PER_NODE (8), CPUS_PER_TASK (per GPU, 5), SRUN_ARGS (more options of
# srun, separated by blanks), PORT, PYTHON (the interpreter, default as in dist_run.sh).
# --max-restarts, or MAX_RESTARTS: when a process dies, start all again, up to N times, from the last checkpoint.
set -euo pipefail

if [ "$#" -lt 4 ]; then
    echo "usage: $(basename "$0") PARTITION JOB_NAME CONFIG WORK_DIR [--max-restarts N] [arguments of tools/train.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4

here=$(dirname "${BASH_SOURCE[0]}")
source "$here/slurm_run.sh"
slurm_run "$partition" "$job_name" "$here/dist_train.sh" "$config" '{gpus}' --work-dir "$work_dir" "$@"
