"""The ablation trains every scheme alike, evaluates all alike, and its tables compare within a seed."""
from __future__ import annotations

import copy

import numpy as np
import pytest
from mmengine.config import Config, DictAction
from PIL import Image

from swin_pos_det.analysis.studies.position_ablation import (
    DEMO,
    RECIPES,
    SCHEMES,
    VARIANTS,
    Recipe,
    markdown_against,
    markdown_lost,
    markdown_schemes,
    plot_schemes,
    sweeps,
    trainings,
)

RECIPE = Recipe(128, (), ((7, 1.), (14, 1.), (14, 2.)))
ROWS = [dict(training=name, seed=seed, setting='scale', window=str(window), scale=scale,
             bbox_mAP=ap + seed / 10 + bonus * (1 + seed), segm_mAP=.5)
        for name, bonus in (('none', 0.), ('relative', .1)) for seed in (0, 1)
        for window, scale, ap in ((7, 1., .3), (14, 1., .2), (14, 2., .1))]


DEMO_CONFIG = Config.fromfile(DEMO)


def config_of(training):
    assert training.config == DEMO
    cfg = copy.deepcopy(DEMO_CONFIG)
    options = dict(option.split('=', 1) for option in training.options)
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in options.items()})
    return cfg


@pytest.mark.parametrize('recipe', RECIPES)
def test_only_position_differs(recipe):
    made = trainings([*SCHEMES, *VARIANTS], RECIPES[recipe])
    plain = config_of(made['none']).to_dict()
    for name, training in made.items():
        cfg = config_of(training).to_dict()
        backbone, other = cfg['model'].pop('backbone'), plain['model']['backbone']
        if name not in VARIANTS:
            assert backbone.pop('position') == name
        changed = {key for key in {*backbone, *other} - {'position'} if backbone.get(key) != other.get(key)}
        absolute = {'pretrain_img_size'} if 'absolute' in name else set()
        assert changed == ({'type', 'window_size'} if name in VARIANTS else absolute)
        assert cfg == {**plain, 'model': {k: v for k, v in plain['model'].items() if k != 'backbone'}}


def test_the_short_recipe_resizes_every_image():
    recipe = RECIPES['short']
    cfg = config_of(trainings(['absolute'], recipe)['absolute'])
    assert recipe.image == 128 == cfg.model.backbone.pretrain_img_size
    for part in ('train', 'val', 'test'):
        steps = cfg[f'{part}_dataloader'].dataset.pipeline
        assert [step.scale for step in steps if step.type == 'Resize'] == [(128, 128)]
    assert cfg.param_scheduler[1].T_max == cfg.train_cfg.max_epochs


@pytest.mark.parametrize('recipe', RECIPES.values())
def test_every_setting_is_swept_once_beginning_with_the_trainings(recipe):
    found = [(window, scale) for sweep in sweeps(['none', 'peg'], recipe) for scale in sweep.scales
             for window in sweep.windows]
    assert found[0] == recipe.settings[0] == (7, 1.)
    assert sorted(found) == sorted(set(recipe.settings))
    assert {sweep.trainings for sweep in sweeps(['none', 'peg'], recipe)} == {('none', 'peg')}
    names = [sweep.name for sweep in sweeps(['none'], recipe)]
    assert len(set(names)) == len(names), 'two sweeps would share a folder'


def test_unknown_schemes_are_named():
    with pytest.raises(ValueError, match="got 'sine'"):
        trainings(['relative', 'sine'], RECIPE)


def test_mean_of_each_setting():
    assert markdown_schemes(ROWS[:-1], RECIPE).splitlines() == [
        '| position | window 7 | window 14 | window 14, images x 2 | seeds |', '|---|---|---|---|---|',
        '| none | 0.350 ± 0.071 | 0.250 ± 0.071 | 0.150 ± 0.071 | 2 |',
        '| relative | 0.500 ± 0.141 | 0.400 ± 0.141 | 0.200 | 1 to 2 |']


def test_differences_are_within_a_seed():
    assert markdown_against(ROWS, RECIPE).splitlines()[2:] == [
        '| none | -0.150 ± 0.071 | -0.150 ± 0.071 | -0.150 ± 0.071 | 2 |']
    assert markdown_lost(ROWS, RECIPE).splitlines()[2:] == [
        '| none | -0.100 ± 0.000 | -0.200 ± 0.000 | 2 |', '| relative | -0.100 ± 0.000 | -0.200 ± 0.000 | 2 |']


def test_unfinished_studies_have_tables(tmp_path):
    rows = [row for row in ROWS if row['training'] == 'none' and row['window'] == '14']
    assert markdown_schemes(rows, RECIPE).splitlines()[2] == (
        '| none |  | 0.250 ± 0.071 | 0.150 ± 0.071 | 0 to 2 |')
    assert markdown_against(rows, RECIPE).splitlines()[2] == '| none |  |  |  | 0 |'
    plot_schemes(rows, RECIPE, tmp_path / 'unfinished.png')
    assert (tmp_path / 'unfinished.png').is_file()


def test_the_picture_has_a_panel_for_each_setting(tmp_path):
    plot_schemes(ROWS, RECIPE, tmp_path / 'new/ablation.png')
    plot_schemes(ROWS, Recipe(128, (), RECIPE.settings[:2]), tmp_path / 'two.png')
    three, two = (np.asarray(Image.open(tmp_path / name).convert('RGB'), dtype=int)
                  for name in ('new/ablation.png', 'two.png'))
    assert three.shape[1] > 1.3 * two.shape[1]
    bars = (three[..., 0] - three[..., 2] > 150).any(0)
    assert np.diff(bars.astype(int)).clip(0).sum() == 2 + 1 + 1, 'two means; then both change by the same'
