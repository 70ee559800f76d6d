"""The benchmark: what it counts, what it compares, and what it says of models that cannot run."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import mmcv
import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from torch import nn

from swin_pos_det.analysis.benchmark import worker as worker_module
from swin_pos_det.analysis.benchmark.cases import PRESETS, Case, DetectorCase, span, within
from swin_pos_det.analysis.benchmark.detector import (
    DETECTORS,
    DetectorCell,
    Stopwatch,
    load_model_config,
    write_detector_weights,
)
from swin_pos_det.analysis.benchmark.flops import _pairs, counted_flops, exponent, swin_flops
from swin_pos_det.analysis.benchmark.models import MODELS, VARIANTS
from swin_pos_det.analysis.benchmark.operators import OperatorCount
from swin_pos_det.analysis.benchmark.plots import plot_growth, plot_windows
from swin_pos_det.analysis.benchmark.pool import Pool, Process, WorkerError
from swin_pos_det.analysis.benchmark.report import detector_tables, markdown, record, result
from swin_pos_det.analysis.benchmark.runner import Benchmark, Row, Settings, run
from swin_pos_det.analysis.benchmark.scenes import OBJECTS, Scenes, coco_like_objects
from swin_pos_det.analysis.benchmark.weights import write_weights
from swin_pos_det.layers import window_plan
from swin_pos_det.models import SwinPosTransformer
from swin_pos_det.ops.cpu_inference.unpadded import unpadded_plan

ROOT = Path(__file__).parents[2]
NANO_CONFIG = str(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py')
NANO = VARIANTS['nano']


# What is counted

@pytest.mark.parametrize(('window', 'size'), [(7, (800, 1344)), (12, (250, 333))])
def test_flops_are_those_that_torch_counts(window, size):
    case = Case(window=window, size=size, batch=2)
    for model, padding in ((SwinPosTransformer, 'attended'), (SwinTransformer, 'projected')):
        backbone = model(**NANO, window_size=window).to('meta')
        backbone.train(False)  # not eval(), which gives None for mmdet's
        assert counted_flops(backbone, size, 2) == swin_flops(NANO, case, padding)


@pytest.mark.parametrize('shift', [False, True])
def test_pairs_of_tokens_are_those_that_are_left(shift):
    size, side = (50, 84), 24
    plan = unpadded_plan(window_plan(1, size, (side, side), (side // 2 * shift, ) * 2, torch.device('cpu')))
    held = [(len(group.gather), group.area - (group.pad_token is not None)) for group in plan.groups]
    assert _pairs(size[0], side, shift) * _pairs(size[1], side, shift) == sum(n * area**2 for n, area in held)


def test_flops_of_attention_over_the_whole_map_grow_with_its_square():
    small, large = (swin_flops(NANO, Case(window='global', size=(side, side))) for side in (1024, 2048))
    assert 14 < large / small < 16
    windowed = [swin_flops(NANO, Case(window=8, size=(side, side))) for side in (1024, 2048)]
    assert windowed[1] == 4 * windowed[0]


def test_backward_takes_twice_as_much():
    forward, train = (swin_flops(NANO, Case(mode=mode, size=(224, 224))) for mode in ('forward', 'train'))
    embedding = 2 * 56 * 56 * 32 * 48
    assert train == 3 * forward - embedding, 'the image needs no gradient'


def test_the_exponent_is_fitted():
    assert exponent([1., 2., 4.], [3., 12., 48.]) == pytest.approx(2)


def test_presets_span_their_lists():
    full = span(**PRESETS['full'])
    assert len(full) == len(set(full)) == 4 * 4 * 3 * 3 * 2 * 2
    assert max(case.pixels for case in within(PRESETS['full'], 5)) == 1600 * 2688
    assert all(lists.keys() == PRESETS['full'].keys() for lists in PRESETS.values())


# What is compared

def test_weights_are_the_same_in_all_layouts(tmp_path):
    paths = write_weights(tmp_path, NANO, 7, MODELS)
    assert paths.keys() == MODELS.keys() and paths['ours'] == paths['mmdet']
    blocks = {'ours': 'stages.0.blocks.1.attn.w_msa.proj.bias', 'timm': 'layers.0.blocks.1.attn.proj.bias',
              'hf': 'encoder.layers.0.blocks.1.attention.output.dense.bias',
              'torchvision': 'features.1.1.attn.proj.bias'}
    values = [torch.load(paths[name], weights_only=True)[key] for name, key in blocks.items()]
    assert all(torch.equal(value, values[0]) for value in values) and values[0].std() > 0.05
    assert all('norm3.weight' in torch.load(paths[name], weights_only=True) for name in ('ours', 'timm', 'torchvision'))


@pytest.fixture(scope='module')
def pool():
    with Pool(['ours', 'mmdet', 'timm'], dict(timm=sys.executable + '-gone')) as pool:
        yield pool


def test_measures_in_turns_and_reports(pool, tmp_path):
    """One run through all of it: two models, one that is not there, one window that one of them has not."""
    assert pool.names == ['ours', 'mmdet']
    assert 'cannot run ' in pool.missing['timm']
    assert pool.about['mmdet']['library'] == 'mmdet' and pool.about['mmdet']['threads'] == 1
    steps = []
    cases = [Case(size=(side, side)) for side in (32, 64, 96)]
    cases += [Case(size=(64, 64), window='global'), Case('train', 12, (64, 64), dtype='bf16')]
    settings = Settings('nano', repeats=2, seconds=0., warm_up=1, matmul=64)
    with Benchmark(pool, settings, steps.append) as benchmark:
        rows = run(cases, benchmark)
    assert [row.model for row in rows] == ['ours', 'mmdet'] * 3 + ['ours'] + ['ours', 'mmdet']
    assert all(row.error is None and len(row.seconds) == 2 and row.median > 0 for row in rows)
    assert all(row.difference < 1e-4 for row in rows)
    assert any(row.difference > 0 for row in rows), 'compared with itself'
    turns = [step.split(': ')[1].split(',')[0] for step in steps if ', turn ' in step][:4]
    assert turns == ['ours', 'mmdet', 'mmdet', 'ours'], 'each is first in some turn'
    assert set(benchmark.rates()) == {'float32', 'bf16'}

    tables = markdown(rows, benchmark)
    assert '### Forward, float32, eager' in tables and '### Forward and backward, bf16, eager' in tables
    line = next(line for line in tables.splitlines() if line.startswith('| 7 | 96x96 | 1 | mmdet |'))
    assert line.count('|') == 12 and ' 1.00x |' in line and '%' in line
    assert '| forward | float32 | eager | 7 | 1 | ours |' in tables, 'three sizes have an exponent'
    assert 'Not compared: timm: ' in tables

    pictures = plot_growth(rows, tmp_path / 'new/growth.png')
    data = result(rows, benchmark, 'cpu', 1, 'python benchmark_backbone.py')
    saved = json.loads(json.dumps(data))
    assert len(saved['rows']) == 9 and saved['rows'][0]['seconds'] == rows[0].seconds
    record(tmp_path / 'new/record.md', 'Nano', data, tables, pictures)
    text = (tmp_path / 'new/record.md').read_text()
    assert text.startswith('# Nano\n') and '![growth](growth.png)' in text
    assert 'mmdet: mmdet 3' in text and torch.__version__ in text and 'python benchmark_backbone.py' in text


def test_pictures_of_growth_show_what_was_measured(tmp_path):
    def panels(**measured):
        rows = [Row(Case(size=(side, side)), 'ours', **{key: value(side) for key, value in measured.items()})
                for side in (128, 256, 260, 512)]
        drawn = plot_growth(rows, tmp_path / 'growth.png')
        return mmcv.imread(tmp_path / 'growth.png').shape[1] if drawn else 0

    time = dict(seconds=lambda side: [side**2 / 1e6])
    assert panels() == 0
    assert panels(**time, mib=lambda side: side) == 2 * panels(**time) > 0


def test_a_model_that_fails_does_not_stop_the_others(pool):
    with Benchmark(pool, Settings('nano', repeats=1, seconds=0., matmul=64)) as benchmark:
        weights = dict(benchmark.weights(Case(size=(32, 32))))
        weights['mmdet'] = 'gone.pth'
        benchmark._weights[7] = weights
        ours, theirs = benchmark.measure(Case(size=(32, 32)))
        assert ours.median > 0
        assert theirs.error.startswith('FileNotFoundError') and theirs.median is None
        assert '| mmdet | FileNotFoundError' in markdown([ours, theirs], benchmark)


def test_a_model_with_other_weights_is_not_timed(pool, monkeypatch):
    """They are compared with the first model's features before anything else."""
    with Benchmark(pool, Settings('nano', repeats=1, seconds=0., matmul=64)) as benchmark:
        ask = pool.processes['mmdet'].ask
        other = str(Path(benchmark._folder.name) / 'other.pth')

        def ask_with_other_weights(command: str, **arguments: object) -> dict:
            if command == 'build':
                weights = torch.load(arguments['weights'], weights_only=True)
                torch.save(dict(weights, **{'norm2.bias': weights['norm2.bias'] + 1}), other)
                arguments['weights'] = other
            return ask(command, **arguments)

        monkeypatch.setattr(pool.processes['mmdet'], 'ask', ask_with_other_weights)
        ours, theirs = benchmark.measure(Case(window=2, size=(32, 32)))
    assert ours.median > 0
    assert theirs.median is None and theirs.error == 'computes another function than ours: differs by 1.0e+00'


