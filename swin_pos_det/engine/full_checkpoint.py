"""Refuse to evaluate a detector that was loaded in part."""
from __future__ import annotations

from typing import Any, Dict

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoints import check_heads


@HOOKS.register_module(name=['RequireFullCheckpointHook', 'WholeDetectorHook'])
class RequireFullCheckpointHook(Hook):
    """Refuse a checkpoint that leaves the detector's neck or heads random; MMEngine only logs a warning.

    ``tools/test.py`` and ``sweep_windows.py`` add this hook by themselves. ``WholeDetectorHook`` is an
    alias for older configs.

    Raises:
        CheckpointError: before anything is loaded.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Compare the checkpoint to load with the model."""
        check_heads(runner.model, checkpoint.get('state_dict', checkpoint), runner._load_from)


WholeDetectorHook = RequireFullCheckpointHook
