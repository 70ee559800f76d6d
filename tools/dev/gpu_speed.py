"""Time attention and backbone on a GPU, in one process; a line is written as each is measured."""
from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, List, Tuple

# What the parts of run_gpu_checks.sh import.
NEEDED = ('torch', 'mmengine', 'mmcv.ops', 'mmdet', 'pycocotools', 'safetensors', 'rich', 'scipy', 'matplotlib',
          'cv2', 'pytest', 'hypothesis', 'skimage', 'sklearn')
WINDOWS, BATCHES, SIZE = (7, 12, 16, 24), (2, 16), (800, 1344)
FORWARD = ('mmdet', 'ours', 'ours, sdpa', 'ours, graphs', 'ours, half', 'ours, half, graphs')
TRAIN = ('mmdet', 'ours', 'ours, sdpa')


class Record:
    """A Markdown file that is whole after each line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('', encoding='utf-8')
        self._path = path

    def write(self, text: str) -> None:
        """Write a line, and print it."""
        print(text, flush=True)
        with self._path.open('a', encoding='utf-8') as file:
            file.write(text + '\n')

    def table(self, *head: str) -> None:
        """Begin a table."""
        self.write('')
        self.row(*head)
        self.row(*['---'] * len(head))

    def row(self, *cells: Any) -> None:
        """Add a line to the table."""
        self.write('| ' + ' | '.join(f'{cell:.3g}' if isinstance(cell, float) else str(cell) for cell in cells) + ' |')


def attention_inputs(window: int, batch: int, dtype: Any, device: str, tiny: bool) -> Tuple[Any, ...]:
    """Return tokens, plan and table of the first stage of a Swin-T, shifted, for :func:`attention`."""
    import torch

    from swin_pos_det.ops.position_bias import table_size
    from swin_pos_det.ops.windows import window_plan
    heads, size = (2, (10, 13)) if tiny else (3, (SIZE[0] // 4, SIZE[1] // 4))
    generator = torch.Generator().manual_seed(0)
    rows, cols = table_size((window, window))
    qkv = torch.randn(batch, size[0] * size[1], 96 * heads, generator=generator).to(device, dtype)
    table = torch.randn(rows * cols, heads, generator=generator).to(device, dtype)
    plan = window_plan(batch, size, (window, window), (window // 2, window // 2), torch.device(device))
    pad = torch.randn(96 * heads, generator=generator).to(device, dtype)
    return tuple(x.requires_grad_() for x in (qkv, table, pad)), plan, heads


def attention(inputs: Any, plan: Any, heads: int) -> Any:
    """Attend, with whatever implementation is requested."""
    from swin_pos_det.ops.position_bias import PositionBias
    from swin_pos_det.ops.window_attention import window_attention
    qkv, table, pad = inputs
    return window_attention(qkv, plan, PositionBias(plan.window, table=table), num_heads=heads, scale=32**-0.5, pad=pad)


def gradients(inputs: Any, plan: Any, heads: int) -> List[Any]:
    """Return output and gradients of attention, in float32."""
    import torch
    out = attention(inputs, plan, heads)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
    return [x.float() for x in (out.detach(), *torch.autograd.grad((out.float() * weights).sum(), inputs))]


def measure(inputs: Any, plan: Any, heads: int, want: List[Any], timer: Callable[..., Any]) -> List[float]:
    """Return relative errors of output and gradients, and times of a forward, and of a forward and backward."""
    import torch
    got = gradients(inputs, plan, heads)
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(got, want)]
    both = timer(lambda: gradients(inputs, plan, heads))
    with torch.no_grad():
        return [*errors, timer(lambda: attention(inputs, plan, heads)), both]


def check_attention(record: Record, device: str, tiny: bool, timer: Callable[..., Any]) -> None:
    """Compare each implementation in half precision with the formula in float32, and time it."""
    import torch

    from swin_pos_det.ops import use_impl
    record.table('window', 'dtype', 'attention', 'error of output', 'of qkv.grad', 'of table.grad', 'of pad.grad',
                 'forward, ms', 'forward and backward, ms')
    for window in WINDOWS[:2] if tiny else WINDOWS:
        for dtype in (torch.float16, torch.bfloat16):
            inputs, plan, heads = attention_inputs(window, 1 if tiny else 2, dtype, device, tiny)
            exact = tuple(x.detach().float().requires_grad_() for x in inputs)
            with use_impl('reference'):
                want = gradients(exact, plan, heads)
            for name in ('sdpa', 'triton'):
                try:
                    with use_impl(name):
                        found = measure(inputs, plan, heads, want, timer)
                except Exception as error:  # not supported, not compiled: the others go on
                    found = [f'{type(error).__name__}: {str(error)[:200]}']
                record.row(window, str(dtype)[6:], name, *found)
            del inputs, exact, want


def build(run: str, window: int, device: str, tiny: bool) -> Any:
    """Build a Swin-T backbone: mmdet's, or ours in one of its ways."""
    import torch

    from swin_pos_det.analysis.benchmark.models import VARIANTS
    from swin_pos_det.ops.cuda_graphs import GraphedCall
    variant = VARIANTS['nano' if tiny else 'T']
    torch.manual_seed(0)
    if run == 'mmdet':
        from mmdet.models.backbones.swin import SwinTransformer as Model
    else:
        from swin_pos_det.models import SwinPosTransformer as Model
    with torch.device(device):
        model = Model(**variant, window_size=window, drop_path_rate=0.)
    model.to(device).train(False)
    if 'half' in run:
        model.to(torch.bfloat16 if device == 'cpu' else torch.float16)
    if 'compiled' in run:
        return torch.compile(model, backend='eager' if tiny else 'inductor')
    return GraphedCall(model, [model]) if 'graphs' in run else model


