"""Checks of a config's data before anything is built."""
from __future__ import annotations

import contextlib
import json

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import ConfigDict

from swin_pos_det.cli import data_checks
from swin_pos_det.cli.data_checks import check_configured
from swin_pos_det.data.annotation_file import CocoFileError

POLYGON = [[1, 1, 5, 1, 5, 5]]


@pytest.fixture
def dataset():
    return dict(
        images=[dict(id=7, width=50, height=40, file_name='cat.jpg'), dict(id=9, width=5, height=4, file_name='d.jpg')],
        categories=[dict(id=3, name='cat'), dict(id=90, name='dog')],
        annotations=[dict(id=1, image_id=7, category_id=3, bbox=[1, 2, 3, 4], area=12, iscrowd=0, segmentation=POLYGON),
                     dict(id=2, image_id=7, category_id=90, bbox=[0, 0, 2, 2], area=4., iscrowd=1,
                          segmentation=dict(counts=[2000], size=[40, 50]))])


def settings(root, **changes):
    dataset = dict(type='CocoDataset', data_root=str(root), ann_file='gt.json', metainfo=dict(classes=('cat', 'dog')),
                   pipeline=[dict(type='LoadAnnotations', with_bbox=True)], **changes)
    return ConfigDict(val_dataloader=dict(dataset=dataset),
                      val_evaluator=dict(type='CocoMetric', ann_file=f'{root}/gt.json', metric='bbox'))


@pytest.fixture
def cfg(tmp_path, dataset):
    (tmp_path / 'gt.json').write_text(json.dumps(dataset))
    return settings(tmp_path)


def spoil(tmp_path, dataset, part='annotations', **fields):
    dataset[part][0].update(fields)
    (tmp_path / 'gt.json').write_text(json.dumps(dataset))


def test_a_good_config_passes(cfg):
    check_configured(cfg, ['val'])


def test_the_first_process_checks(cfg, tmp_path, dataset, monkeypatch):
    spoil(tmp_path, dataset, area=None)
    with pytest.raises(CocoFileError, match=r'annotation 0 \(id 1\) has area None'):
        check_configured(cfg, ['train', 'val', 'test'])
    check_configured(cfg, ['train', 'test'])
    monkeypatch.setenv('RANK', '1')
    check_configured(cfg, ['val'])


def test_masks_count_where_they_are_read(cfg, tmp_path, dataset):
    spoil(tmp_path, dataset, segmentation=[])
    check_configured(cfg, ['val'])
    for change in ({'val_evaluator.metric': ['bbox', 'segm']},
                   {'val_dataloader.dataset.pipeline': [dict(type='LoadAnnotations', with_mask=True)]}):
        changed = settings(tmp_path)
        for path, value in change.items():
            *parents, key = path.split('.')
            node = changed
            for parent in parents:
                node = node[parent]
            node[key] = value
        with pytest.raises(CocoFileError, match=r'has segmentation \[\]'):
            check_configured(changed, ['val'])


def test_classes_of_a_config(cfg, tmp_path, dataset):
    cfg.val_dataloader.dataset.pop('metainfo')
    with pytest.raises(CocoFileError, match=r"no category named 'person' \(nor 77 others of the dataset's 80 classes"):
        check_configured(cfg, ['val'])


@pytest.mark.parametrize('left', [dict(), dict(annotations=[]), dict(annotations=[], categories=[])])
def test_training_images_without_annotations(tmp_path, dataset, left):
    """Unlabelled images, and those of a background, may stand beside others where they are not filtered out."""
    (tmp_path / 'full.json').write_text(json.dumps(dataset))
    del dataset['annotations']
    (tmp_path / 'gt.json').write_text(json.dumps(dict(dataset, **left)))
    for filtered in (False, True):
        cfg = settings(tmp_path, filter_cfg=dict(filter_empty_gt=filtered))
        empty = cfg.val_dataloader.dataset
        cfg.train_dataloader = dict(dataset=empty)
        with pytest.raises(CocoFileError, match='has no (annotations|categories)' if filtered else
                           'gt.json: no object is left to learn: 0 objects'):
            check_configured(cfg, ['train'])
    empty.filter_cfg = None
    cfg.train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[empty, dict(empty, ann_file='full.json')]))
    check_configured(cfg, ['train'])


