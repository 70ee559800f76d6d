"""The basis of the estimates: counts of the real model against published ones, and arithmetic."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from swin_pos_det.analysis.studies.scaling import VARIANTS, count, mask_rcnn
from swin_pos_det.analysis.studies.scaling_estimate import GPUS, Counts, Gpu, Setup, collective, estimate
from swin_pos_det.models import SwinPosTransformer
from tests.test_tools.conftest import ROOT, load_tool

# Swin paper, table 1: multiply-adds of the classifier at 224x224 and its parameters, both in units of 10**9 and 10**6.
PUBLISHED = {'t': (4.5, 29), 's': (8.7, 50), 'b': (15.4, 88), 'l': (34.5, 197)}
SIMPLE = Gpu(bf16=1e12, tf32=5e11, memory=8e9, nvlink=1e9, network=1e8)
BARE = Setup(batch=1, mfu=1., overhead=0., overlap=1., bandwidth=1., latency=0., loader_seconds=0., reserve=0.)


@pytest.fixture(scope='module')
def counts():
    return count(mask_rcnn('t'))


@pytest.mark.parametrize('name', VARIANTS)
def test_backbones_cost_what_the_paper_says(name):
    """Blocks are the backbone except patch embedding and merging (3 to 5 %), and count a multiply-add as two."""
    multiply_adds, millions = PUBLISHED[name]
    found = count(mask_rcnn(name), (224, 224))
    assert 0.93 < found.blocks_forward / 2e9 / multiply_adds < 1.01
    with torch.device('meta'):
        built = SwinPosTransformer(**VARIANTS[name])
    backbone = sum(parameter.numel() for parameter in built.parameters())
    classifier = 8 * VARIANTS[name]['embed_dims'] * 1000
    assert (backbone + classifier) / 1e6 == pytest.approx(millions, rel=0.03)
    assert found.parameters - backbone == pytest.approx(20e6, rel=0.1), 'the rest, 48 M - 28 M of Swin-T'


def test_what_waits_for_the_backward_pass(counts, monkeypatch):
    """Of a block's hidden channels one set is kept, before GELU; twice as many channels add as much again."""
    hidden = sum(4 * depth * (200 >> stage) * (336 >> stage) * 4 * (96 << stage)
                 for stage, depth in enumerate(VARIANTS['t']['depths']))
    monkeypatch.setitem(VARIANTS, 't', dict(VARIANTS['t'], mlp_ratio=8))
    assert count(mask_rcnn('t')).activations - counts.activations == hidden
    monkeypatch.undo()
    assert counts.activations_checkpointed < 0.6 * counts.activations
    small = count(mask_rcnn('t'), (400, 672))
    heads = count(mask_rcnn('t'), (32, 32)).activations
    assert (counts.activations - heads) / (small.activations - heads) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(('gpus', 'sent', 'seconds'), [
    (1, 0, 0), (2, 400, 400 / 1e9), (8, 700, 700 / 1e9), (16, 700 + 50, 700 / 1e9 + 50 / 1e8),
    (64, 700 + 87.5, 700 / 1e9 + 87.5 / 1e8)])
def test_collectives_by_hand(gpus, sent, seconds):
    assert collective(800, gpus, SIMPLE, BARE) == pytest.approx((sent, seconds))
    late = collective(800, gpus, SIMPLE, replace(BARE, latency=1.))[1]
    assert late - seconds == pytest.approx(gpus.bit_length() - 1), 'a tree'


def test_a_step_by_hand(counts):
    alone = estimate(counts, 1, SIMPLE, BARE)
    assert alone['step'] == pytest.approx(3 * counts.forward / 1e12)
    assert alone['images'] == pytest.approx(1 / alone['step'])
    assert alone['states'] == pytest.approx(18 * counts.parameters), 'float32: weight, gradient, 2 averages; bf16 copy'
    assert alone['memory'] == alone['states'] + alone['activations']
    assert alone['limit'] == 'compute' and alone['traffic'] == 0
    many = estimate(counts, 8, SIMPLE, replace(BARE, overlap=0.))
    assert many['exposed'] == many['communication'] == pytest.approx(2 * 4 * counts.parameters * 7 / 8 / 1e9)
    assert many['step'] == pytest.approx(alone['step'] + many['communication'])
    assert many['efficiency'] == pytest.approx(alone['step'] / many['step'])


