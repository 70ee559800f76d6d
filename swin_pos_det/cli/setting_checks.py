"""Settings of a config that fit nothing, found before they are a shape error or an index out of bounds far away."""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from mmdet.models.necks import FPN
from mmdet.registry import OPTIMIZERS
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from torch import nn

from ..models import SwinPosTransformer
from .data_checks import coco_datasets
from .errors import UserError, closest

# What a launcher tells its processes, and how the processes are started with it.
_LAUNCHED = {
    'pytorch': (('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'), 'bash tools/dist_train.sh CONFIG GPUS'),
    'slurm': (('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'), 'bash tools/slurm_train.sh'),
    'mpi': (('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE', 'MASTER_ADDR'),
            'MASTER_ADDR=127.0.0.1 mpirun -n GPUS python tools/train.py CONFIG --launcher mpi'),
}


def check_launcher(launcher: str) -> None:
    """Checks that the launcher which the command line names has started this process.

    Raises:
        UserError: if its environment variables are missing, with the command that sets them.
    """
    variables, command = _LAUNCHED.get(launcher, ((), ''))
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise UserError(f'--launcher {launcher} is for processes that it has started, and {missing[0]} is not set; '
                        f'start a training with: {command}. Without --launcher one process runs')


def check_optimizer(cfg: Config) -> None:
    """Checks that the optimizer is one that is known.

    Raises:
        UserError: if it is not; MMEngine would say ``None is not a callable object``.
    """
    name = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('type')
    if isinstance(name, str) and cfg.get('default_scope', 'mmdet') == 'mmdet' and OPTIMIZERS.get(name) is None:
        known = [*OPTIMIZERS.module_dict, *OPTIMIZERS.parent.module_dict]
        raise UserError(f'there is no optimizer called {name!r}{closest(name, known)}')


def check_num_classes(cfg: Config, needed_for: Iterable[str]) -> None:
    """Checks that box and mask heads have as many classes as the data sets in COCO's format.

    Heads other than those of a ``roi_head`` may have more: with some, such as Grounding DINO's, it is a length of text.
    Models with a ``language_model`` and heads that are agnostic of classes are left alone.

    Args:
        cfg: an MMDetection config.
        needed_for: any of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        UserError: if one has not; on a GPU that would be an assertion in a kernel.
    """
    model = cfg.get('model') or {}
    heads = [] if 'language_model' in model else list(_heads(model))
    for part in needed_for:
        for path, classes in coco_datasets(cfg.get(f'{part}_dataloader')):
            for where, number in heads:
                if classes and (number < len(classes) or number > len(classes) and '.roi_head.' in where):
                    raise UserError(f'{where}.num_classes is {number}, but the data set of {path} has {len(classes)} '
                                    f'classes ({_few(classes)}): set it to {len(classes)}, or the metainfo of the data '
                                    'set to the classes that are meant')


def check_neck(model: nn.Module) -> None:
    """Checks that an FPN, of any kind, takes what a backbone of this package gives it.

    Raises:
        UserError: if the channels are others.
    """
    model = model.module if is_model_wrapper(model) else model
    backbone, neck = getattr(model, 'backbone', None), getattr(model, 'neck', None)
    if isinstance(backbone, SwinPosTransformer) and isinstance(neck, FPN):
        given = [backbone.num_features[stage] for stage in sorted(backbone.out_indices)]
        if list(neck.in_channels) != given:
            raise UserError(f'model.neck.in_channels is {list(neck.in_channels)}, but a backbone with embed_dims='
                            f'{backbone.num_features[0]} and out_indices={tuple(backbone.out_indices)} gives {given}')


def _heads(node: Any, where: str = 'model') -> Iterator[tuple[str, int]]:
    """(path, num_classes) of each box and mask head below a model's config."""
    items = node.items() if isinstance(node, MutableMapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        path = f'{where}.{key}'
        if key in ('bbox_head', 'mask_head'):
            for head in value if isinstance(value, list) else [value]:
                if (isinstance(head, MutableMapping) and isinstance(head.get('num_classes'), int)
                        and not head.get('class_agnostic')):
                    yield path, head['num_classes']
        elif isinstance(value, (MutableMapping, list)):
            yield from _heads(value, path)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
