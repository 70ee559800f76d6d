"""Looking at a checkpoint before minutes are spent on building what it is for."""
from __future__ import annotations

import os
import os.path as osp

from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from ..checkpoints import CheckpointError, load_checkpoint_file

_DEEPSPEED_WEIGHTS = '_model_states.pt'


def check_checkpoint(path: str, to_resume: bool = False) -> None:
    """Looks at a local checkpoint before anything is built.

    Other places (``http://``) are left to the loader, and folders that a strategy wrote (DeepSpeed's, or FSDP's with
    a file per process) to the strategy.

    Raises:
        CheckpointError: if it cannot be loaded, or, with ``to_resume``, if it holds no training state.
    """
    if '://' in path or is_sharded(path):
        return
    checkpoint = load_checkpoint_file(path, map_location='cpu', mmap=True)
    lacking = [key for key in ('meta', 'state_dict', 'optimizer', 'message_hub') if key not in checkpoint]
    if to_resume and lacking:
        raise CheckpointError(f'checkpoint {path} cannot be resumed from: it has no {", ".join(lacking)}. To start a '
                              f'new training from its weights, use --cfg-options load_from={path}')


def is_sharded(path: str) -> bool:
    """Whether ``path`` is a folder with the parts of a checkpoint, as MMEngine's strategies write them."""
    names = os.listdir(path) if osp.isdir(path) else []
    return any(name == 'rank0.pth' or name.endswith(_DEEPSPEED_WEIGHTS) for name in names)


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


def check_auto_resume(work_dir: str) -> None:
    """Looks at the checkpoint that ``--resume`` without a name would pick up in ``work_dir``, if there is one.

    Raises:
        CheckpointError: if ``last_checkpoint`` in ``work_dir`` names a file that cannot be resumed from.
    """
    latest = find_latest_checkpoint(work_dir)
    if latest is None:
        print_log(f'nothing to resume in {work_dir}: starting from the beginning', logger='current')
        return
    if not osp.isfile(latest) and not is_sharded(latest):
        raise CheckpointError(f'{osp.join(work_dir, "last_checkpoint")} names {latest!r}, which does not exist; '
                              f'name one: --resume {osp.join(work_dir, "<checkpoint>.pth")}')
    check_checkpoint(latest, to_resume=True)
