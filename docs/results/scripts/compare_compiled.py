"""Time three ways to run a backbone under ``torch.compile``'s decorator on a CPU, in turns, in one process.

Usage: python compare_compiled.py WINDOW HxW REPEATS. ``eager`` is not compiled, ``compiled`` is the compiled model as
users get it, and ``graph`` the compiled model without ``cpu_inference.not_compiled``: everything is in the graph.
"""
import statistics
import sys
import time

import torch

from swin_pos_det.models import SwinPosTransformer


class Graph(SwinPosTransformer):
    """The backbone without the decorator."""

    forward = SwinPosTransformer.forward.__wrapped__


def main() -> None:
    """Print a line for each way: its median seconds, and the median over turns of its time over eager's."""
    window, size, repeats = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    models = {}
    for name, kind in (('eager', SwinPosTransformer), ('compiled', SwinPosTransformer), ('graph', Graph)):
        torch.manual_seed(0)
        model = kind(window_size=window).eval()
        models[name] = model if name == 'eager' else torch.compile(model)
    images, seconds = torch.randn(1, 3, *map(int, size.split('x'))), {name: [] for name in models}
    with torch.no_grad():
        for turn in range(repeats + 2):
            for name, model in models.items():
                start = time.perf_counter()
                model(images)
                if turn > 1:
                    seconds[name].append(time.perf_counter() - start)
    for name, own in seconds.items():
        ratio = sorted(a / b for a, b in zip(own, seconds['eager']))
        print(f'| {window} | {size} | {name} | {statistics.median(own):.3f} | {statistics.median(ratio):.3f} '
              f'({ratio[0]:.3f} to {ratio[-1]:.3f}) |', flush=True)


if __name__ == '__main__':
    main()
