"""Time the forwards of two checkouts of this repository against each other, in turns.

Usage: python compare_forwards.py OLD NEW REPEATS HxW WINDOW ... A process for each checkout builds a Swin-T and
runs it once at each window, and then runs it when told to: windows in order, old and new in turns. The table has
medians, and the median over turns of the old time over the new. OMP_NUM_THREADS sets the threads.
"""
import statistics
import subprocess
import sys

CHILD = '''
import itertools, sys, time
root, size, *windows = sys.argv[1:]
sys.path.insert(0, root)
import torch
import swin_pos_det
from swin_pos_det.models import SwinPosTransformer
assert swin_pos_det.__file__.startswith(root), swin_pos_det.__file__
torch.manual_seed(0)
model = SwinPosTransformer().eval()
images = torch.randn(1, 3, *map(int, size.split('x')))
with torch.no_grad():
    for window in itertools.chain(windows, iter(sys.stdin.readline, "")):
        model.set_window_size(int(window))
        start = time.perf_counter()
        model(images)
        print('seconds', time.perf_counter() - start, flush=True)
'''


def ask(child: subprocess.Popen) -> float:
    """Return the seconds of the child's next line of that name."""
    return next(float(line.split()[1]) for line in child.stdout if line.startswith('seconds'))


def main() -> None:
    """Print a line of a Markdown table for each window."""
    old, new, repeats, size, *windows = sys.argv[1:]
    children = {root: subprocess.Popen([sys.executable, '-c', CHILD, root, size, *windows], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True) for root in (old, new)}
    for child in children.values():
        for _ in windows:
            ask(child)
    found = {(root, window): [] for root in children for window in windows}
    for turn in range(int(repeats)):
        for window in windows:
            for root in ((old, new), (new, old))[turn % 2]:
                print(window, file=children[root].stdin, flush=True)
                found[root, window].append(ask(children[root]))
    print('| forward | old, s | new, s | old over new |\n|---|---|---|---|')
    for window in windows:
        before, after = found[old, window], found[new, window]
        ratios = sorted(a / b for a, b in zip(before, after))
        print(f'| window {window}, {size} | {statistics.median(before):.3f} | {statistics.median(after):.3f} | '
              f'{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) |')
    for child in children.values():
        child.stdin.close()
        child.wait()


if __name__ == '__main__':
    main()
