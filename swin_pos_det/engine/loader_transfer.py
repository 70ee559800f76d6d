"""Copies of training batches to the device that the host does not wait for."""
from __future__ import annotations

from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log

from ..checkpoints import unwrapped
from .amp import has_accelerator


def restart_workers(loop: Any) -> None:
    """Start the workers of a loop again where they were started with it, so that they see a changed loader.

    ``IterBasedTrainLoop`` starts them when it is built. The order of images stays as it was.
    """
    if hasattr(loop, 'dataloader_iterator') and loop.dataloader.num_workers:
        state = torch.get_rng_state()
        loop.dataloader._iterator = None
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
        torch.set_rng_state(state)


@HOOKS.register_module()
class PinnedTransferHook(Hook):
    """Load training batches into page-locked memory, and copy them to the device without waiting.

    The same as ``train_dataloader.pin_memory=True`` and ``model.data_preprocessor.non_blocking=True``, for any config.
    On a CPU it does nothing.
    """

    def before_train(self, runner: Any) -> None:
        """Change the loader and the data preprocessor."""
        if not has_accelerator():
            print_log('pinned memory: not used, as there is no GPU', logger='current')
            return
        loop = runner.train_loop
        loop.dataloader.pin_memory = True
        restart_workers(loop)
        unwrapped(runner.model).data_preprocessor._non_blocking = True