def test_a_process_that_dies_is_replaced():
    restarted = []
    pool = SimpleNamespace(names=['ours'], restart=restarted.append)
    row = Row(Case(), 'ours')

    def die() -> None:
        raise WorkerError('the process of ours died: status -9')

    with Benchmark(pool, Settings('nano')) as benchmark:
        benchmark._guard(row, die)
    assert row.error == 'the process of ours died: status -9' and restarted == ['ours']


def test_attention_over_a_map_that_memory_cannot_hold_is_not_tried():
    with Benchmark(SimpleNamespace(names=['ours', 'mmdet']), Settings('nano')) as benchmark:
        row, = benchmark.measure(Case(window='global', size=(8000, 8000)))
    assert 'not run: attention over the whole map would take 178' in row.error


def test_memory_of_compiled_models_is_not_read_from_resident_memory(pool, monkeypatch):
    monkeypatch.setattr(Benchmark, '_peak', lambda self, row, weights: setattr(row, 'mib', 7.))
    with Benchmark(pool, Settings('nano', memory=True, time=False, matmul=64)) as benchmark:
        eager, compiled = (benchmark.measure(Case(size=(64, 64), compiled=how)) for how in (False, True))
    assert {row.mib for row in eager} == {7.}
    assert {row.mib for row in compiled} == {None}


