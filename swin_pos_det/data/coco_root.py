"""Pointing MMDetection's COCO configs at the COCO folder, and checking that it exists.

MMDetection's configs look for COCO in ``data/coco/`` under the current directory. With the environment variable
``COCO_ROOT`` set, the same configs use that folder instead, without being edited.
"""
from __future__ import annotations

import os
import os.path as osp
from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence
from typing import TYPE_CHECKING, Any, Optional

from ..errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

ENV = 'COCO_ROOT'
DEFAULT_ROOT = 'data/coco/'
LAYOUT = ('annotations/instances_train2017.json', 'annotations/instances_val2017.json', 'train2017/', 'val2017/')

# The parts of a config that read data, by purpose.
SECTIONS = {
    'train': ('train_dataloader', ),
    'val': ('val_dataloader', 'val_evaluator'),
    'test': ('test_dataloader', 'test_evaluator'),
}


class CocoRootError(UserError, FileNotFoundError):
    """The COCO folder, or a part of it, is missing; the message says how to set it and what it must hold."""


def apply_coco_root(cfg: Config, root: Optional[str] = None) -> None:
    """Replace mmdet's default root ``data/coco/`` in every dataset and metric of a config, in place.

    It reaches nested datasets (``RepeatDataset``, ``ConcatDataset``, ...) and lists of metrics. Paths that do not start
    with ``data/coco`` are left alone, so other data sets, and COCO paths set explicitly, stay as they are.

    Args:
        cfg: an MMDetection config.
        root: the COCO folder. Default: the environment variable ``COCO_ROOT``; without that, nothing changes.
    """
    root = root or os.environ.get(ENV)
    if not root:
        return
    root = osp.join(osp.abspath(osp.expanduser(root)), '')
    for section in sum(SECTIONS.values(), ()):
        for holder, key in _paths_in(cfg.get(section)):
            holder[key] = root + _below_default_root(holder[key])
    if isinstance(cfg.get('data_root'), str) and _below_default_root(cfg['data_root']) is not None:
        cfg['data_root'] = root


def check_coco_root(cfg: Config, needed_for: Iterable[str] = ('train', 'val')) -> None:
    """Check that the COCO files named in a config exist. Does nothing for a config without COCO.

    These are paths under ``data/coco/``, or under ``COCO_ROOT`` after :func:`apply_coco_root`.

    Args:
        cfg: an MMDetection config.
        needed_for: any of ``'train'``, ``'val'``, ``'test'``: the data loaders and metrics that must find their files.

    Raises:
        CocoRootError: if the folder or one of the files is missing.
    """
    roots = [osp.abspath(DEFAULT_ROOT)]
    if os.environ.get(ENV):
        roots.insert(0, osp.abspath(osp.expanduser(os.environ[ENV])))
    wanted = [osp.abspath(path) for part in needed_for for section in SECTIONS[part]
              for path in _files_of(cfg.get(section))]
    for root in roots:
        ours = [path for path in wanted if path == root or path.startswith(root + os.sep)]
        if not ours:
            continue
        if not osp.isdir(root):
            raise CocoRootError(_message(f'the COCO folder {root} does not exist'))
        missing = sorted({osp.relpath(path, root) for path in ours if not osp.exists(path)})
        if missing:
            raise CocoRootError(_message(f'the COCO folder {root} lacks {", ".join(missing)}'))


def _message(problem: str) -> str:
    now = f'now {os.environ[ENV]}' if os.environ.get(ENV) else f'not set, so {DEFAULT_ROOT} is used'
    return (f'{problem}. Set the environment variable {ENV} ({now}) to the folder that holds '
            f'{", ".join(LAYOUT)}')


def _below_default_root(path: str) -> Optional[str]:
    """Return the rest of a path that starts with ``data/coco``, without a leading slash; None for any other path."""
    rest = path[2:] if path.startswith('./') else path
    folder = DEFAULT_ROOT.rstrip('/')
    if rest == folder:
        return ''
    return rest[len(folder) + 1:] if rest.startswith(folder + '/') else None


def _paths_in(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of each string below ``node`` that starts with the default root."""
    if isinstance(node, MutableMapping):
        items = list(node.items())
    elif isinstance(node, MutableSequence):
        items = list(enumerate(node))
    else:
        return
    for key, value in items:
        if isinstance(value, str):
            if _below_default_root(value) is not None:
                yield node, key
        else:
            yield from _paths_in(value)


def _files_of(node: Any) -> Iterator[str]:
    """Yield the annotation files and image folders that datasets and metrics below ``node`` name."""
    if isinstance(node, MutableSequence):
        for item in node:
            yield from _files_of(item)
    elif isinstance(node, MutableMapping):
        root = node.get('data_root') or ''
        prefix = node.get('data_prefix')
        names = [node.get('ann_file'), *(prefix.values() if isinstance(prefix, MutableMapping) else [])]
        for name in names:
            if isinstance(name, str) and name:
                yield osp.join(root, name)
        for key, value in node.items():
            if key not in ('pipeline', 'data_prefix'):
                yield from _files_of(value)
