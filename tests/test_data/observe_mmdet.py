"""What MMDetection's own parts make of the odd inputs of :mod:`.odd_inputs`, without a part of this package.

``python -m tests.test_data.observe_mmdet`` prints a line of JSON for each row: its name and the outcome; with a number
N, for every Nth row. The data sets are built and read to the end; results that are equal to the
annotations before the row's change, with the labels of the training (or of the checkpoint), are evaluated by
``CocoMetric``.
"""
from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmdet.evaluation import MultiDatasetsEvaluator  # noqa: F401  registers it
from mmdet.registry import DATASETS, EVALUATOR, METRICS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from pycocotools import mask as rle

from .odd_inputs import HEIGHT, IMAGES, OBJECTS, ROWS, RUNS, WIDTH, Row, Scene, annotations


def outcome(row: Row, folder: Path) -> str:
    """Say in a few words what happens: an exception and where, how much is learned, and AP where it is not 1."""
    scene = Scene(folder)
    row.change(scene)
    scene.write_all()
    settings = scene.trained
    if settings.type == 'DigitsOnPhotosDataset':
        return 'not run: the data set is of this package'
    stage, said = 'when the training data are built', []
    try:
        trained = DATASETS.build(ConfigDict(settings))
        stage = 'in a worker that loads training data'
        counts = [_learned(trained[index]) for index in range(len(trained))]
        objects, outside = map(sum, zip(*counts))
        if len(trained) < IMAGES or objects < OBJECTS:
            said.append(f'learns from {objects} of {OBJECTS} objects in {len(trained)} of {IMAGES} images')
        if outside:
            said.append(f'boxes beyond the image: {outside}')
        stage = 'when the evaluation is built'
        validated = DATASETS.build(ConfigDict(scene.cfg.val_dataloader.dataset))
        evaluator = _evaluator(scene, validated)
        stage = 'in a worker that loads the data of the evaluation'
        samples = list(_perfect(validated, _labels(scene, trained)))
        stage = 'after the first epoch'
        said += _scores(evaluator, samples, scene)
    except Exception as error:
        said.append(f'{type(error).__name__} {stage}')
    return '; '.join(said) or RUNS


def _learned(sample: dict) -> tuple[int, int]:
    """Count the objects that are learned from an image, and those of them that end more than a pixel beyond it."""
    boxes = sample['gt_bboxes'].tensor[~torch.as_tensor(sample['gt_ignore_flags'])]
    height, width = sample['img'].shape[:2]
    return len(boxes), int(((boxes[:, 2] > width + 1) | (boxes[:, 3] > height + 1)).sum())


def _labels(scene: Scene, trained: Any) -> dict[str, int]:
    """Return the label that a perfect detector gives to each class."""
    if scene.checkpoint and scene.train['categories'] == annotations('t')['categories']:
        known = {name: label for label, name in enumerate(scene.checkpoint)}
        return {name: known.get(name, label) for label, name in enumerate(('cat', 'dog'))}
    names = {category['id']: category['name'] for category in scene.train['categories']}
    return {names[category]: label for category, label in trained.cat2label.items()}


def _evaluator(scene: Scene, validated: Any) -> Any:
    settings = scene.cfg.val_evaluator
    evaluator = EVALUATOR.build(settings) if 'metrics' in settings else Evaluator([METRICS.build(settings)])
    evaluator.dataset_meta = validated.metainfo
    return evaluator


def _perfect(validated: Any, labels: dict[str, int]) -> Iterator[dict]:
    """Yield the annotations of the unchanged scene as results, for each image of the evaluation."""
    truth = annotations('v')
    names = {category['id']: category['name'] for category in truth['categories']}
    numbers = {image['file_name']: image['id'] for image in truth['images']}
    for index in range(len(validated)):
        sample = validated[index]
        own = [item for item in truth['annotations'] if item['image_id'] == numbers.get(Path(sample['img_path']).name)]
        own = [item for item in own if names[item['category_id']] in labels]
        boxes = torch.tensor([item['bbox'] for item in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        predicted = dict(
            bboxes=boxes, scores=torch.linspace(0.9, 0.8, len(own)),
            labels=torch.tensor([labels[names[item['category_id']]] for item in own], dtype=torch.long),
            masks=[rle.merge(rle.frPyObjects(item['segmentation'], HEIGHT, WIDTH)) for item in own])
        yield dict(pred_instances=predicted, img_id=sample['img_id'], ori_shape=sample['ori_shape'])


def _scores(evaluator: Any, samples: list[dict], scene: Scene) -> list[str]:
    for sample in samples:
        evaluator.process([sample], {})
    scores = evaluator.evaluate(len(samples))
    found = {key: value for key, value in scores.items() if key.endswith('_mAP')}
    if not found and not scene.cfg.val_evaluator.get('format_only'):
        return ['the evaluation has no AP']
    return [f'AP {value:g} of perfect results' for value in dict.fromkeys(found.values()) if value < 0.999]


def main() -> None:
    """Print the outcome of every row."""
    register_all_modules()
    MMLogger.get_instance('observe', log_level='CRITICAL')
    warnings.simplefilter('ignore')
    here = os.getcwd()
    for row in ROWS[::int(sys.argv[1]) if len(sys.argv) > 1 else 1]:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()):
            os.chdir(folder)  # a row writes results beside it
            said = outcome(row, Path(folder) / 'scene')
            os.chdir(here)
        print(json.dumps([row.name, said]), flush=True)
    assert 'swin_pos_det' not in sys.modules


if __name__ == '__main__':
    main()