def test_peak_memory_is_that_of_a_fresh_process():
    """A tensor of 300 MB: neither what this process holds nor what building took counts."""
    if worker_module.resident('VmHWM') is None:
        pytest.skip('this system does not tell the peak of a process')
    held = torch.ones(2**26)
    code = ('import torch\nfrom benchmark.worker import PeakMemory\n'  # alone, as in other environments
            'building = torch.ones(2**25); del building\n'
            "memory = PeakMemory(torch.device('cpu'))\ntorch.ones(75 * 2**20)\nprint(memory.read())")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                          cwd=ROOT / 'swin_pos_det/analysis')
    # If the system does not reset the peak, the 128 MB before count as held.
    assert 295 - 128 < float(done.stdout) < 305, held.numel()


def test_a_python_without_torch_says_so(tmp_path):
    fake = tmp_path / 'python'
    fake.write_text('#!/bin/sh\necho "ModuleNotFoundError: No module named torch" >&2\nexit 1\n')
    fake.chmod(0o755)
    process = Process('timm', str(fake))
    with pytest.raises(WorkerError, match='the process of timm died: ModuleNotFoundError: No module named torch'):
        process.ask('about')
    process.close()


def test_bars_of_windows(tmp_path):
    rows = [Row(Case(window=window), name, [0.1 * window, 0.2 * window]) for window in (7, 12) for name in MODELS]
    assert plot_windows(rows[:5], tmp_path / 'one.png') == []
    plot_windows(rows, tmp_path / 'two.png')
    assert plt.imread(tmp_path / 'two.png').std() > 0.05


# Whole detectors

def test_time_within_a_part_is_counted_once():
    watch = Stopwatch(torch.device('cpu'))
    clock = iter([0., 1., 3., 10.])
    watch.now = lambda: next(clock)
    with watch.part('outer'), watch.part('inner'):
        pass
    assert watch.seconds == {'inner': 2., 'outer': 8.}


def test_mmdets_backbone_must_be_able_to_do_the_same(tmp_path):
    assert load_model_config(NANO_CONFIG, 'mmdet').model.backbone.type == 'mmdet.SwinTransformer'
    masked = ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7-mask_fpn_digits.py'
    with pytest.raises(ValueError, match='cannot do what .* sets: padding'):
        load_model_config(str(masked), 'mmdet')
    config = tmp_path / 'r50.py'
    config.write_text("model = dict(backbone=dict(type='ResNet'))")
    with pytest.raises(ValueError, match='is ResNet, not a Swin'):
        load_model_config(str(config), 'ours')


def _gradients(cell, step):
    """Record the backbone's gradients when the optimizer steps."""
    found = []
    handle = cell.optimizer.optimizer.register_step_pre_hook(lambda *_: found.extend(
        parameter.grad.clone() for parameter in cell.model.backbone.parameters() if parameter.grad is not None))
    step()
    handle.remove()
    assert found
    return found


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = str(tmp_path_factory.mktemp('weights') / 'weights.pth')
    write_detector_weights(NANO_CONFIG, path)
    return path


PARTS = {'preprocessing', 'backbone, forward', 'neck, forward', 'rpn_head, forward', 'roi_head, forward',
         'rpn_head, losses and boxes', 'roi_head, losses and boxes', 'assigning and sampling', 'mask targets',
         'neck and heads, backward', 'backbone, backward', 'optimizer', 'losses for the log', 'other'}


