"""The table of everything that this package changes in MMEngine."""
from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Callable, Dict, List, Tuple

import mmdet.apis.det_inferencer
import mmengine._strategy
import mmengine.hooks.checkpoint_hook
import mmengine.infer.infer
import mmengine.runner._flexible_runner
import mmengine.runner.checkpoint
import mmengine.runner.runner
from mmdet.registry import HOOKS
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio.backends import registry_utils
from mmengine.infer.infer import BaseInferencer
from mmengine.registry import STRATEGIES
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner

from ..checkpoints import AtomicLocalBackend
from ..checkpoints.schemes import LOADERS
from .change import Change
from .checkpoint_hook import CheckpointHook
from .last_checkpoint import finding_whole_ones, opening_drafts
from .loading import (
    add_state_dict,
    before_hooks,
    choosing_weights,
    drop_config,
    dropping_config,
    placing,
    refusing_stored_config,
    skipping_pretrained,
)
from .workers import ending_with_their_parent

ENV = 'SWIN_POS_DET_PATCHES'


@dataclass(frozen=True)
class Patch:
    """One row of the table.

    Attributes:
        name: in a few words, for the log.
        what: the change.
        why: why MMEngine's own code is not enough.
        unnecessary_since: the release of MMEngine or torch that does not need it.
        changes: the replaced objects.
    """

    name: str
    what: str
    why: str
    unnecessary_since: str
    changes: Tuple[Change, ...]


def _schemes() -> Dict[str, Callable]:
    return CheckpointLoader._schemes  # another dict after each registration


def _everywhere(name: str, wrap: Callable, *modules: ModuleType) -> Tuple[Change, ...]:
    """Wrap a function of ``mmengine.runner.checkpoint``, and rebind it in the modules that have imported it."""
    first = mmengine.runner.checkpoint
    return (Change(first, name, wrap), *(Change(module, name, lambda _: getattr(first, name)) for module in modules))


def _in_runners(stage: str, act: Callable) -> Tuple[Change, ...]:
    return tuple(Change(runner, 'call_hook', before_hooks(stage, act)) for runner in (Runner, FlexibleRunner))


def _strategies(method: str) -> List[type]:
    """Return MMEngine's strategies that define a method."""
    return [strategy for name, strategy in sorted(STRATEGIES.module_dict.items()) if method in vars(strategy)
            and strategy.__module__.startswith('mmengine.')]


def _to(replacement: Any) -> Callable[[Any], Any]:
    return lambda original: replacement


def summary() -> str:
    """Return the log line about all changes."""
    names = ', '.join(patch.name for patch in PATCHES)
    return f'swin_pos_det changes MMEngine: {names} ({ENV}=0 switches this off; docs/design.md says why)'


