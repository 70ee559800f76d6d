"""What the estimates rest on: counts of the real model, held against published ones, and arithmetic by hand."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from swin_pos_det.analysis.scaling import GPUS, VARIANTS, Gpu, Setup, collective, count, estimate, mask_rcnn
from swin_pos_det.models import SwinPosTransformer
from tests.test_tools.conftest import load_tool

# Swin paper, table 1: multiply-adds of the classifier at 224x224 and its parameters, both in units of 10**9 and 10**6.
PUBLISHED = {'t': (4.5, 29), 's': (8.7, 50), 'b': (15.4, 88), 'l': (34.5, 197)}
SIMPLE = Gpu(bf16=1e12, tf32=5e11, memory=8e9, nvlink=1e9, network=1e8)
BARE = Setup(batch=1, mfu=1., overhead=0., overlap=1., bandwidth=1., latency=0., loader_seconds=0., reserve=0.)


@pytest.fixture(scope='module')
def counts():
    return count(mask_rcnn('t'))


@pytest.mark.parametrize('name', VARIANTS)
def test_backbones_cost_what_the_paper_says(name):
    """Blocks are the backbone but for patch embedding and merging (3 to 5 %), and count a multiply-add as two."""
    multiply_adds, millions = PUBLISHED[name]
    found = count(mask_rcnn(name), (224, 224))
    assert 0.93 < found.blocks_forward / 2e9 / multiply_adds < 1.01
    backbone = sum(parameter.numel() for parameter in SwinPosTransformer(**VARIANTS[name]).parameters())
    classifier = 8 * VARIANTS[name]['embed_dims'] * 1000
    assert (backbone + classifier) / 1e6 == pytest.approx(millions, rel=0.03)
    assert found.parameters - backbone == pytest.approx(20e6, rel=0.1), 'the rest, 48 M - 28 M of Swin-T'


def test_what_waits_for_the_backward_pass(counts):
    """The feed-forward network of a block keeps its hidden layer twice: before and after GELU."""
    tokens, blocks = 200 * 336, 2
    hidden = 2 * 4 * tokens * (4 * 96) * blocks
    assert counts.activations > 2 * hidden, 'stages 1 and 2 alone'
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