def test_datasets_that_read_files_in_their_own_way(cfg, tmp_path):
    class FromFile(CocoDataset):

        def __init__(self, *args, **kwargs):
            super().__init__(*args, metainfo=dict(classes=('cat', )), **kwargs)

    cfg.pop('val_evaluator')
    given = dict(cfg.val_dataloader.dataset, ann_file='none.json')
    for change in (dict(type=FromFile), dict(ann_file=['a.json', 'b.json']),
                   dict(backend_args=dict(backend='petrel', path_mapping={'data/': 's3://data/'}))):
        cfg.val_dataloader = dict(dataset=dict(given, **change))
        check_configured(cfg, ['val'])
    given.pop('metainfo')
    cfg.val_dataloader = dict(dataset=dict(given, type=FromFile))
    with pytest.raises(CocoFileError, match='none.json does not exist'):
        check_configured(cfg, ['val'])


@pytest.mark.parametrize(('ranks', 'checks'), [
    (dict(RANK='0', SLURM_PROCID='1'), True), (dict(RANK='1', SLURM_PROCID='0'), False),
    (dict(SLURM_PROCID='1'), False), (dict(OMPI_COMM_WORLD_RANK='0'), True)])
def test_exactly_one_process_checks(cfg, tmp_path, dataset, monkeypatch, ranks, checks):
    spoil(tmp_path, dataset, area=None)
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CocoFileError) if checks else contextlib.nullcontext():
        check_configured(cfg, ['val'])


def test_images_without_annotations_can_be_predicted_on(cfg, tmp_path, dataset):
    del dataset['annotations']
    (tmp_path / 'gt.json').write_text(json.dumps(dataset))
    with pytest.raises(CocoFileError, match='has no annotations'):
        check_configured(cfg, ['val'])
    cfg.val_evaluator.format_only = True
    cfg.val_dataloader.dataset.test_mode = True
    cfg.val_dataloader.dataset.pipeline[0].with_mask = True
    check_configured(cfg, ['val'])


def test_nested_datasets_and_other_kinds(cfg, tmp_path, dataset):
    """Wrapped datasets are found; LVIS, panoptic and unknown kinds have rules of their own."""
    spoil(tmp_path, dataset, part='images', height=None)
    inner = cfg.val_dataloader.dataset
    cfg.pop('val_evaluator')
    for kind in ('LVISV1Dataset', 'CocoPanopticDataset', 'NoSuchDataset'):
        cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[dict(inner, type=kind)])
        check_configured(cfg, ['val'])
    cfg.val_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    with pytest.raises(CocoFileError, match=r'image 0 \(id 7\) has height None'):
        check_configured(cfg, ['val'])


def test_files_elsewhere_are_left_alone(cfg):
    cfg.val_dataloader.dataset.data_root = 's3://bucket'
    cfg.pop('val_evaluator')
    check_configured(cfg, ['val'])
    cfg.val_dataloader.dataset.data_root = '/nowhere'
    with pytest.raises(CocoFileError, match='/nowhere/gt.json does not exist'):
        check_configured(cfg, ['val'])


@pytest.mark.parametrize('evaluates', [True, False])
def test_masks_of_a_file_are_checked_once(cfg, monkeypatch, evaluates):
    """However many readers a file has: an evaluation asks for all that trainings do."""
    calls = []

    def count(content, path, evaluated=True, classes=None, kept=None):
        calls.append((evaluated, None if kept is None else kept.tolist()))

    monkeypatch.setattr(data_checks, 'check_masks', count)
    given = cfg.val_dataloader.dataset
    given.pipeline = [dict(type='LoadAnnotations', with_mask=True)]
    cats = dict(given, metainfo=dict(classes=('cat', )))
    cfg.train_dataloader = dict(dataset=cats)
    check_configured(cfg, ['train'])
    assert calls == [(False, [True, False])], 'of the classes that are loaded'
    cfg.train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[cats, cats]))
    cfg.val_dataloader.dataset = cats
    cfg.val_evaluator.metric = ['bbox', 'segm'] if evaluates else 'bbox'
    check_configured(cfg, ['train', 'val'])
    assert calls[1:] == [(True, None) if evaluates else (False, [True, False])]
