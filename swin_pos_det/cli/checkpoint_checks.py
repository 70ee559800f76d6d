"""Looking at a checkpoint before minutes are spent on building what it is for."""
from __future__ import annotations

import os
import os.path as osp

from ..checkpoints import CheckpointError, check_resumable, is_sharded, load_checkpoint_file

_DEEPSPEED_WEIGHTS = '_model_states.pt'


def check_checkpoint(path: str, to_resume: bool = False) -> None:
    """Looks at a local checkpoint before anything is built.

    Other places (``http://``) are left to the loader, and folders that a strategy wrote (DeepSpeed's, or FSDP's with
    a file per process) to the strategy.

    Raises:
        CheckpointError: if it cannot be loaded, or, with ``to_resume``, if it holds no whole training state.
    """
    if not isinstance(path, str):
        raise CheckpointError(f'{path!r} is not the path of a checkpoint; --cfg-options splits a value at commas, so '
                              'rename a file with a comma in its name')
    if '://' in path or is_sharded(path):
        return
    if to_resume:
        check_resumable(path)
    else:
        load_checkpoint_file(path, map_location='cpu', mmap=True)


def check_evaluable(path: str) -> None:
    """Looks at a checkpoint that is to be evaluated: DeepSpeed's strategy can load its folders in a training only.

    Raises:
        CheckpointError: if it is such a folder, with the command that makes one file of it.
    """
    if osp.isdir(path) and any(name.endswith(_DEEPSPEED_WEIGHTS) for name in os.listdir(path)):
        work_dir, tag = osp.split(osp.abspath(path))
        raise CheckpointError(f"checkpoint {path} is a folder of DeepSpeed's. Make one file of weights and evaluate "
                              f'that: python {osp.join(work_dir, "zero_to_fp32.py")} {work_dir} OUT --tag {tag} '
                              '(needs huggingface_hub)')
