"""An evaluation is of what was trained, or it is none."""
from __future__ import annotations

from typing import Any, Dict

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoints import check_heads


@HOOKS.register_module()
class WholeDetectorHook(Hook):
    """Refuse a checkpoint that leaves the detector's neck or heads random, which MMEngine warns of in the log only.

    ``tools/test.py`` and ``sweep_windows.py`` add this hook by themselves.

    Raises:
        CheckpointError: before anything is loaded.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Look at what is about to be loaded."""
        check_heads(runner.model, checkpoint.get('state_dict', checkpoint), runner._load_from)
