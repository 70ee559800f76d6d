# Shared by slurm_train.sh and slurm_test.sh, which source it: one task per machine, which starts that machine's
# processes with torchrun.
# Environment, all optional: GPUS (in all, default 8), GPUS_PER_NODE (8), CPUS_PER_TASK (per GPU, 5), PORT (default:
# one that follows from the job's number), SRUN_ARGS (more options of srun, separated by blanks).

# slurm_run PARTITION JOB_NAME SCRIPT ARGUMENTS...: runs the script on each machine. Its argument {gpus} becomes the
# number of GPUs of a machine.
slurm_run() {
    local partition=$1 job_name=$2 gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
    shift 2
    if [ "$gpus" -lt "$per_node" ]; then
        per_node=$gpus
    fi
    if [ $((gpus % per_node)) -ne 0 ]; then
        echo "error: GPUS=$gpus is no multiple of GPUS_PER_NODE=$per_node" >&2
        exit 2
    fi
    local -a srun_args arguments=()
    read -r -a srun_args <<< "${SRUN_ARGS:-}"
    local argument
    for argument in "$@"; do
        [ "$argument" != '{gpus}' ] || argument=$per_node
        arguments+=("$argument")
    done
    # What differs between machines is known only where srun starts the task.
    local on_each='export NNODES=$SLURM_NNODES NODE_RANK=$SLURM_NODEID RDZV_ID=$SLURM_JOB_ID
        export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}
        exec bash "$@"'
    set -x
    exec srun --partition="$partition" \
        --job-name="$job_name" \
        --gres=gpu:"$per_node" \
        --nodes=$((gpus / per_node)) \
        --ntasks-per-node=1 \
        --cpus-per-task=$((per_node * ${CPUS_PER_TASK:-5})) \
        --kill-on-bad-exit=1 \
        ${srun_args[@]+"${srun_args[@]}"} \
        bash -c "$on_each" slurm_run "${arguments[@]}"
}
