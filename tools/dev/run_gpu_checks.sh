#!/usr/bin/env bash
# On a machine with a CUDA device, in at most eight minutes and without a network: the speed of attention and backbone, of
# Mask R-CNN by part, and the tests that need a GPU. Each part writes its record as it goes, so a run that is cut counts.
# Usage: run_gpu_checks.sh [--cpu] [--wheels DIR] [RECORD.md]
# RECORD.md is docs/results/<date>-gpu.md by default; the records of the parts go beside it.
# --cpu: run every part on the CPU at tiny sizes, to see that this script works.
# --wheels DIR: install DIR/*.whl into a temporary folder first; docs/benchmark.md says which wheels.
# PYTHON names the interpreter (default: python).
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python}
record=docs/results/$(date +%F)-gpu.md
device=cuda wheels=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            sed -n 's/^# //p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        --cpu) device=cpu ;;
        --wheels)
            wheels=${2:-}
            shift
            ;;
        *.md) record=$1 ;;
        *)
            echo "error: unknown argument $1; --help lists them" >&2
            exit 2
            ;;
    esac
    shift
done
stem=${record%.md}
if [ -e "$record" ]; then
    echo "error: $record is there already: name another file" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$wheels"/*.whl || exit 1
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
fi
mkdir -p "$(dirname "$record")"
record=$(cd "$(dirname "$record")" && pwd)/$(basename "$record")
stem=${record%.md}
cd "$root" || exit 1
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
"$python" tools/dev/gpu_speed.py --check --device "$device" || exit 1

status=0
parts=()
# part NAME SECONDS COMMAND...: runs it at most so long, and notes how it ended.
part() {
    local name=$1 limit=$2 ended
    shift 2
    timeout --signal=INT --kill-after=10 "$limit" "$@" 2>&1 | tee "$work/$name.log"
    ended=${PIPESTATUS[0]}
    [ "$ended" = 0 ] || status=1
    case $ended in 124 | 137) ended="stopped after $limit s" ;; *) ended="exit status $ended" ;; esac
    parts+=("$name: $ended")
    {
        echo "# Checks on a GPU"
        echo
        echo "$(date +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)," \
            "$("$python" tools/dev/gpu_speed.py --about --device "$device")"
        echo
        for line in "${parts[@]}"; do
            local done=${line%%:*}
            if [ -f "$stem-$done.md" ]; then
                echo "- [$done]($(basename "$stem-$done.md")):${line#*:}"
            else
                echo "- $line"
            fi
        done
        if [ "$name" = tests ]; then
            printf '\n```\n'
            tail -n 60 "$work/tests.log"
            printf '```\n'
        fi
    } > "$record"
}

if [ "$device" = cuda ]; then
    detector=(configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py --sizes 800x1344 --batches 2 --dtypes fp16)
    speed=(--seconds 125)
else
    detector=(configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py --sizes 64 --batches 1 --matmul 64)
    speed=(--tiny)
fi
# A process of its own: a kernel that accesses memory it should not ends it.
part attention 60 "$python" tools/dev/gpu_speed.py --part attention --device "$device" --record "$stem-attention.md" \
    "${speed[@]}"
part backbones 145 "$python" tools/dev/gpu_speed.py --part backbones --device "$device" --record "$stem-backbones.md" \
    "${speed[@]}"
command=("$python" tools/analysis_tools/benchmark_backbone.py --device "$device" --repeats 3 --detector "${detector[@]}")
part detector 100 "${command[@]}" --memory --record "$stem-detector.md" --title 'Mask R-CNN by part on a GPU' \
    --out "$work/detector"
# Whether page faults of the masks' memory explain the time of preprocessing.
part detector-malloc 70 env MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 "${command[@]}" \
    --modes train --record "$stem-detector-malloc.md" --title 'The training step with memory that malloc keeps' \
    --out "$work/detector-malloc"
left=$((475 - SECONDS))
part tests "$((left > 60 ? left : 60))" "$python" -m pytest -m gpu -p no:cacheprovider -v --durations=10 tests
echo "$record"
exit "$status"
