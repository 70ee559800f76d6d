"""Time torch.compile of a Swin-T, whole or block by block, at four sizes: compile_blocks.py whole|blocks BACKEND."""
from __future__ import annotations

import os
import sys
import time

os.environ['SWIN_POS_DET_CPU_INFERENCE'] = '0'  # the layers that a GPU would run

import torch
from torch._dynamo.utils import counters
from torch._inductor import metrics

from swin_pos_det.models import SwinPosTransformer

SIZES = (224, 224), (250, 333), (320, 256), (416, 512)


def main() -> None:
    """Print for each size: seconds of the first forward, graphs so far, kernels so far, error."""
    how, backend = sys.argv[1:]
    model = SwinPosTransformer(drop_path_rate=0.).eval()
    images = [torch.randn(1, 3, *size) for size in SIZES]
    with torch.no_grad():
        expected = [model(image) for image in images]
        run = torch.compile(model, dynamic=True, backend=backend) if how == 'whole' else model
        if how == 'blocks':
            torch._dynamo.config.recompile_limit = 64
            for stage in model.stages:
                for block in stage.blocks:
                    block.compile(dynamic=True, backend=backend)
        for image, want in zip(images, expected):
            start = time.perf_counter()
            got = run(image)
            seconds = time.perf_counter() - start
            error = max((a - b).abs().max().item() for a, b in zip(got, want))
            print(tuple(image.shape[-2:]), f'{seconds:.1f} s', counters['stats']['unique_graphs'],
                  metrics.generated_kernel_count, f'{error:.0e}', flush=True)


if __name__ == '__main__':
    main()
