"""Time iterations of a training: with mmdet's backbone and settings, with ours, and with ours and the fast settings.

The fast settings are those of configs/_base_/fast_training.py. Each turn is a process of its own.

python docs/results/scripts/time_training.py configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

KINDS = ('mmdet', 'ours', 'fast')


def train(config: str, kind: str, iterations: int, warm_up: int) -> None:
    """Print, as JSON, the seconds of each iteration, from the end of one to the end of the next."""
    from mmengine.config import Config
    from mmengine.hooks import Hook

    from swin_pos_det.cli.runner import build_runner, check_data

    class Clock(Hook):
        priority = 'LOWEST'
        ends: list = []

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.ends.append(time.perf_counter())
            if len(self.ends) == warm_up + iterations:
                spent = [end - start for start, end in zip(self.ends[warm_up - 1:], self.ends[warm_up:])]
                print(json.dumps(spent), flush=True)
                sys.exit()

    cfg = Config.fromfile(config)
    cfg.launcher, cfg.work_dir = 'none', tempfile.mkdtemp()
    if kind != 'fast':
        cfg.custom_hooks = []
    if kind == 'mmdet':
        cfg.model.backbone.type = 'SwinTransformer'
    check_data(cfg, ['train'])
    runner = build_runner(cfg)
    runner.register_hook(Clock())
    runner.train()


def main() -> None:
    """Run the processes in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--iterations', type=int, default=60)
    parser.add_argument('--warm-up', type=int, default=10)
    parser.add_argument('--turns', type=int, default=2)
    parser.add_argument('--kind', choices=KINDS)
    args = parser.parse_args()
    if args.kind:
        train(args.config, args.kind, args.iterations, args.warm_up)
        return
    found = {kind: [] for kind in KINDS}
    for turn in range(args.turns):
        for kind in KINDS[turn % 3:] + KINDS[:turn % 3]:
            done = subprocess.run([sys.executable, *sys.argv, '--kind', kind], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, check=False)
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
            print(turn, kind, f'{statistics.median(found[kind][-1]):.4f} s, median', flush=True)
    for kind, turns in found.items():
        every = [seconds for turn in turns for seconds in turn]
        print(f'| {kind} | {statistics.median(every) * 1e3:.0f} | {statistics.mean(every) * 1e3:.0f} |')


if __name__ == '__main__':
    main()
