#!/usr/bin/env bash
# On a machine with a CUDA device: runs the tests that need one and the benchmark, and writes a dated record.
# Usage: run_gpu_checks.sh [RECORD.md] [arguments of tools/analysis_tools/benchmark_backbone.py]
# RECORD.md is docs/results/<date>-gpu.md by default; the tables of the benchmark go into files beside it.
# PYTHON names the interpreter (default: python).
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python}
record=docs/results/$(date +%F)-gpu.md
case "${1:-}" in
    -h | --help)
        sed -n 's/^# //p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *.md)
        record=$1
        shift
        ;;
esac
cd "$root" || exit 1
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: torch sees no CUDA device here; these checks need one (PYTHON=$python)" >&2
    exit 1
fi
if [ -e "$record" ]; then
    echo "error: $record is there already: name another file" >&2
    exit 1
fi

stem=${record%.md}
mkdir -p "$(dirname "$record")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
benchmark() {
    "$python" tools/analysis_tools/benchmark_backbone.py --device cuda --memory --record "$stem-$1.md" \
        --out "work_dirs/benchmark-gpu/$1" --title "$2" "${@:3}"
}

"$python" -m pytest -m gpu -v tests 2>&1 | tee "$log"
tests=${PIPESTATUS[0]}
status=$tests
benchmark backbones 'Swin backbones on a GPU' --windows 7 12 16 24 --sizes 224 512 800x1344 1600x2688 --batches 1 2 \
    --modes forward train --dtypes float32 bf16 fp16 --max-megapixels 5 "$@" || status=1
benchmark compiled 'Compiled Swin backbones on a GPU' --windows 7 12 --sizes 800x1344 --runs eager compiled \
    --modes forward train --dtypes float32 bf16 "$@" || status=1
benchmark detectors 'Whole detectors on a GPU' --detector configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py \
    --sizes 800x1344 --batches 2 --dtypes float32 fp16 || status=1

{
    echo "# Checks on a GPU"
    echo
    echo "$(date +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
    echo
    echo '```'
    "$python" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)'
    echo '```'
    echo
    echo "Tests (\`python -m pytest -m gpu tests\`, exit status $tests):"
    echo
    echo '```'
    tail -n 40 "$log"
    echo '```'
    echo
    for part in backbones compiled detectors; do
        [ -f "$stem-$part.md" ] && echo "- [$part]($(basename "$stem")-$part.md)"
    done
} > "$record"
echo "$record"
exit "$status"
