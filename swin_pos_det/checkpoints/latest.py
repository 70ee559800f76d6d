"""Finding the checkpoint that a training resumes from, and checking it."""
from __future__ import annotations

import os
import os.path as osp
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from .io import CheckpointError, load_checkpoint_file

POINTER = 'last_checkpoint'  # the file of a work dir in which MMEngine notes the name
_NEEDED = ('meta', 'state_dict', 'optimizer', 'message_hub')


def is_sharded(path: str) -> bool:
    """Return whether ``path`` is a folder with the parts of a checkpoint, as MMEngine's strategies write them."""
    names = os.listdir(path) if osp.isdir(path) else []
    return any(name == 'rank0.pth' or name.endswith('_model_states.pt') for name in names)


def find_resumable(work_dir: str) -> Optional[str]:
    """Return the checkpoint that ``last_checkpoint`` names or, if there is no such file, the newest whole one.

    A process that is killed between saving a checkpoint and noting its name leaves no note, or a note with the name of
    a removed one; a moved work dir has notes with the old path.

    Raises:
        CheckpointError: if the named checkpoint exists and is unfit for resuming, or if it is missing and there
            is no other.
    """
    pointer = Path(work_dir, POINTER)
    named = pointer.read_text(encoding='utf-8', errors='replace').strip() if pointer.is_file() else ''
    if named and osp.exists(named):
        check_resumable(named)
        return named
    for path in _candidates(work_dir, named):
        try:
            check_resumable(path)
        except CheckpointError:
            continue
        return path
    if named:
        raise CheckpointError(f'{pointer} names {named!r}, which does not exist, and no checkpoint in {work_dir} can '
                              f'be resumed from; name one: --resume {osp.join(work_dir, "<checkpoint>.pth")}')
    return None


def check_resumable(path: str) -> Dict[str, Any]:
    """Check that a local checkpoint holds a whole training state; folders of strategies pass.

    Returns:
        Its ``meta``; an empty one for a folder.

    Raises:
        CheckpointError: if it does not load, lacks a part, or has a part of another type than MMEngine saves.
    """
    if is_sharded(path):
        return {}
    checkpoint = load_checkpoint_file(path, map_location='cpu', mmap=True)
    instead = f'To start a new training from its weights, use --cfg-options load_from={path}'
    lacking = [key for key in _NEEDED if key not in checkpoint]
    if lacking:
        raise CheckpointError(f'cannot resume from checkpoint {path}: it has no {", ".join(lacking)}. {instead}')
    malformed = list(_malformed(checkpoint))
    if malformed:
        raise CheckpointError(f'cannot resume from checkpoint {path}: {malformed[0]}. {instead}')
    return checkpoint['meta']


def _candidates(work_dir: str, named: str) -> List[str]:
    """Return the checkpoints of a work dir: first the noted one, then from new to old; the best of a metric are not
    among them, as they hold no training state.
    """
    def age(path: str) -> float:
        return -os.stat(path).st_mtime_ns

    found = sorted((str(path) for path in Path(work_dir).glob('*.pth') if not path.name.startswith('best_')), key=age)
    return sorted(found, key=lambda path: osp.basename(path) != osp.basename(named))


def _malformed(checkpoint: Any) -> Iterator[str]:
    """Yield each entry of a training state with a wrong type or value, such as ``'its meta.iter is -1'``."""
    meta, optimizer, hub = (checkpoint[key] for key in ('meta', 'optimizer', 'message_hub'))
    for key in ('epoch', 'iter'):
        value = meta.get(key) if isinstance(meta, dict) else None
        if not isinstance(value, int) or value < 0:
            yield f'its meta.{key} is {value!r}, not a number of {key}s'
    if not isinstance(optimizer, dict):
        yield f'its optimizer state is a {type(optimizer).__name__}'
    else:  # of one optimizer, or by name of several
        states = [optimizer] if {'state', 'param_groups'} & optimizer.keys() else optimizer.values()
        if not all(_is_optimizer_state(state) for state in states):
            yield 'its optimizer state has no state and param_groups as torch saves them'
    if not isinstance(hub, dict) or not all(isinstance(hub.get(key), dict) for key in (
            'log_scalars', 'runtime_info', 'resumed_keys')):
        yield 'its message_hub has no log_scalars, runtime_info and resumed_keys'
    schedulers = checkpoint.get('param_schedulers') or []
    if not isinstance(schedulers, (dict, list)):
        yield f'its param_schedulers are a {type(schedulers).__name__}'
        return
    for scheduler in (sum(schedulers.values(), []) if isinstance(schedulers, dict) and all(
            isinstance(part, list) for part in schedulers.values()) else schedulers):
        if not isinstance(scheduler, dict) or not all(isinstance(scheduler.get(key), int) for key in (
                'last_step', '_global_step')):
            yield 'its param_schedulers are not as MMEngine saves them'


def _is_optimizer_state(state: Any) -> bool:
    return (isinstance(state, dict) and isinstance(state.get('state'), dict)
            and all(isinstance(found, dict) for found in state['state'].values())
            and isinstance(state.get('param_groups'), list)
            and all(isinstance(group, dict) and isinstance(group.get('params'), list)
                    for group in state['param_groups']))
