"""A checkpoint on the validation data of its run: detections, AP, confusions and errors by image."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.runner import Runner
from pycocotools.coco import COCO

from ...apis import init_detector
from ...apis.inference import register_modules
from ...data.annotation_file import CocoFileError, check_masks
from ...errors import SettingError
from ...evaluation.annotations import as_coco, load_ground_truth
from ...evaluation.coco_eval import CocoScores, evaluate, kinds_of
from ...evaluation.confusion import ConfusionMatrix, ImageCounts, confusion_matrix, count_by_image
from ...evaluation.detections import coco_records, encode_prediction
from ...evaluation.result_files import load_results
from ...progress import track
from ...visualization.visualizer import own_palette


@dataclass(frozen=True)
class Evaluation:
    """Detections on validation data, and their evaluation.

    Attributes:
        gt: the annotations, of the evaluated images.
        results: COCO results.
        scores: AP of boxes and, if there are masks, of masks.
        matrix: of boxes.
        images: the counts of each image, as of ``matrix``.
        paths: image id -> file.
        classes: their names; ``palette`` has their colours, or is None.
    """
    gt: COCO
    results: list[dict[str, Any]]
    scores: list[CocoScores]
    matrix: ConfusionMatrix
    images: list[ImageCounts]
    paths: dict[Any, str]
    classes: list[str]
    palette: Any


def evaluate_run(config: Union[str, Path], checkpoint: Union[str, Path, None], results: Union[str, Path, None] = None,
                 score_threshold: float = 0.3) -> Evaluation:
    """Evaluate a detector on the validation data of a config.

    Args:
        config: such as the one that a run dumps to ``vis_data/config.py``.
        checkpoint: of the detector; not needed with ``results``.
        results: detections in COCO's format, of ``tools/test.py --out``. Default: run the detector.
        score_threshold: detections below it count neither in the confusion matrix nor by image.

    Raises:
        SettingError: if there is nothing to evaluate: no validation data in COCO's format, no checkpoint.
        CheckpointError: if the checkpoint is unreadable or of another config.
        CocoFileError: if annotations or results are unusable.
    """
    cfg = Config.fromfile(str(config))
    if cfg.get('val_dataloader') is None:
        raise SettingError('the config has no val_dataloader')
    if results is None and checkpoint is None:
        raise SettingError('there is no checkpoint')
    register_modules(cfg)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    if not getattr(dataset, 'ann_file', '') or not hasattr(dataset, 'cat_ids'):
        raise SettingError(f'the validation data, a {type(dataset).__name__}, have no COCO annotation file')
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    paths = {info['img_id']: info['img_path'] for info in infos}
    gt = _only_images(load_ground_truth(dataset.ann_file), paths)
    found = _detect(cfg, checkpoint, dataset.cat_ids) if results is None else load_results(results, gt)
    classes = list(dataset.metainfo['classes'])
    kinds = [kind for kind in kinds_of(found)[:None if found else 1] if kind == 'bbox' or _has_masks(gt)]
    return Evaluation(
        gt, found, [evaluate(gt, found, kind, classes=classes) for kind in kinds],
        confusion_matrix(gt, found, kinds[0], score_threshold, classes=classes),
        count_by_image(gt, found, kinds[0], score_threshold, classes=classes), paths, classes,
        own_palette(dataset.metainfo))


def _detect(cfg: Config, checkpoint: Optional[Union[str, Path]], category_ids: list[Any]) -> list[dict[str, Any]]:
    model = init_detector(cfg, checkpoint)
    loader = Runner.build_dataloader(cfg.val_dataloader)
    found: list[dict[str, Any]] = []
    with torch.no_grad():
        for batch in track(loader, 'evaluation', transient=True):
            found += [encode_prediction(sample.to_dict()) for sample in model.test_step(batch)]
    return coco_records(found, category_ids)


def _only_images(gt: COCO, kept: dict[Any, str]) -> COCO:
    """Leave out the images that the data set has left out."""
    if len(kept) == len(gt.imgs):
        return gt
    return as_coco(dict(gt.dataset, images=[item for item in gt.dataset['images'] if item['id'] in kept],
                        annotations=[item for item in gt.dataset['annotations'] if item['image_id'] in kept]))


def _has_masks(gt: COCO) -> bool:
    try:
        check_masks(gt.dataset, '')
    except CocoFileError:
        return False
    return True
