"""Write the config that fine-tunes a detector on data of one's own."""
from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

import swin_pos_det

from ..checkpoints import load_checkpoint_file
from ..errors import MissingFileError, SettingError
from ..type_names import type_name

# Iterations of a training, if the number of epochs is not given, and the limits of that number.
_ITERATIONS, _MIN_EPOCHS, _MAX_EPOCHS = 3000, 12, 100
_WARM_UP = 500
_WIDTH = 119
# Pictures of each evaluation.
_PICTURES = 4
# Hooks that replace pipelines, which are not the base's here.
_SWITCHES = ('PipelineSwitchHook', 'YOLOXModeSwitchHook')
# Parts of a model without classes of their own.
_WITHOUT_CLASSES = ('backbone', 'data_preprocessor', 'neck', 'test_cfg', 'train_cfg')
_HEADS = ('bbox_head.', 'mask_head.', 'neck.', 'roi_head.', 'rpn_head.')


@dataclass(frozen=True)
class DataFiles:
    """A part of the data: annotation file, folder of the images, both absolute, and the number of images."""
    annotations: Path
    images: Path
    number: int


@dataclass(frozen=True)
class Choices:
    """Contents of the config to write.

    Attributes:
        base: name or path of the config to build on.
        data: the source, for a comment.
        parts: ``train`` and ``val``.
        classes: names.
        masks: whether masks are learned.
        size: long and short side of the images in pixels, and why.
        anchor_scale: and why; None leaves the config's.
        epochs: None chooses.
        batch_size: for each GPU.
        weights: file or URL, or None.
        work_dir: of the training.
    """
    base: str
    data: Path
    parts: Mapping[str, DataFiles]
    classes: Sequence[str]
    masks: bool
    size: tuple[tuple[int, int], str]
    anchor_scale: Optional[tuple[float, str]]
    epochs: Optional[int]
    batch_size: int
    weights: Optional[str]
    work_dir: Path


def find_config(name: str) -> str:
    """Return the path of a config: a file, or the name of one of this package's; ``package::path`` stays.

    Raises:
        MissingFileError: if there is none.
    """
    if '::' in name:
        return name
    if Path(name).is_file():
        return str(Path(name).absolute())
    package = Path(swin_pos_det.__file__).parent
    homes = [package.parent / 'configs', package / '.mim/configs']
    found = [file for home in homes for file in sorted(home.glob(f'*/{Path(name).stem}.py'))]
    if not found:
        raise MissingFileError(f'there is no config {name}: --config takes a file, or a name of configs/swin_pos such '
                               'as faster-rcnn_swin-pos-t-p4-w7_fpn_1x_coco')
    return str(found[0])


def read_base(name: str) -> Config:
    """Read the config to build on.

    Raises:
        MissingFileError: if there is none.
        SettingError: if it is unreadable.
    """
    path = find_config(name)
    try:
        return Config.fromstring(f'_base_ = {path!r}\n', '.py')
    except Exception as error:
        raise SettingError(f'cannot build on the config {name}: {type(error).__name__}: {error}') from error


def base_size(cfg: Config) -> tuple[int, int]:
    """Return long and short side to which a config resizes images for the evaluation, in pixels.

    Raises:
        SettingError: if its pipeline has no ``Resize`` with a scale.
    """
    dataset = cfg.val_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    for step in dataset.pipeline:
        if str(step.type).endswith('Resize') and step.get('scale') is not None:
            return max(step.scale), min(step.scale)
    raise SettingError('the pipeline of val_dataloader has no Resize with a scale: choose another --config')


def predicts_masks(cfg: Config) -> bool:
    """Return whether the detector of a config has a mask head."""
    return any(holder.get('mask_head') is not None for holder in (cfg.model, cfg.model.get('roi_head') or {}))


