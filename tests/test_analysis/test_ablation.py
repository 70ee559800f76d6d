"""Each optimization is switched off in its turn, and on again."""
from __future__ import annotations

import os

import torch

from swin_pos_det.analysis.benchmark.ablation import SWITCHES, Ablation, ablate, ablation_table
from swin_pos_det.analysis.benchmark.cases import Case
from swin_pos_det.ops import window_attention
from swin_pos_det.ops.optimizations import OPTIMIZATIONS


def test_switches_are_known_and_undone():
    before = dict(OPTIMIZATIONS)
    for switches in SWITCHES.values():
        for off in switches.values():
            with off():
                state = OPTIMIZATIONS, os.environ.get('SWIN_POS_DET_CPU_INFERENCE'), window_attention.requested_impl()
                assert state != (before, None, None)
            assert before == OPTIMIZATIONS and window_attention.requested_impl() is None
    assert 'SWIN_POS_DET_CPU_INFERENCE' not in os.environ


def test_measures_each_in_turn():
    threads = torch.get_num_threads()
    found = [ablate('nano', Case(mode=mode, size=(64, 64)), repeats=2, memory=False) for mode in ('forward', 'train')]
    for ablation in found:
        assert set(ablation.seconds) == {'', *SWITCHES[ablation.case.mode]}
        assert all(len(taken) == 2 and min(taken) > 0 for taken in ablation.seconds.values())
    table = ablation_table(found)
    assert all(f'| {name} | ' in table for switches in SWITCHES.values() for name in switches)
    assert torch.get_num_threads() == threads


def test_the_gain_is_the_median_of_the_ratios_of_rounds():
    ablation = Ablation('T', Case(), {'': [1., 2., 4.], 'chunks': [2., 2., 6.]}, {})
    assert ablation.gain('chunks') == 1.5
