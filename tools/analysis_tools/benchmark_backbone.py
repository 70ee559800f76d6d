"""Times this backbone beside other libraries' Swin."""
import argparse
import importlib.util
import os.path as osp
import sys

if importlib.util.find_spec('swin_pos_det') is None:  # run from a clone without installing it
    sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))

from tqdm import tqdm

from swin_pos_det.analysis.benchmark.cases import span
from swin_pos_det.analysis.benchmark.pool import Pool
from swin_pos_det.analysis.benchmark.runner import Benchmark, Settings


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument('--models', nargs='+', default=['ours', 'mmdet'])
    p.add_argument('--windows', nargs='+', type=int, default=[7])
    p.add_argument('--sizes', nargs='+', default=['512'])
    p.add_argument('--batches', nargs='+', type=int, default=[1])
    p.add_argument('--modes', nargs='+', default=['forward'])
    p.add_argument('--dtypes', nargs='+', default=['float32'])
    p.add_argument('--compile', action='store_true')
    p.add_argument('--memory', action='store_true')
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--device', default='cpu')
    p.add_argument('--python', nargs='+', default=[])
    args = p.parse_args()
    sizes = [tuple(int(n) for n in s.split('x')) for s in args.sizes]
    sizes = [s * 2 if len(s) == 1 else s for s in sizes]
    cases = span(args.modes, args.windows, sizes, args.batches, args.dtypes, [args.compile])
    with Pool(args.models, dict(p.split('=') for p in args.python), args.device, args.threads) as pool:
        print(pool.about, pool.missing)
        bench = Benchmark(pool, Settings(memory=args.memory, repeats=args.repeats), tqdm.write)
        for case in cases:
            rows = bench.measure(case)
            base = next((r.median for r in rows if r.model == 'mmdet'), None)
            for r in rows:
                q = r.quartiles
                print(case, r.model, r.error or (f'{r.median*1e3:.1f} ms [{q[0]*1e3:.1f} {q[1]*1e3:.1f}] x{base / r.median if base else 0:.2f} '
                      if q else ''), f'diff {r.difference}', f'{r.mib} MiB')
        print({d: bench.rate(d) / 1e9 for d in bench.products})


if __name__ == '__main__':
    main()