def test_every_term_by_hand():
    """16 GPUs in 2 machines, numbers that are easy to divide, every assumption in use."""
    counts = Counts(parameters=10**6, largest_block=10**5, forward=1e12, blocks_forward=4e11, activations=2e9,
                    activations_checkpointed=5e8)
    setup = Setup(batch=2, with_cp=True, mfu=0.5, overhead=0.1, overlap=0.003, bandwidth=0.5, latency=1e-3, bucket=1e6,
                  amp_activations=0.6, reserve=1e9, loader_seconds=40., cores=10)
    found = estimate(counts, 16, SIMPLE, setup)
    busy = 2 * 3.4e12 / 0.5e12  # 13.6 s: 3 forwards and the blocks' again, of 2 images, at half of 1 TFLOP/s
    assert found['compute'] == pytest.approx(13.6 + 0.1)
    assert found['traffic'] == pytest.approx(2 * (3.5e6 + 0.25e6)), '7/8 of 4 MB inside, 1/16 through the port; twice'
    # A pass: (3.5 ms + 2.5 ms) / 0.5, then 4 hops of 1 ms for each of 4 buckets.
    assert found['communication'] == pytest.approx(2 * (0.012 + 4 * 0.004))
    assert found['exposed'] == pytest.approx(0.056 - 0.003 * busy * 2 / 3)
    assert found['loading'] == pytest.approx(2 * 40 / 10)
    assert found['step'] == pytest.approx(13.7 + 0.0288) and found['images'] == pytest.approx(32 / 13.7288)
    assert found['states'] == pytest.approx(22e6), 'weight, gradient, two averages, bucket: 4 bytes each; 2 of bfloat16'
    assert found['activations'] == pytest.approx(2 * 5e8 * 0.6)
    assert found['memory'] == pytest.approx(1e9 + 6e8 + 22e6) and found['fits']
    sharded = estimate(counts, 16, SIMPLE, replace(setup, fsdp=True))
    assert sharded['traffic'] == pytest.approx(3 * 3.75e6)
    assert sharded['communication'] == pytest.approx(3 * (0.012 + 10 * 0.004)), 'in 10 parts, of a block each'
    assert sharded['states'] == pytest.approx(16e6 / 16 + 2 * 4e5 + 2e6)


def test_hardware_is_as_documented():
    """docs/scaling.md names a source for each of these figures."""
    text = (ROOT / 'docs/scaling.md').read_text()
    rows = {cells[0].strip(): cells[1:3] for cells in (line.strip('| ').split('|') for line in text.splitlines()
                                                       if line.startswith('| ')) if len(cells) == 4}
    units = {'bfloat16, dense': ('bf16', 1e12), 'TF32, dense': ('tf32', 1e12), 'memory': ('memory', 1e9),
             'NVLink, each way': ('nvlink', 1e9), "network, a GPU's own port": ('network', 1e9 / 8)}
    for row, (field, unit) in units.items():
        for cell, gpu in zip(rows[row], GPUS.values()):
            assert float(cell.split()[0]) * unit == pytest.approx(getattr(gpu, field)), row


def test_what_settings_do(counts):
    plain = estimate(counts, 64, GPUS['a100'], Setup())
    sharded = estimate(counts, 64, GPUS['a100'], Setup(fsdp=True))
    assert sharded['states'] < 0.2 * plain['states'] and sharded['traffic'] == pytest.approx(1.5 * plain['traffic'])
    checkpointed = estimate(counts, 64, GPUS['a100'], Setup(with_cp=True))
    assert checkpointed['activations'] < 0.6 * plain['activations'] and checkpointed['compute'] > plain['compute']
    full = estimate(counts, 64, GPUS['a100'], Setup(amp=False))
    assert full['activations'] > plain['activations'] and full['compute'] > plain['compute']
    assert estimate(counts, 64, replace(GPUS['a100'], network=1e7), Setup())['limit'] == 'network'
    assert estimate(counts, 64, GPUS['a100'], Setup(loader_seconds=9.))['limit'] == 'loading'
    assert estimate(counts, 64, GPUS['a100'], Setup(overhead=9.))['limit'] == 'overhead'
    assert plain['fits'] and not estimate(counts, 1, GPUS['a100'], Setup(batch=64))['fits']


def test_the_tool(capsys):
    tool = load_tool('analysis_tools/estimate_scaling.py')
    small = ['--models', 't', '--image', '128', '160']
    assert tool.main([*small, '--gpus', '8', '64', '--markdown', '--network-gbit', '0.1']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('Estimate, not measured. A100, batch 2')
    rows = [line.split(' | ') for line in lines if line.startswith('| Swin-T')]
    assert [row[1] for row in rows] == ['8', '64'] and rows[1][-1] == 'network |'
    assert tool.main(small) == 0
    assert tool.main([*small, '--gpus', '12']) == 1
    assert 'multiples of 8, got 12' in capsys.readouterr().err
    assert tool.main([*small, '--mfu', '25']) == 1


def test_counting_leaves_no_numbers_anywhere():
    assert {parameter.device.type for parameter in mask_rcnn('t').parameters()} == {torch.device('meta').type}
