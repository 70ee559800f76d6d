"""A whole detector with either backbone: the times of its training step, its inference and their parts.

It runs in the process of a model, see ``worker``.
"""
from __future__ import annotations

import contextlib
import copy
import functools
import time
from types import SimpleNamespace
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from .operators import OperatorCount
from .scenes import Scenes

# Arguments of this project's backbone with the behaviour of mmdet's.
_SAME_AS_MMDET = dict(window_policy='fixed', padding='attend', reference_size=None, position='relative',
                      attention='dot', key_bias=True, norm_order='pre')
_OWN = ('table_window_size', 'resampling', *_SAME_AS_MMDET)
# 'mmdet': its backbone and settings; 'ours': this backbone, mmdet's settings; 'fast': with the config's fast hooks.
DETECTORS = ('ours', 'mmdet', 'fast')
_FAST_HOOKS = ('CompactMasksHook', 'VectorizedAssignersHook', 'VectorizedHeadsHook', 'MergedOptimizerHook',
               'DeferredScalarsHook', 'PinnedTransferHook')


def load_model_config(path: str, backbone: str) -> Any:
    """Return the config with the backbone's type replaced, and no weights to load.

    Args:
        path: of a config with a Swin backbone, mmdet's or this project's.
        backbone: of ``DETECTORS``.

    Raises:
        ValueError: if the config's backbone is not a Swin, or has settings that mmdet's does not have.
    """
    from mmengine.config import Config

    from swin_pos_det.type_names import type_name, use_scope  # a worker knows this folder by another name
    cfg = Config.fromfile(path)
    use_scope(cfg)
    settings = cfg.model.backbone
    if type_name(settings) not in ('SwinPosTransformer', 'SwinTransformer'):
        raise ValueError(f'the backbone of {path} is {type_name(settings)}, not a Swin')
    settings.type = 'mmdet.SwinTransformer' if backbone == 'mmdet' else 'mmdet.SwinPosTransformer'
    settings.init_cfg = None
    settings.pop('pretrained', None)
    if backbone == 'mmdet':
        table = settings.get('table_window_size')
        differs = [key for key, value in _SAME_AS_MMDET.items() if settings.get(key, value) != value]
        differs += ['table_window_size'] * (table not in (None, settings.get('window_size', 7)))
        if differs:
            raise ValueError(f"mmdet's backbone cannot do what {path} sets: {', '.join(differs)}")
        for key in _OWN:
            settings.pop(key, None)
    return cfg


def write_detector_weights(config: str, path: str, checkpoint: Optional[str] = None) -> None:
    """Write weights of a whole detector for both backbones.

    Args:
        config: path.
        path: where they go.
        checkpoint: trained weights; default: random ones with a classifier so confident that the largest number of
            objects is found, so that the mask head and the pasting of masks have their share.
    """
    from mmdet.registry import MODELS
    from mmengine.runner import load_checkpoint

    from .weights import randomise
    cfg = load_model_config(config, 'ours')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if checkpoint is None:
        model.init_weights()
        randomise(model.backbone)
        for name, parameter in model.named_parameters():
            if name.endswith('fc_cls.weight'):
                nn.init.normal_(parameter, std=0.5)
    else:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    torch.save(model.state_dict(), path)


class Stopwatch:
    """Sums of the times of parts; a nested part is not counted twice."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: Dict[str, float] = {}
        self._within: List[float] = []

    def now(self) -> float:
        """Return the time after the device has finished all queued work."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time within the context as ``name``."""
        self._within.append(0.)
        start = self.now()
        try:
            yield
        finally:
            whole = self.now() - start
            own = whole - self._within.pop()
            if self._within:
                self._within[-1] += whole
            self.seconds[name] = self.seconds.get(name, 0.) + own


