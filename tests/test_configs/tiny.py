"""A config as it is, but on a few small images and with a quarter of the backbone's channels."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

from mmengine.config import Config

from swin_pos_det.data.coco_root import apply_coco_root
from swin_pos_det.engine.amp import use_mixed_precision

ITERATIONS = 2
_SIZES = ('scale', 'scales', 'crop_size', 'size')


def tiny(cfg: Config, coco: Path, digits: Path, work_dir: Path) -> Config:
    """Reduce ``cfg`` to two iterations of training and one evaluation that take seconds; return it.

    Kept are the detector, its losses, the optimizer, the schedule's kind, pipelines and the evaluator. No weights are
    downloaded and no checkpoint is written.
    """
    _shrink_sizes(cfg._cfg_dict, 8 if 'CocoDataset' in str(cfg.val_dataloader.dataset.type) else 2)
    shrink_model(cfg.model)
    _few_images(cfg, digits)
    epochs = cfg.train_cfg.get('max_epochs') is not None
    cfg.train_cfg.update(dict(max_epochs=1, val_interval=1) if epochs else dict(
        max_iters=ITERATIONS, val_interval=ITERATIONS, dynamic_intervals=None))
    cfg.default_hooks.update(checkpoint=None, logger=dict(type='LoggerHook', interval=1))
    cfg.work_dir = str(work_dir)
    cfg.visualizer.name = work_dir.name
    cfg.launcher = 'none'
    cfg.load_from = None
    apply_coco_root(cfg, str(coco))
    use_mixed_precision(cfg, requested=False)
    return cfg


def _walk(node: Any) -> Iterator[dict]:
    """Yield every dict below ``node``, itself included."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from _walk(child)


def _shrink_sizes(cfg: dict, factor: int) -> None:
    def smaller(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(smaller(item) for item in value)
        return value // factor

    for node in _walk({key: cfg[key] for key in ('train_dataloader', 'val_dataloader', 'model')}):
        if node.get('type') in ('Resize', 'RandomResize', 'RandomChoiceResize', 'RandomCrop', 'BatchFixedSizePad'):
            node.update({key: smaller(node[key]) for key in _SIZES if key in node})
    preprocessor = cfg['model']['data_preprocessor']
    preprocessor['pad_size_divisor'] = min(preprocessor['pad_size_divisor'], 128)


def shrink_model(model: dict) -> None:
    """Give a detector a quarter of its backbone's channels, and little else; its weights are not loaded."""
    backbone = model['backbone']
    backbone['init_cfg'] = None
    if 'Swin' in backbone['type'] and backbone.get('embed_dims', 96) >= 96:
        backbone['embed_dims'] = backbone.get('embed_dims', 96) // 4
        for part in (model.get('neck'), model.get('panoptic_head')):
            if part is not None:
                part['in_channels'] = [channels // 4 for channels in part['in_channels']]
    for node in _walk(model):
        if 'fc_out_channels' in node:
            node['fc_out_channels'] = 64
        if node.get('type') == 'RandomSampler':
            node['num'] = 16
        # Every box counts as a detection, so that there is something to evaluate.
        few = dict(score_thr=0., nms_pre=200, max_per_img=20, max_per_image=20)
        node.update({key: value for key, value in few.items() if key in node})


def _few_images(cfg: Config, digits: Path) -> None:
    loaders = [(cfg.train_dataloader, 4), (cfg.val_dataloader, 2)]
    for loader, images in loaders:
        loader.update(batch_size=2 if loader is cfg.train_dataloader else 1, num_workers=0, persistent_workers=False)
        dataset, times = loader.dataset, 1
        while 'dataset' in dataset:
            times = dataset.times = 2
            dataset = dataset.dataset
        dataset.indices = images // times
        if dataset.type == 'DigitsOnPhotosDataset':
            dataset.update(data_root=str(digits), num_train=8, num_val=2, seed=0)
