"""Sharded training through MMEngine's strategies: FSDP's units, and checks of settings that it gets wrong."""
from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Dict, List, Optional

from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, STRATEGIES
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from ..errors import SettingError
from ..models.swin_blocks import SwinBlock
from ..type_names import type_name
from .resume import changed_on_loading
from .sync_bn import use_plain_batch_norm

_FSDP = ('ResumableFSDPStrategy', 'FSDPStrategy')
_SHARDING = (*_FSDP, 'DeepSpeedStrategy')
_DEEPSPEED_TAKES = frozenset({'type', '_scope_', 'optimizer', 'constructor', 'paramwise_cfg'})


@STRATEGIES.register_module()
class ResumableFSDPStrategy(FSDPStrategy):
    """MMEngine's strategy for FSDP that can also resume a training; takes the same arguments.

    MMEngine's own (0.10.7, and the fork's 0.10.12) fails when it resumes, with ``unhashable type: 'dict'``: it passes
    the arguments of ``optim_state_dict_to_load`` in the order of torch 2.0, the state first, and since torch 2.1 the
    model comes first. It also does not save the state of the optimizer's wrapper, such as the loss scale.

    Checkpoints of DDP can be resumed from too, and DDP can resume from those that hold the whole model.
    """

    def optim_state_dict(self) -> Dict[str, Any]:
        """Return the optimizer's state by parameter name, and the wrapper's; whole models on the first process only."""
        state_dict = super().optim_state_dict()
        if state_dict:
            wrapper = self.optim_wrapper.state_dict()
            state_dict.update({key: wrapper[key] for key in wrapper.keys() - state_dict.keys()})
        return state_dict

    def load_optim_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Load what :meth:`optim_state_dict` returned, or what the optimizer's wrapper saves without FSDP.

        The averages of parameters that were resampled or adapted on loading do not fit; they start from zero.
        """
        optimizer = self.optim_wrapper.optimizer
        state = {key: state_dict[key] for key in ('state', 'param_groups')}
        if any(isinstance(key, int) for key in state['state']):
            state = FullyShardedDataParallel.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_NAME, self.model, optim=optimizer)
        changed = {name.replace('_fsdp_wrapped_module.', '') for name in changed_on_loading(self.model)}
        state['state'] = {name: value for name, value in state['state'].items() if name not in changed}
        state = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=optimizer, optim_state_dict=state)
        self.optim_wrapper.load_state_dict({**state_dict, **state})


@FUNCTIONS.register_module()
def wrap_swin_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int, **_: Any) -> bool:
    """Wrap each Swin block as an FSDP unit, and leave the rest to the root (an ``auto_wrap_policy``).

    A unit must be called through its ``forward``, as blocks are; MMDet's heads are called through other methods.

    Args:
        module: the module in question.
        recurse: whether to decide on descending into it instead of wrapping it.
        nonwrapped_numel: parameters in it that no unit has yet.
    """
    return transformer_auto_wrap_policy(module, recurse, nonwrapped_numel, transformer_layer_cls={SwinBlock})


def strategy_name(cfg: Config) -> Optional[str]:
    """Return the class name of the config's strategy; None for MMEngine's plain ``Runner``."""
    strategy = cfg.get('strategy')
    return type_name(strategy) or None if strategy else None


def choose_runner(cfg: Config) -> None:
    """Let a config with a ``strategy`` run on ``FlexibleRunner``: the plain one would silently ignore it."""
    if strategy_name(cfg) is not None:
        cfg.setdefault('runner_type', 'FlexibleRunner')


def check_strategy(cfg: Config) -> None:
    """Refuse settings that a sharded training would silently get wrong, or that would fail late.

    Raises:
        ValueError: naming the setting, and what to do.
    """
    name = strategy_name(cfg)
    if name not in _SHARDING:
        return
    wrapper: Dict[str, Any] = cfg.optim_wrapper
    problems = [
        (cfg.get('launcher', 'none') == 'none', 'it needs a launcher: start it with tools/dist_train.sh'),
        (name == 'FSDPStrategy' and cfg.get('resume'), "MMEngine's cannot resume: use ResumableFSDPStrategy"),
        (name in _FSDP and (cfg.strategy.get('model_wrapper') or {}).get('auto_wrap_policy')
         and (cfg.get('resume') or cfg.get('load_from')),
         'parts of a backbone in units of their own (auto_wrap_policy) cannot load a checkpoint: leave that out. '
         'Weights to start from can be given as model.backbone.init_cfg'),
        (name in _FSDP and wrapper.get('clip_grad'),
         'optim_wrapper.clip_grad would clip each shard by its own norm: set it to None'),
        (name in _FSDP and 'SwinLayerDecayOptimWrapperConstructor' in str(wrapper.get('constructor')),
         'layer-wise decay of the learning rate looks at the shapes of parameters, which FSDP flattens: leave it out'),
        (name in _FSDP and wrapper.get('accumulative_counts', 1) > 1,
         'accumulated gradients are not sharded: use a larger batch or with_cp instead of '
         'optim_wrapper.accumulative_counts'),
        ('EMAHook' in _hooks(cfg), 'EMAHook averages whole models, and no process has one'),
        (name == 'DeepSpeedStrategy' and find_spec('deepspeed') is None, 'it needs DeepSpeed: pip install deepspeed'),
        (name == 'DeepSpeedStrategy' and type_name(wrapper) != 'DeepSpeedOptimWrapper',
         "it needs optim_wrapper.type='DeepSpeedOptimWrapper'. Mixed precision is not --amp but strategy.bf16 or fp16"),
        (name == 'DeepSpeedStrategy' and not _DEEPSPEED_TAKES.issuperset(wrapper),
         f'optim_wrapper has {", ".join(sorted(wrapper.keys() - _DEEPSPEED_TAKES))}, which DeepSpeedOptimWrapper does '
         'not take: set strategy.gradient_clipping, strategy.gradient_accumulation_steps'),
        (name == 'DeepSpeedStrategy' and (cfg.get('auto_scale_lr') or {}).get('enable'),
         "MMEngine's DeepSpeedStrategy ignores auto_scale_lr: set optim_wrapper.optimizer.lr"),
    ]
    for wrong, message in problems:
        if wrong:
            raise SettingError(f'strategy {name}: {message}')


def _hooks(cfg: Config) -> List[str]:
    return [type_name(hook) for hook in cfg.get('custom_hooks') or []]


def run_on_cpu(cfg: Config) -> None:
    """Replace settings that need GPUs in a config for several processes: MMEngine's defaults, and SyncBN by BN."""
    use_plain_batch_norm(cfg)
    unused = cfg.get('find_unused_parameters', False)
    parallel = dict(type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=unused)
    name = strategy_name(cfg)
    if name is None:
        cfg.model_wrapper_cfg = {**parallel, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}
    elif name == 'DDPStrategy':
        cfg.strategy.model_wrapper = {**parallel, **(cfg.strategy.get('model_wrapper') or {}), 'device_ids': None}
    elif name in _FSDP:
        given = cfg.strategy.get('model_wrapper') or {}
        cfg.strategy.model_wrapper = {'type': 'MMFullyShardedDataParallel', **given, 'device_id': 'cpu'}
        if cfg.strategy.get('state_dict_cfg') == 'full':
            # 'full' asks torch to offload to the CPU, which does not copy there: it then reads freed weights,
            # and gathers all of the optimizer's averages in the same memory.
            cfg.strategy.state_dict_cfg = dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
                optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True, offload_to_cpu=False))
