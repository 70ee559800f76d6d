"""Training one set of weights for a range of windows."""
from __future__ import annotations

import random
from typing import Any, Dict, Optional, Sequence, Union

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoints import unwrapped
from ..errors import SettingError, SettingTypeError
from ..ops.windows import Pair


@HOOKS.register_module()
class ElasticWindowHook(Hook):
    """Draw a window for each training iteration; evaluate at the nominal one.

    A table that was trained at one window only loses accuracy when it is resampled to others (Swin V2, table 1).
    Training with many windows avoids that. The window of an iteration depends only on ``seed`` and the iteration's
    number: so it is the same on all ranks without communication, and a resumed training draws the same windows as an
    uninterrupted one.

    Args:
        windows: to draw from, each an int or (h, w) in tokens.
        nominal_share: probability of the nominal window, 0 to 1; the rest is shared evenly by ``windows``.
        seed: of the draws.

    Raises:
        ValueError: if there are no windows, or the share is not a probability.
        TypeError: if ``windows`` is not a list; before training, if the model's backbone has no ``set_window_size``.
    """

    # Before hooks that use the model in the same iteration.
    priority = 'ABOVE_NORMAL'

    def __init__(self, windows: Sequence[Union[int, Pair]], nominal_share: float = 0., seed: int = 0) -> None:
        if not isinstance(windows, (list, tuple, range)):
            raise SettingTypeError(f'windows takes a list of windows, such as [5, 7, 10, 14], got {windows!r}')
        if not windows:
            raise SettingError('windows must hold at least one window, such as [5, 7, 10, 14], got none')
        if not 0 <= nominal_share <= 1:
            raise SettingError(f'nominal_share must be from 0 to 1, got {nominal_share!r}')
        self.windows = list(windows)
        self.nominal_share = nominal_share
        self.seed = seed
        self._nominal: Optional[list] = None

    def draw(self, iteration: int) -> Optional[Union[int, Pair]]:
        """Return the window of an iteration, counted from 0; None for the nominal one."""
        rng = random.Random(f'{self.seed}/{iteration}')
        return None if rng.random() < self.nominal_share else rng.choice(self.windows)

    def before_train(self, runner: Runner) -> None:
        """Note the nominal window, and check that every window is valid."""
        backbone = self._backbone(runner)
        self._nominal = backbone.window_size
        for window in self.windows:
            backbone.set_window_size(_as_tuple(window))
        backbone.set_window_size(self._nominal)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[Dict[str, Any]] = None) -> None:
        """Set the iteration's window."""
        window = self.draw(runner.iter)
        self._backbone(runner).set_window_size(self._nominal if window is None else _as_tuple(window))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Reset to the nominal window, for whatever follows (evaluation, a checkpoint)."""
        self._backbone(runner).set_window_size(self._nominal)

    @staticmethod
    def _backbone(runner: Runner) -> Any:
        backbone = getattr(unwrapped(runner.model), 'backbone', None)
        if not hasattr(backbone, 'set_window_size'):
            raise SettingTypeError(f'ElasticWindowHook needs a SwinPosTransformer as the backbone of the model, '
                                   f'got {type(backbone).__name__}')
        return backbone


def _as_tuple(window: Any) -> Any:
    # In a list, a config's (h, w) may have become [h, w], which would mean one window per stage.
    return tuple(window) if isinstance(window, list) else window
