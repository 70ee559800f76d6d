"""Check settings that must fit each other, before they cause a shape error or an index out of bounds elsewhere."""
from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmdet.models.necks import FPN
from mmdet.registry import DATASETS, MODELS, OPTIMIZERS
from mmengine.config import Config

from ..data import DigitsOnPhotosDataset
from ..errors import SettingError
from ..models import SwinPosTransformer
from ..type_names import resolve_type
from .data_checks import coco_datasets
from .errors import closest

# The variables that a launcher sets for its processes, and the command that starts them.
_LAUNCHED = {
    'pytorch': (('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'), 'bash tools/dist_train.sh CONFIG GPUS'),
    'slurm': (('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'), 'bash tools/slurm_train.sh'),
    'mpi': (('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE', 'MASTER_ADDR'),
            'MASTER_ADDR=127.0.0.1 mpirun -n GPUS python tools/train.py CONFIG --launcher mpi'),
}


def check_launcher(launcher: str) -> None:
    """Check that the launcher named on the command line has started this process.

    Raises:
        SettingError: if its environment variables are missing, with the command that sets them.
    """
    variables, command = _LAUNCHED.get(launcher, ((), ''))
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise SettingError(f'--launcher {launcher} is for processes that it has started, and {missing[0]} is not set; '
                           f'start a training with: {command}. Without --launcher one process runs')


def check_optimizer(cfg: Config) -> None:
    """Check that the optimizer is registered.

    Raises:
        SettingError: if it is not; MMEngine would report ``None is not a callable object``.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    name = optimizer.get('type')
    if isinstance(name, str) and resolve_type(OPTIMIZERS, optimizer) is None:
        known = [*OPTIMIZERS.module_dict, *OPTIMIZERS.parent.module_dict]
        raise SettingError(f'there is no optimizer called {name!r}{closest(name, known)}')


def check_num_classes(cfg: Config, needed_for: Iterable[str]) -> None:
    """Check that box and mask heads have as many classes as the data sets in COCO's format.

    Models with a ``language_model``, where the number is a length of text, and class-agnostic heads are
    not checked.

    Args:
        cfg: an MMDetection config.
        needed_for: any of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        SettingError: if one has another number. With too few, a GPU would stop in an assertion of a kernel; with too
            many, the first evaluation would look up classes that do not exist.
    """
    model = cfg.get('model') or {}
    heads = [] if 'language_model' in model else list(_heads(model))
    for part in needed_for:
        for path, classes in _classified(cfg.get(f'{part}_dataloader')):
            for where, number in heads:
                if classes and number != len(classes):
                    raise SettingError(f'{where}.num_classes is {number}, but the data set of {path} has {len(classes)}'
                                       f' classes ({_few(classes)}): set it to {len(classes)}, or the metainfo of the '
                                       'data set to the classes that are meant')


def _classified(loader: Any) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield (annotation file, classes) of each data set in COCO's format, the one that makes itself included."""
    yield from coco_datasets(loader)
    for settings in _nodes(loader):
        kind = resolve_type(DATASETS, settings)
        if isinstance(kind, type) and issubclass(kind, DigitsOnPhotosDataset):
            classes = kind._load_metainfo(settings.get('metainfo') or {})['classes']
            yield settings.get('ann_file') or kind.__name__, () if isinstance(classes, str) else classes


def check_necks(cfg: Config) -> None:
    """Check that an FPN, of any kind, has the input channels that a backbone of this package outputs.

    Raises:
        SettingError: if the channels differ.
    """
    for settings in _nodes(cfg.get('model')):
        backbone, neck = settings.get('backbone'), settings.get('neck')
        neck = neck[0] if isinstance(neck, Sequence) and neck else neck
        if not (isinstance(backbone, Mapping) and isinstance(neck, Mapping)
                and isinstance(neck.get('in_channels'), Sequence)):
            continue
        kinds = [resolve_type(MODELS, part) for part in (backbone, neck)]
        if not all(isinstance(kind, type) and issubclass(kind, base)
                   for kind, base in zip(kinds, (SwinPosTransformer, FPN))):
            continue
        dims, out_indices = (backbone.get(name, _default(kinds[0], name)) for name in ('embed_dims', 'out_indices'))
        given = [dims * 2**stage for stage in sorted(out_indices)]
        if list(neck['in_channels']) != given:
            raise SettingError(f'model.neck.in_channels is {list(neck["in_channels"])}, but a backbone with embed_dims='
                               f'{dims} and out_indices={tuple(out_indices)} gives {given}')


def _nodes(node: Any) -> Iterator[Mapping]:
    """Yield every dict at and below a part of a config."""
    if isinstance(node, Mapping):
        yield node
    for value in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _nodes(value)


def _default(kind: type, name: str) -> Any:
    """Return the default of a constructor's argument, which a subclass may pass on in ``**kwargs``."""
    return next(inspect.signature(base).parameters[name].default for base in kind.__mro__
                if name in inspect.signature(base).parameters)


def _heads(node: Any, where: str = 'model') -> Iterator[tuple[str, int]]:
    """Yield (path, num_classes) of each box and mask head below a model's config."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        path = f'{where}.{key}'
        if key in ('bbox_head', 'mask_head'):
            for head in value if isinstance(value, list) else [value]:
                if (isinstance(head, Mapping) and isinstance(head.get('num_classes'), int)
                        and not head.get('class_agnostic')):
                    yield path, head['num_classes']
        elif isinstance(value, (Mapping, list)):
            yield from _heads(value, path)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
