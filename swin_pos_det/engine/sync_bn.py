"""SyncBN without a GPU: PyTorch supports it on GPUs only."""
from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..type_names import type_name

_SYNCHRONISED = ('SyncBN', 'SyncBatchNorm', 'MMSyncBN', 'NaiveSyncBatchNorm')


def use_plain_batch_norm(cfg: Config) -> int:
    """Replace SyncBN by BN in the model of a config, in place.

    In several processes without GPUs SyncBN raises. BN has the same parameters under the same names, so checkpoints
    load in both directions; in training each process then has the statistics of its own images only.

    Args:
        cfg: a config with a ``model``.

    Returns:
        The number of replaced layers' settings.
    """
    replaced = 0
    for node in _dicts(cfg.model):
        if type_name(node) in _SYNCHRONISED:
            node['type'] = 'BN'
            replaced += 1
    if replaced:
        print_log('no GPU: SyncBN is plain BN, with the statistics of each process', logger='current')
    return replaced


def _dicts(node: Any) -> Iterator[MutableMapping]:
    if isinstance(node, MutableMapping):
        yield node
    children = node.values() if isinstance(node, MutableMapping) else node if isinstance(node, (list, tuple)) else ()
    for child in children:
        yield from _dicts(child)