class DetectorCell:
    """One detector on one input.

    The learning rate is zero: every step has the same weights and so the same work.

    Args:
        name: of ``DETECTORS``.
        case: ``mode`` ('train' or 'inference'), ``config``, ``size``, ``batch``, ``dtype``.
        weights: path of the state dict.
        device: 'cpu' or 'cuda'.

    Raises:
        ValueError: for 'fast', if the config does not use ``_base_/fast_training.py``.
    """

    def __init__(self, name: str, case: Mapping[str, Any], weights: str, device: str) -> None:
        from mmdet.registry import MODELS

        import swin_pos_det  # noqa: F401 - registers the backbone
        self.device = torch.device(device)
        self.train = case['mode'] == 'train'
        cfg = load_model_config(case['config'], name)
        self.model = MODELS.build(cfg.model)
        missing, unexpected = self.model.load_state_dict(torch.load(weights, weights_only=True), strict=False)
        assert not unexpected and all(key.endswith('relative_position_index') for key in missing), (missing, unexpected)
        self.run_model = self.model.to(self.device)
        self.model.train(self.train)
        self._zero_stochastic_depth()
        self.dtype = dict(bf16=torch.bfloat16, fp16=torch.float16).get(case['dtype'])
        self.optimizer = self._optimizer(cfg) if self.train else None
        images = Scenes(case['batch'], case['size'], _num_classes(cfg), getattr(self.model, 'with_mask', True))
        self.runner = self._runner(images)
        if name == 'fast':
            self._use_fast_hooks(cfg)
        self.data = self._collate([images[index] for index in range(len(images))])
        self.found: Optional[float] = None

    def _zero_stochastic_depth(self) -> None:
        """Switch off stochastic depth, so that both models do the same work."""
        for module in self.model.backbone.modules():
            if hasattr(module, 'drop_prob'):
                module.drop_prob = 0.

    def _optimizer(self, cfg: Any) -> Any:
        from mmengine.optim import build_optim_wrapper
        settings = copy.deepcopy(cfg.optim_wrapper)
        settings.optimizer.lr = 0.
        settings.pop('loss_scale', None)
        settings.type = 'OptimWrapper'
        return build_optim_wrapper(self.model, settings)

    def _runner(self, images: Scenes) -> Any:
        """Stand in for a runner, with what hooks ask of it."""
        from mmengine.hooks import RuntimeInfoHook
        from mmengine.logging import MessageHub
        loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=images, num_workers=0, pin_memory=False))
        return SimpleNamespace(
            model=self.model, optim_wrapper=self.optimizer, train_loop=loop, train_dataloader=loop.dataloader,
            hooks=[RuntimeInfoHook()], message_hub=MessageHub.get_current_instance(), iter=0)

    def _use_fast_hooks(self, cfg: Any) -> None:
        from mmengine.registry import HOOKS
        hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook.type in _FAST_HOOKS]
        if not hooks:
            raise ValueError('the config does not use configs/_base_/fast_training.py')
        for hook in [HOOKS.build(hook) for hook in hooks] if self.train else []:
            hook.before_train(self.runner)

    def _collate(self, samples: List[Dict[str, Any]]) -> Dict[str, List[Any]]:
        from mmengine.dataset import pseudo_collate
        data = pseudo_collate(samples)
        if self.runner.train_dataloader.pin_memory:
            data['inputs'] = [image.pin_memory() for image in data['inputs']]
        return data

    def features(self) -> List[Tensor]:
        """Return the backbone's features of the images."""
        with torch.no_grad():
            data = self.model.data_preprocessor(self.batch(), False)
            return [out.float().cpu() for out in self.model.backbone(data['inputs'])]

    def batch(self) -> Dict[str, Any]:
        """Make a batch as it comes from a loader, which a step may change."""
        return dict(self.data, data_samples=copy.deepcopy(self.data['data_samples']))

    def prepare(self) -> Callable[[], None]:
        """Return a step on a new batch, whose making is no part of it."""
        return functools.partial(self.step, self.batch())

    def step(self, data: Dict[str, Any]) -> None:
        """Make a training step, as a runner does, or infer with the masks in full size."""
        torch.manual_seed(0)  # the same regions are sampled
        autocast = torch.autocast(self.device.type, self.dtype) if self.dtype else contextlib.nullcontext()
        if self.train:
            with autocast:
                data = self.model.data_preprocessor(data, True)
                losses = self.model(**data, mode='loss')
            loss, outputs = self.model.parse_losses(losses)
            self.optimizer.update_params(loss)
            self.runner.hooks[0].after_train_iter(self.runner, 0, None, outputs)
        else:
            with torch.no_grad(), autocast:
                results = self.model.test_step(data)
            self.found = sum(len(result.pred_instances) for result in results) / len(results)

    def breakdown(self) -> Dict[str, float]:
        """Return the seconds of each part of one step; the rest is 'other'."""
        watch, step = Stopwatch(self.device), self.prepare()
        with self._by_part(watch.part), watch.part('other'):
            step()
        return watch.seconds

    def count(self) -> Dict[str, Tuple[int, int]]:
        """Return operators and waits of each part of one step, as on a GPU.

        There torch updates the parameters of a group together, its counters of steps are on the host, and attention is
        one operator.
        """
        from swin_pos_det.ops.window_attention import use_impl
        on_host: List[Tensor] = []
        if self.train:
            wrapper, optimizer = self.optimizer, self.optimizer.optimizer
            for group in optimizer.param_groups:
                group['foreach'] = True
            if wrapper.clip_grad_kwargs:
                wrapper.clip_grad_kwargs['foreach'] = True
            if not getattr(optimizer, '_step_supports_amp_scaling', False):  # set for fused steps alone
                on_host = [state['step'] for state in optimizer.state.values() if 'step' in state]
        counter, step = OperatorCount(on_host), self.prepare()
        with self._by_part(counter.part), use_impl('sdpa'), counter.counting():
            step()
        return {name: (counter.operators[name], counter.waits[name]) for name in {*counter.operators, *counter.waits}}

    @contextlib.contextmanager
    def _by_part(self, part: Callable[[str], ContextManager[None]]) -> Iterator[None]:
        """Let ``part(name)`` be entered around each part of a step."""
        with contextlib.ExitStack() as stack:
            for owner, method, name in self._parts():
                stack.enter_context(_replaced(owner, method, _within(part, name, getattr(owner, method))))
            if self.train:
                stack.enter_context(self._split_backward(part))
            yield

    def _parts(self) -> Iterator[Tuple[Any, str, str]]:
        """Yield (object, method, name) of everything that is timed."""
        yield self.model.data_preprocessor, 'forward', 'preprocessing'
        for name, child in self.model.named_children():
            if name in ('backbone', 'neck'):
                yield child, 'forward', f'{name}, forward'
            elif name.endswith('head'):
                for method in ('loss', 'loss_and_predict', 'predict'):
                    if hasattr(child, method):
                        yield child, method, f'{name}, losses and boxes'
                for layers in _layers(child):
                    yield layers, 'forward', f'{name}, forward'
        if not self.train:
            return
        for module in self.model.modules():
            for name, value in vars(module).items():
                for one in value if isinstance(value, list) else [value]:
                    for method, wanted in (('assign', 'assigner'), ('sample', 'sampler')):
                        if name.endswith(wanted) and hasattr(one, method):
                            yield one, method, 'assigning and sampling'
            if type(module).__name__.endswith('MaskHead') and hasattr(module, 'get_targets'):
                yield module, 'get_targets', 'mask targets'
        yield self.optimizer, 'step', 'optimizer'
        yield self.optimizer, 'zero_grad', 'optimizer'
        yield self.runner.hooks[0], 'after_train_iter', 'losses for the log'

    @contextlib.contextmanager
    def _split_backward(self, part: Callable[[str], ContextManager[None]]) -> Iterator[None]:
        """Separate the backward pass of the backbone from that of neck and heads, by running one after the other.

        Otherwise autograd runs the deep stages before the gradient of the first stage's output exists.
        """
        cuts: List[Tuple[List[Tensor], List[Tensor]]] = []

        def cut(module: nn.Module, inputs: Any, outs: Any) -> List[Tensor]:
            ends = [out for out in outs if out.requires_grad]
            starts = [out.detach().requires_grad_() for out in ends]
            cuts.append((ends, starts))
            replaced = iter(starts)
            return [next(replaced) if out.requires_grad else out for out in outs]

        handle = self.model.backbone.register_forward_hook(cut)
        backward = self.optimizer.backward

        def split(loss: Tensor, **kwargs: Any) -> None:
            with part('neck and heads, backward'):
                backward(loss, **kwargs)
            with part('backbone, backward'):
                for ends, starts in cuts:
                    reached = [(end, start.grad) for end, start in zip(ends, starts) if start.grad is not None]
                    if reached:
                        torch.autograd.backward(*zip(*reached))

        with _replaced(self.optimizer, 'backward', split):
            yield
        handle.remove()


def _layers(head: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a head whose ``forward`` is the network: itself, or extractors and heads of its own."""
    inner = [child for name, child in head.named_children() if name.endswith(('head', 'extractor'))]
    for child in inner or [head]:
        yield from child if isinstance(child, nn.ModuleList) else [child]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of an object for a while."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _within(part: Callable[[str], ContextManager[None]], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function``, with ``part(name)`` around each call."""

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        with part(name):
            return function(*args, **kwargs)

    return counted


def _num_classes(cfg: Any) -> int:
    """Return the number of classes of the box head."""
    head = cfg.model.get('roi_head', {}).get('bbox_head') or cfg.model.get('bbox_head') or {}
    head = head[0] if isinstance(head, (list, tuple)) else head
    return head.get('num_classes', 80)
