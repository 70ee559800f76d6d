# Shared by dist_train.sh and dist_test.sh, which source it: starts the processes of one machine with torchrun.
# Environment, all optional: NNODES (machines, default 1), NODE_RANK (this machine's number, 0), MASTER_ADDR (an
# address of machine 0, 127.0.0.1), PORT (a free one on machine 0, 29500), MAX_RESTARTS (0), PYTHON (the
# interpreter; default: that of the active environment, else .venv of this repository, which `make setup` makes).

_python() {
    local own
    own=$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    elif [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$own" ]; then
        echo "$own"
    else
        command -v python || command -v python3
    fi
}

# dist_run GPUS TOOL [--max-restarts N] ARGUMENTS_OF_THE_TOOL...
dist_run() {
    local gpus=$1 tool=$2 restarts=${MAX_RESTARTS:-0}
    shift 2
    local -a arguments=() rendezvous
    while [ "$#" -gt 0 ]; do
        case $1 in
            --max-restarts) restarts=${2:?--max-restarts needs a number}; shift ;;
            --max-restarts=*) restarts=${1#*=} ;;
            *) arguments+=("$1") ;;
        esac
        shift
    done
    if ! [[ $gpus =~ ^([1-9][0-9]*|auto|gpu|cpu)$ ]]; then
        echo "error: the number of GPUs must be at least 1, got '$gpus'" >&2
        exit 2
    fi
    if ! [[ $restarts =~ ^[0-9]+$ ]]; then
        echo "error: --max-restarts must be a number, got '$restarts'" >&2
        exit 2
    fi

    if [ "$restarts" -eq 0 ]; then
        rendezvous=(--node_rank="${NODE_RANK:-0}"
            --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
    else
        # Only this rendezvous tells the other machines of a restart. It numbers machines itself; machine 0 hosts it.
        rendezvous=(--rdzv_backend=c10d --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}"
            --rdzv_id="${RDZV_ID:-swin-pos-det}" --rdzv_conf="is_host=$([ "${NODE_RANK:-0}" -eq 0 ] && echo 1 || echo 0)"
            --max_restarts="$restarts")
        # Else recent torch (seen with 2.13) keeps one store for all attempts, and the processes of a restart try the
        # addresses of those that died.
        export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    fi
    exec "$(_python)" -m torch.distributed.run --nnodes="${NNODES:-1}" "${rendezvous[@]}" \
        --nproc_per_node="$gpus" "$tool" ${arguments[@]+"${arguments[@]}"}
}
