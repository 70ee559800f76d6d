"""Over-fitting a few images: the cheapest proof that data, model, losses and evaluation work together."""
from __future__ import annotations

import json
import os.path as osp

from mmengine.config import Config

from ...checkpoints import write_json
from ...errors import SettingError


def write_subset(annotations: str, out: str, num_images: int) -> int:
    """Write the annotations of the first images, by id, that have an object.

    Args:
        annotations: a COCO annotation file.
        out: the file to write.
        num_images: how many images, at least 1.

    Returns:
        The number of their annotations.

    Raises:
        ValueError: if there are fewer such images.
    """
    with open(annotations, encoding='utf-8') as file:
        coco = json.load(file)
    with_objects = sorted({a['image_id'] for a in coco['annotations'] if not a['iscrowd']})
    if not 1 <= num_images <= len(with_objects):
        raise SettingError(f'{annotations} has {len(with_objects)} images with objects; asked for {num_images}')
    chosen = set(with_objects[:num_images])
    coco['images'] = [image for image in coco['images'] if image['id'] in chosen]
    coco['annotations'] = [a for a in coco['annotations'] if a['image_id'] in chosen]
    write_json(coco, out)
    return len(coco['annotations'])


def use_subset(cfg: Config, ann_file: str) -> None:
    """Point training and evaluation of a config at one annotation file, in place.

    Args:
        cfg: a config whose training set is a ``RepeatDataset`` of a COCO data set.
        ann_file: a file of :func:`write_subset`.
    """
    ann_file = osp.abspath(ann_file)
    for dataset in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        dataset.ann_file = ann_file
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = ann_file