def write_text(cfg: Config, choices: Choices) -> str:
    """Return the text of a config, as a difference from its base.

    Args:
        cfg: the base, as read.
        choices: for the new one.

    Raises:
        SettingError: if no head of the model has ``num_classes``.
        MissingFileError: if the weights are not there.
    """
    train, val = choices.parts['train'], choices.parts['val']
    per_epoch = math.ceil(train.number / choices.batch_size)
    epochs = choices.epochs or min(max(round(_ITERATIONS / per_epoch), _MIN_EPOCHS), _MAX_EPOCHS)
    followed = f'coco/{"segm" if choices.masks else "bbox"}_mAP'
    size, size_why = choices.size
    model = _class_settings(cfg.model, len(choices.classes))
    if not model:
        raise SettingError(f'no head of {choices.base} has num_classes, which your classes need: choose another '
                           '--config')
    lines = [f'# Written by tools/finetune.py for {choices.data}. tools/train.py and tools/test.py take it as it is.',
             f'_base_ = {find_config(choices.base)!r}', '']
    if choices.anchor_scale is not None:
        scale, why = choices.anchor_scale
        model.setdefault('rpn_head', {})['anchor_generator'] = dict(scales=[scale])
        lines.append(_comment(f'{why[0].upper()}{why[1:]}.'))
    weights = _weights(choices.weights)
    if 'init_cfg' in weights:
        replaced = dict(_delete_=True) if 'init_cfg' in cfg.model.backbone else {}
        model['backbone'] = dict(init_cfg={**replaced, **weights.pop('init_cfg')})
    lines += [_text(model=model), *([_text(**weights)] if weights else []),
              _comment(f'Images of {size[0]} x {size[1]} px: {size_why}.'),
              _data_text(choices, size),
              f'# {epochs} epochs of {per_epoch} iterations on one GPU.',
              _schedule_text(cfg, epochs, per_epoch)]
    lines += ['# The best checkpoint is kept, and a training that no longer gains stops.',
              _text(default_hooks=_hooks(followed, val.number)) + _early_stopping(cfg, followed, epochs),
              _text(work_dir=str(choices.work_dir))]
    return '\n'.join(lines).rstrip('\n') + '\n'


def _comment(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent='# ', subsequent_indent='# ')


def _text(**settings: Any) -> str:
    return ''.join(f'{name} = {_literal(value, 0, len(name) + 3)}\n' for name, value in settings.items())