def steps(run: str, model: Any, image: Any, train: bool) -> Callable[[], None]:
    """Return a function that runs a forward, or a forward and backward, in half precision."""
    import torch

    from swin_pos_det.ops import use_impl
    dtype = torch.bfloat16 if image.device.type == 'cpu' else torch.float16
    image = image.to(dtype) if 'half' in run else image

    def step() -> None:
        with use_impl('sdpa') if 'sdpa' in run else nullcontext(), torch.set_grad_enabled(train), torch.autocast(
                image.device.type, dtype, enabled='half' not in run):
            outs = model(image)
        if train:
            sum(out.float().square().mean() for out in outs).backward()
            for parameter in model.parameters():
                parameter.grad = None
    return step


def check_backbones(record: Record, device: str, tiny: bool, timer: Callable[..., Any], ends: float) -> None:
    """Time backbones in all their ways, while there is time; what is compiled comes last."""
    import torch
    record.table('window', 'batch', 'what', 'model', 'ms', "times as fast as mmdet's", 'peak MiB', 'first two runs, s')
    size, windows, batches = ((64, 96), WINDOWS[:2], (1, )) if tiny else (SIZE, WINDOWS, BATCHES)
    plan = [(batch, window, runs) for runs in ((FORWARD, TRAIN), (('mmdet', 'ours, compiled'), ())) for batch in batches
            for window in windows]
    for batch, window, (forward, train) in plan:
        image = torch.randn(batch, 3, *size, device=device)
        for what, runs in (('forward', forward), ('forward and backward', train)):
            base = None
            for run in runs:
                if time.monotonic() > ends:
                    record.write('The time is over: what follows was not run.')
                    return
                try:
                    model = build(run, window, device, tiny)
                    step, start = steps(run, model, image, what != 'forward'), time.monotonic()
                    step()
                    step()  # the second captures a graph
                    first = time.monotonic() - start
                    reset_peak(device)
                    taken = timer(step)
                except Exception as error:  # out of memory, say: the others go on
                    record.row(window, batch, what, run, f'{type(error).__name__}: {str(error)[:100]}', '', '', '')
                    continue
                base = taken if run == 'mmdet' else base
                record.row(window, batch, what, run, taken, base / taken if base else '-', peak(device), first)
                del model, step


def reset_peak(device: str) -> None:
    """Begin to measure the peak of memory."""
    import torch
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> Any:
    """Return MiB since :func:`reset_peak`."""
    import torch
    return round(torch.cuda.max_memory_allocated() / 2**20) if device == 'cuda' else '-'


def make_timer(device: str, seconds: float) -> Callable[[Callable[[], Any]], float]:
    """Return a function that gives the median time of a step in ms, between events on CUDA."""
    import torch

    from swin_pos_det.analysis.benchmark.worker import timed

    def timer(step: Callable[[], Any]) -> float:
        step()
        return 1e3 * statistics.median(timed(lambda: step, torch.device(device), seconds))
    return timer


def check(device: str) -> int:
    """Say in one line what is missing here; return the exit status."""
    missing = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        print(f'error: {", ".join(missing)} cannot be imported: bring wheels (--wheels DIR)', file=sys.stderr)
        return 1
    import torch
    if device == 'cuda' and not torch.cuda.is_available():
        print('error: torch sees no CUDA device here; these checks need one (or --cpu, to try them)', file=sys.stderr)
        return 1
    return 0


def about(device: str) -> str:
    """Describe device and versions."""
    import torch
    name = torch.cuda.get_device_name() if device == 'cuda' else 'a CPU, tiny sizes: these times say nothing'
    return f'{name}, torch {torch.__version__}, CUDA {torch.version.cuda}'


def main() -> int:
    """Run the checks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--record', type=Path, help='the Markdown file to write')
    parser.add_argument('--part', choices=['attention', 'backbones'], default='attention', help='what to time')
    parser.add_argument('--seconds', type=float, default=130., help='no backbone begins later (default: 130)')
    parser.add_argument('--tiny', action='store_true', help='small sizes, to try the script')
    parser.add_argument('--check', action='store_true', help='only look for packages and device')
    parser.add_argument('--about', action='store_true', help='only describe device and versions')
    args = parser.parse_args()
    ends = time.monotonic() + args.seconds
    if args.check:
        return check(args.device)
    if args.about:
        print(about(args.device))
        return 0
    if args.record is None:
        parser.error('--record is needed')
    import swin_pos_det  # noqa: F401  registers the backbone
    record, timer = Record(args.record), make_timer(args.device, 0. if args.tiny else 0.4)
    record.write(f'# Swin: {args.part}\n\n{about(args.device)}. Half precision; medians of 0.4 s; errors are relative, '
                 'against the formula in float32 on the same inputs.')
    if args.part == 'attention':
        check_attention(record, args.device, args.tiny, timer)
    else:
        check_backbones(record, args.device, args.tiny, timer, ends)
    return 0


if __name__ == '__main__':
    sys.exit(main())
