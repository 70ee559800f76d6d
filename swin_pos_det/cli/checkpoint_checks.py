"""Checks of a checkpoint before anything is built, which takes minutes."""
from __future__ import annotations

import os
import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any, Dict, Optional

from ..checkpoints import CheckpointError, check_resumable, is_sharded, load_checkpoint_file

_DEEPSPEED_WEIGHTS = '_model_states.pt'


def check_checkpoint(path: str, to_resume: bool = False) -> Dict[str, Any]:
    """Check a local checkpoint before anything is built.

    Other places (``http://``) are left to the loader, and folders that a strategy wrote (DeepSpeed's, or FSDP's with
    a file per process) to the strategy.

    Returns:
        Its ``meta``, for :func:`classes_of` and others; an empty one if it has none or is left to others.

    Raises:
        CheckpointError: if it does not load, or, with ``to_resume``, if it holds no whole training state.
    """
    if not isinstance(path, str):
        raise CheckpointError(f'{path!r} is not the path of a checkpoint; --cfg-options splits a value at commas, so '
                              'rename a file with a comma in its name')
    if '://' in path or is_sharded(path):
        return {}
    if to_resume:
        return check_resumable(path)
    meta = load_checkpoint_file(path, map_location='cpu', mmap=True).get('meta')
    return meta if isinstance(meta, dict) else {}


def classes_of(meta: Mapping[str, Any]) -> Optional[Sequence[str]]:
    """Return the classes that a checkpoint was trained on, in the order of their labels; None if they are unknown.

    Args:
        meta: of the checkpoint; mmdet 2 wrote ``CLASSES`` into it, mmdet 3 a ``dataset_meta``.
    """
    named = meta.get('dataset_meta')
    found = [named.get('classes'), named.get('CLASSES')] if isinstance(named, Mapping) else []
    return next((names for names in (*found, meta.get('CLASSES')) if isinstance(names, (list, tuple)) and names
                 and all(isinstance(name, str) for name in names)), None)


def check_evaluable(path: str) -> None:
    """Check a checkpoint before an evaluation: DeepSpeed's strategy can load its folders in a training only.

    Raises:
        CheckpointError: if it is such a folder, with the command that makes one file of it.
    """
    if osp.isdir(path) and any(name.endswith(_DEEPSPEED_WEIGHTS) for name in os.listdir(path)):
        work_dir, tag = osp.split(osp.abspath(path))
        raise CheckpointError(f"checkpoint {path} is a DeepSpeed folder. Make one file of weights and evaluate "
                              f'that: python {osp.join(work_dir, "zero_to_fp32.py")} {work_dir} OUT --tag {tag} '
                              '(needs huggingface_hub)')
