"""Time the backbone of two checkouts of this repository against each other: fresh processes, in turns.

Usage: python compare_commits.py OLD NEW REPEATS MODE,WINDOW,HxW,BATCH ..., with MODE forward or train. Each process
builds a Swin-T, runs it once, and gives the median of three runs; the table has the medians over processes, and the
median over turns of the old time over the new. OMP_NUM_THREADS sets the threads.
"""
import json
import statistics
import subprocess
import sys

CHILD = '''
import json, statistics, sys, time
root, mode, window, size, batch = sys.argv[1:]
sys.path.insert(0, root)
import torch
import swin_pos_det
from swin_pos_det.models import SwinPosTransformer
assert swin_pos_det.__file__.startswith(root), swin_pos_det.__file__
torch.manual_seed(0)
height, width = map(int, size.split('x'))
train = mode == 'train'
model = SwinPosTransformer(window_size=int(window), drop_path_rate=0.).train(train)
images = torch.randn(int(batch), 3, height, width)

def step():
    with torch.set_grad_enabled(train):
        outs = model(images)
    if train:
        sum(out.square().mean() for out in outs).backward()
        model.zero_grad(set_to_none=True)

step()
seconds = []
for _ in range(3):
    start = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - start)
print(json.dumps(statistics.median(seconds)))
'''


def main() -> None:
    """Print a line of a Markdown table for each case."""
    old, new, repeats, *cases = sys.argv[1:]
    print('| case | old, s | new, s | old over new |\n|---|---|---|---|')
    for case in cases:
        found = {old: [], new: []}
        for turn in range(int(repeats)):
            for root in ((old, new), (new, old))[turn % 2]:
                child = subprocess.run([sys.executable, '-c', CHILD, root, *case.split(',')], capture_output=True,
                                       text=True, check=True)
                found[root].append(json.loads(child.stdout.splitlines()[-1]))
        ratio = statistics.median(a / b for a, b in zip(found[old], found[new]))
        low, high = (pick(a / b for a, b in zip(found[old], found[new])) for pick in (min, max))
        print(f'| {case} | {statistics.median(found[old]):.3f} | {statistics.median(found[new]):.3f} | '
              f'{ratio:.3f} ({low:.3f} to {high:.3f}) |', flush=True)


if __name__ == '__main__':
    main()