def _literal(value: Any, indent: int, used: int) -> str:
    """Return Python source of a setting, in as few lines as fit.

    Args:
        value: dicts, lists, tuples and what ``repr`` writes.
        indent: of its line.
        used: characters of the line before it, indent included.
    """
    if isinstance(value, Mapping):
        opened, closed = 'dict(', ')'
        items = [(f'{key}=', item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        opened, closed = '[]' if isinstance(value, list) else '()'
        items = [('', item) for item in value]
        closed = f',{closed}' if isinstance(value, tuple) and len(value) == 1 else closed
    else:
        return repr(value)
    inner = indent + 4
    texts = [name + _literal(item, inner, inner + len(name)) for name, item in items]
    joined = f'{opened}{", ".join(texts)}{closed}'
    if '\n' not in joined and used + len(joined) < _WIDTH:
        return joined
    lines = f',\n{" " * inner}'.join(texts)
    return f'{opened}\n{" " * inner}{lines}{closed}'


def _class_settings(node: Any, number: int) -> dict[str, Any]:
    """Return the difference that sets ``num_classes`` wherever a part of a model has it."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == 'num_classes':
            found[key] = number
        elif key in _WITHOUT_CLASSES:
            continue
        elif isinstance(value, Mapping) and _class_settings(value, number):
            found[key] = _class_settings(value, number)
        elif isinstance(value, (list, tuple)):
            # A list of heads: a config replaces it as a whole.
            changes = [_class_settings(item, number) if isinstance(item, Mapping) else {} for item in value]
            if any(changes):
                found[key] = [_merged(item, change) for item, change in zip(value, changes)]
    return found


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, **{key: _merged(settings[key], value) if isinstance(value, Mapping) else value
                           for key, value in changes.items()}}


def check_weights(weights: Optional[str]) -> None:
    """Check that a file of weights is there.

    Raises:
        MissingFileError: if it is not.
    """
    if weights is not None and '://' not in weights and not Path(weights).is_file():
        raise MissingFileError(f'there is no file {weights} for --weights')


def _weights(weights: Optional[str]) -> dict[str, Any]:
    """Return ``load_from`` for a detector's weights, or the backbone's ``init_cfg`` for those of a classifier."""
    if weights is None:
        return {}
    if '://' in weights:
        return dict(load_from=weights)
    path = Path(weights)
    content = load_checkpoint_file(str(path))
    state = next((content[key] for key in ('state_dict', 'model') if isinstance(content.get(key), Mapping)), content)
    if any(str(key).startswith(_HEADS) for key in state):
        return dict(load_from=str(path.absolute()))
    return dict(init_cfg=dict(type='Pretrained', checkpoint=str(path.absolute())))


def _data_text(choices: Choices, size: tuple[int, int]) -> str:
    load = dict(type='LoadImageFromFile', backend_args=None)
    annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=choices.masks)
    long, short = size
    scales = [(long, side) for side in range(short * 5 // 8 // 32 * 32 or 32, short + 1, 32)]
    train_pipeline = [
        load, annotations, dict(type='RandomChoiceResize', scales=scales, keep_ratio=True),
        dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    test_pipeline = [
        load, dict(type='Resize', scale=size, keep_ratio=True), annotations,
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
    metainfo = dict(classes=tuple(choices.classes))

    def loader(part: str, pipeline: list, **settings: Any) -> dict[str, Any]:
        files = choices.parts[part]
        dataset = dict(type='CocoDataset', metainfo=metainfo, ann_file=str(files.annotations),
                       data_prefix=dict(img=str(files.images)), pipeline=pipeline, **settings.pop('dataset'))
        return dict(_delete_=True, num_workers=2, persistent_workers=True, **settings, dataset=dataset)

    evaluator = dict(_delete_=True, type='CocoMetric', ann_file=str(choices.parts['val'].annotations),
                     metric=['bbox', 'segm'] if choices.masks else 'bbox')
    train = loader('train', train_pipeline, batch_size=choices.batch_size,
                   sampler=dict(type='DefaultSampler', shuffle=True),
                   batch_sampler=dict(type='AspectRatioBatchSampler'),
                   dataset=dict(filter_cfg=dict(filter_empty_gt=True, min_size=1)))
    val = loader('val', test_pipeline, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False),
                 dataset=dict(test_mode=True))
    return (_text(train_dataloader=train) + _text(val_dataloader=val) + 'test_dataloader = val_dataloader\n'
            + _text(val_evaluator=evaluator) + 'test_evaluator = val_evaluator\n')


def _schedule_text(cfg: Config, epochs: int, per_epoch: int) -> str:
    milestones = sorted({epoch for epoch in (round(epochs * 2 / 3), round(epochs * 11 / 12)) if 0 < epoch < epochs})
    warm_up = max(1, min(_WARM_UP, epochs * per_epoch // 10))
    text = _text(
        train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warm_up),
            dict(type='MultiStepLR', begin=0, end=epochs, by_epoch=True, milestones=milestones, gamma=0.1)])
    if (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        text += ('# The learning rate is scaled with the number of images in a step, from that of '
                 f'{cfg.auto_scale_lr.base_batch_size}.\n' + _text(auto_scale_lr=dict(enable=True)))
    return text


def _hooks(followed: str, images: int) -> dict[str, Any]:
    return dict(
        logger=dict(interval=10),
        checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=1, save_best=followed, rule='greater',
                        max_keep_ckpts=1),
        visualization=dict(type='DetVisualizationHook', draw=True, interval=max(1, images // _PICTURES)))


def _early_stopping(cfg: Config, followed: str, epochs: int) -> str:
    hook = _literal(dict(type='EarlyStoppingHook', monitor=followed, rule='greater', patience=max(5, epochs // 4),
                         min_delta=0.002), 4, 4)
    given = cfg.get('custom_hooks') or []
    kept = [one for one in given if type_name(one) not in _SWITCHES]
    inherited = ['*_base_.custom_hooks'] if kept and len(kept) == len(given) else [_literal(one, 4, 4) for one in kept]
    items = ',\n    '.join([*inherited, hook])
    return f'custom_hooks = [\n    {items}\n]\n'
