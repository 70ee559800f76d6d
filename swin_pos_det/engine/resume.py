"""Resuming a training with tables of another window."""
from __future__ import annotations

from typing import Any, Dict, Iterator

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from ..checkpoints import LoadReport


@HOOKS.register_module()
class ResumeResampledHook(Hook):
    """Let a training resume although parameters were resampled or adapted when they were loaded.

    The optimizer's averages in the checkpoint are still those of the parameters as they were, and with another shape
    its first step would fail. They are dropped for these parameters, which start new averages; all others go on with
    theirs. ``tools/train.py --resume`` adds this hook by itself.
    """

    # Before anything looks at the optimizer.
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Drop what does not fit, after the checkpoint was loaded."""
        changed = {id(parameter) for parameter in changed_on_loading(runner.model).values()}
        dropped = 0
        for optimizer in _optimizers(runner.optim_wrapper):
            for parameter in [parameter for parameter in optimizer.state if id(parameter) in changed]:
                del optimizer.state[parameter]
                dropped += 1
        if dropped:
            print_log(f"{type(self).__name__}: {dropped} parameters were resampled or adapted on loading; the "
                      "optimizer's averages of them start anew", logger='current')


def changed_on_loading(model: nn.Module) -> Dict[str, nn.Parameter]:
    """The parameters, by name, that have not the shape they had in the checkpoint that was loaded last."""
    changed = {}
    for prefix, module in model.named_modules():
        report = getattr(module, 'load_report', None)
        if isinstance(report, LoadReport):
            changed.update({f'{prefix}.{name}'.lstrip('.'): module.get_parameter(name)
                            for name in (*report.resampled, *report.adapted)})
    return changed


def _optimizers(wrapper: Any) -> Iterator[Optimizer]:
    for found in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        yield found.optimizer
