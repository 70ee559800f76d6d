"""Comparing an evaluation with figures, and finding the weights for it."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from swin_pos_det.analysis.runs.model_index import Figures, Model
from swin_pos_det.analysis.runs.reproduce import (
    check_coco_is_whole,
    check_trained_to_the_end,
    choose_figures,
    compare,
    evaluated_aps,
    find_weights,
)

ZOO = Figures({'box AP': 42.7, 'mask AP': 39.3}, "A model zoo", 'https://zoo', False, weights='https://zoo/dir/w.pth')
PAPER = Figures({'box AP': 43.7}, 'A paper', 'https://paper', False)
MODEL = Model('one', Path('one.py'), 'COCO', (ZOO, PAPER))


def test_fractions_become_points():
    aps = evaluated_aps({'coco/bbox_mAP': 0.427, 'coco/bbox_mAP_50': 0.9, 'coco/segm_mAP': 0.393})
    assert aps == pytest.approx({'box AP': 42.7, 'mask AP': 39.3})
    with pytest.raises(ValueError, match='neither bbox_mAP nor segm_mAP: nothing'):
        evaluated_aps({})


@pytest.mark.parametrize(('box', 'mask', 'agrees'), [
    (42.7, 39.3, True), (42.8, 39.2, True), (42.6, 39.4, True), (42.9, 39.3, False), (42.7, 39.1, False)])
def test_both_must_be_within_the_tolerance(box, mask, agrees):
    row, = compare({'box AP': box, 'mask AP': mask}, [ZOO])
    assert row.agrees == agrees
    assert row.differences == pytest.approx({'box AP': box - 42.7, 'mask AP': mask - 39.3})


def test_what_was_not_evaluated_does_not_agree():
    zoo, paper = compare({'box AP': 43.7}, [ZOO, PAPER], tolerance=1.)
    assert (zoo.agrees, paper.agrees) == (False, True)
    assert set(zoo.differences) == {'box AP'}


def test_sources_are_chosen_by_a_part_of_their_name():
    assert choose_figures(MODEL) == (ZOO, PAPER)
    assert choose_figures(MODEL, 'PAPER') == (PAPER, )
    with pytest.raises(ValueError, match="called 'blog'; there are: A model zoo; A paper"):
        choose_figures(MODEL, 'blog')
    with pytest.raises(ValueError, match='one has no figures to reproduce: too new'):
        choose_figures(Model('one', Path('one.py'), 'COCO', (), 'too new'))


def test_a_sources_own_weights_come_before_a_training(tmp_path):
    work_dir, downloads = tmp_path / 'run', tmp_path / 'checkpoints'
    with pytest.raises(FileNotFoundError, match=f'download https://zoo/dir/w.pth into {downloads}/, or train them'):
        find_weights(MODEL, (ZOO, PAPER), work_dir, downloads)
    with pytest.raises(FileNotFoundError, match='weights of one: train them with --train'):
        find_weights(MODEL, (PAPER, ), work_dir, downloads)
    work_dir.mkdir()
    (work_dir / 'epoch_3.pth').touch()
    assert find_weights(MODEL, (ZOO, PAPER), work_dir, downloads) == work_dir / 'epoch_3.pth'
    downloads.mkdir()
    (downloads / 'w.pth').touch()
    assert find_weights(MODEL, (ZOO, PAPER), work_dir, downloads) == downloads / 'w.pth'
    assert find_weights(MODEL, (PAPER, ), work_dir, downloads) == work_dir / 'epoch_3.pth'


@pytest.mark.parametrize(('schedule', 'meta', 'message'), [
    (dict(max_epochs=4), dict(epoch=2, iter=8, mmengine_version='1'), 'is from epoch 2 of 4'),
    (dict(max_iters=9), dict(epoch=0, iter=8, mmengine_version='1'), 'is from iter 8 of 9'),
    (dict(max_epochs=4), dict(epoch=4, iter=16, mmengine_version='1'), None),
    (dict(max_epochs=12), dict(epoch=2), None),
    (dict(max_epochs=12), {}, None),
])
def test_a_training_must_have_ended(schedule, meta, message):
    cfg = Config(dict(train_cfg=schedule))
    if message is None:
        check_trained_to_the_end(cfg, Path('w.pth'), meta)
    else:
        with pytest.raises(ValueError, match=message):
            check_trained_to_the_end(cfg, Path('w.pth'), meta)


def test_a_part_of_coco_is_refused(tmp_path):
    file = tmp_path / 'a.json'
    file.write_text(json.dumps(dict(images=[dict(id=1)])))
    with pytest.raises(ValueError, match='has 1 images and COCO val2017 5000'):
        check_coco_is_whole(file)
    file.write_text(json.dumps(dict(images=5000 * [{}])))
    check_coco_is_whole(file)