PATCHES: Tuple[Patch, ...] = (
    Patch(
        name='safe reading of checkpoints',
        what='The loaders in `mmengine.runner.CheckpointLoader` read with an unpickler that calls nothing a file '
             'names.',
        why='MMEngine 0.10.7 cannot read its own checkpoints on torch >= 2.6; the maintained fork runs code in them.',
        unnecessary_since='no release yet',
        changes=tuple(Change(_schemes, prefix, _to(loader)) for prefix, loader in LOADERS.items())),
    Patch(
        name='no code from checkpoints',
        what='`call_hook("after_load_checkpoint")` of both runners and `resume` of the strategies drop `meta.config`; '
             'inferencers (`DetInferencer`) want a config beside weights.',
        why='`--resume FILE` would run the Python code in that entry, to look for a setting of MMCV 1. MMEngine itself '
            'does not write it. `DetInferencer(weights=FILE)` would run that in `meta.cfg`.',
        unnecessary_since='no release yet',
        changes=(*_in_runners('after_load_checkpoint', drop_config),
                 Change(BaseInferencer, '_init_model', refusing_stored_config),
                 *(Change(strategy, 'resume', dropping_config) for strategy in _strategies('resume')))),
    Patch(
        name='atomic writing of files',
        what='The file backend `local` writes regular files of this user beside their place and renames them.',
        why='A kill or a full disk while MMEngine writes leaves half a file under the name that `--resume` looks for.',
        unnecessary_since='no release yet',
        changes=(Change(registry_utils.backends, 'local', _to(AtomicLocalBackend)),
                 Change(registry_utils.prefix_to_backends, '', _to(AtomicLocalBackend)))),
    Patch(
        name='whole backbones',
        what='`load_state_dict`, `_load_checkpoint_to_model` and `call_hook("after_load_checkpoint")` of both runners '
             "find the weights of this package's backbones under any name; all are loaded, or nothing is. Other models "
             'pass through.',
        why='MMEngine loads what fits and warns of the rest in the log; its `EMAHook` fails on files without '
            '`state_dict`.',
        unnecessary_since='never: it is what this package promises about its own backbones',
        changes=(*_everywhere('load_state_dict', placing, mmengine.runner),
                 *_everywhere('_load_checkpoint_to_model', choosing_weights, mmengine.runner.runner,
                               mmengine.infer.infer, mmdet.apis.det_inferencer),
                 *_in_runners('after_load_checkpoint', add_state_dict))),
    Patch(
        name='no needless pretrained weights',
        what="`Runner._init_model_weights` and `FlexibleRunner.train`, `val` and `test` skip a `Pretrained` `init_cfg` "
             "of this package's backbones where `load_from` or `resume` loads all of their weights afterwards.",
        why='MMEngine downloads them all the same, and fails without a network.',
        unnecessary_since='no release yet',
        changes=(Change(Runner, '_init_model_weights', skipping_pretrained),
                 *(Change(FlexibleRunner, name, skipping_pretrained) for name in ('train', 'val', 'test')))),
    Patch(
        name='CheckpointHook',
        what='`CheckpointHook` in the registry of mmdet is a subclass that saves before it removes, removes only what '
             'the run has written (listed in `.written_checkpoints.json`), and cleans up after a kill.',
        why="MMEngine's removes first: a run that is killed while it saves has no checkpoint left. And it removes any "
            'file or folder that a resumed checkpoint calls the best one.',
        unnecessary_since='no release yet',
        changes=(Change(HOOKS.module_dict, 'CheckpointHook', _to(CheckpointHook)), )),
    Patch(
        name='last_checkpoint',
        what='The file is written whole or not at all; `find_latest_checkpoint` falls back to the newest whole '
             'checkpoint where it names none that is there.',
        why='After a kill while MMEngine writes the name, or a move of the work dir, resuming fails beside whole '
            'checkpoints.',
        unnecessary_since='no release yet',
        changes=(Change(mmengine.hooks.checkpoint_hook, 'open', opening_drafts),
                 *_everywhere('find_latest_checkpoint', finding_whole_ones, mmengine.runner, mmengine.runner.runner,
                              mmengine.runner._flexible_runner))),
    Patch(
        name='configs by package',
        what="`MODULE2PACKAGE` has `swin_pos_det`: `_base_ = 'swin_pos_det::swin_pos/...'` finds the configs of the "
             'installed package; and it finds `mmseg` by its module.',
        why="MMEngine refuses `::` for packages that are not in its own list of OpenMMLab's, and looks for mmseg as "
            '`mmsegmentation`, which the maintained fork is not called.',
        unnecessary_since='no release yet',
        changes=tuple(Change(MODULE2PACKAGE, module, _to(module)) for module in ('swin_pos_det', 'mmseg'))),
    Patch(
        name='loader processes',
        what='`build_dataloader` of both runners lets loader processes end seconds after their parent was killed.',
        why='One that waits for its batch to be taken waits for ever: with `--max-restarts` they add up.',
        unnecessary_since='no release of torch yet',
        changes=tuple(Change(runner, 'build_dataloader', ending_with_their_parent)
                      for runner in (Runner, FlexibleRunner))),
    Patch(
        name='a line in the log',
        what='`call_hook("before_run")` of both runners logs one line that names these changes.',
        why='Who reads the log of a run should know what it ran with.',
        unnecessary_since='the rest of this table is empty',
        changes=_in_runners('before_run', lambda runner: runner.logger.info(summary()))),
)