@pytest.mark.slow
def test_parts_of_a_detector(weights):
    """The same losses with either backbone and the fast settings, and parts that make up the step."""
    losses, counts = [], {}
    for name in DETECTORS:
        cell = DetectorCell(name, DetectorCase('train', NANO_CONFIG, (64, 96)).asdict(), weights, 'cpu')
        seen = cell.model.parse_losses
        cell.model.parse_losses = lambda found, seen=seen: losses.append(seen(found)[0].item()) or seen(found)
        before = [parameter.detach().clone() for parameter in cell.model.parameters()]
        grads = [_gradients(cell, step) for step in (cell.prepare(), cell.breakdown)]
        for whole, apart in zip(*grads):
            torch.testing.assert_close(apart, whole, rtol=1e-5, atol=1e-7)
        parts = cell.breakdown()
        counts[name] = cell.count()
        assert all(torch.equal(a, b) for a, b in zip(before, cell.model.parameters())), 'every step does the same work'
        assert parts.keys() == PARTS >= counts[name].keys()
        assert all(seconds > 0 for seconds in parts.values())
    assert losses[0] == pytest.approx(losses[len(losses) // 3], rel=1e-4) and losses[0] > 0
    assert losses[-1] == pytest.approx(losses[0], rel=1e-6)
    operators, waits = ({name: found[part][kind] for name, found in counts.items()}
                        for part, kind in (('optimizer', 0), ('losses for the log', 1)))
    assert operators['ours'] > 20 * operators['fast'] > 0
    assert waits['mmdet'] == waits['ours'] > waits['fast'] == 0
    assert counts['fast']['mask targets'][1] == 0 < counts['ours']['mask targets'][1]


@pytest.mark.slow
def test_parts_of_inference(weights):
    cell = DetectorCell('ours', DetectorCase('inference', NANO_CONFIG, (64, 96)).asdict(), weights, 'cpu')
    parts = cell.breakdown()
    assert cell.found > 0, 'the mask head has something to do'
    assert not any('backward' in name for name in parts)
    assert isinstance(cell.model.backbone, nn.Module) and 'forward' not in vars(cell.model.backbone)


def test_fast_settings_are_those_of_the_config(tmp_path, weights):
    config = tmp_path / 'plain.py'
    config.write_text(f"_base_ = {NANO_CONFIG!r}\ncustom_hooks = []\n")
    with pytest.raises(ValueError, match='does not use configs/_base_/fast_training.py'):
        DetectorCell('fast', DetectorCase('train', str(config), (64, 96)).asdict(), weights, 'cpu')


def test_a_detector_has_a_table_of_parts_and_one_of_counts():
    case = DetectorCase('train', 'config.py', (64, 96))
    rows = [Row(case, name, [1.], parts=[{'neck, forward': 0.06, 'optimizer': seconds}] * 2,
                counts={'optimizer': [operators, 2], 'other': [1, 0]})
            for name, seconds, operators in (('mmdet', 0.04, 90), ('fast', 0.02, 9))]
    text = detector_tables(rows)
    assert '| optimizer | 40.0 (40%) | 20.0 (25%) |' in text
    assert '| all but forward and backward | 40.0 | 20.0 |' in text
    assert '| optimizer | 90; 2 | 9; 2 |' in text and '| all | 91; 2 | 10; 2 |' in text


def test_operators_and_waits_are_counted_by_part():
    x, step = torch.arange(6.), torch.tensor(3.)
    counter = OperatorCount(on_host=[step])
    with counter.counting():
        with counter.part('reads'):
            assert x.sum() > 1  # sum, comparison, read
            x[x > 2]  # comparison, index by a mask
            x.nonzero()
            x.cpu()
            step.item()
        x.view(2, 3).t()[0].add_(1)
    assert counter.operators == {'reads': 5, 'other': 1}
    assert counter.waits == {'reads': 4}


def test_objects_have_cocos_sizes_and_lie_in_the_image():
    drawn = coco_like_objects(2000, (480, 640), 80, seed=0)
    boxes = torch.tensor([each['bbox'] for each in drawn])
    assert (boxes >= 0).all() and (boxes[:, 0::2] <= 640).all() and (boxes[:, 1::2] <= 480).all()
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    shares = [((low <= sides) & (sides < high)).float().mean().item() for low, high in ((0, 32), (32, 96), (96, 1e4))]
    assert shares == pytest.approx([0.41, 0.34, 0.25], abs=0.08)
    assert {each['bbox_label'] for each in drawn} == set(range(80))
    assert coco_like_objects(3, (480, 640), 80, 1) == coco_like_objects(3, (480, 640), 80, 1)
    masks = Scenes(1, (96, 128), 80, with_mask=True)[0]['data_samples'].gt_instances.masks.masks
    assert len(masks) == OBJECTS and all(0 < mask.mean() < 0.8 for mask in masks)
