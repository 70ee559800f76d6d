"""Loading whole detectors through MMEngine: backbones get their weights under any naming, or nothing is changed.

:mod:`swin_pos_det.mmengine_patches` puts :func:`remap_backbone_keys` before MMEngine's ``load_state_dict``, through
which ``load_from``, ``--resume``, ``tools/test.py``, ``mmdet.apis`` and the ``EMAHook`` load. Models without a backbone
of this package load as usual.
"""
from __future__ import annotations

from collections import OrderedDict
from itertools import chain
from typing import Any, Dict, Iterator, List, Mapping, Tuple

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ..errors import SettingError
from .classifiers import place_classifier
from .formats import candidates
from .io import CheckpointError
from .load_hook import LoadsAnySwin, fit_state_dict
from .tensor_checks import check_value, check_values
from .weights import check_metadata, read_weights, split_state_dict


def remap_backbone_keys(model: nn.Module, state_dict: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Move the weights of a bare backbone or classifier to a detector's backbone, and check that all fit.

    MMEngine hands each module the keys under its own name only, and such a file has none under ``backbone.``.

    Args:
        model: of any kind.
        state_dict: about to be loaded into it.

    Returns:
        The same if the model has no backbone of this package, or all of them have weights under their own names. Else
        a new one, in which a Swin found elsewhere is under those names, as are keys that are not part of the model,
        such as a classifier's in a detector; the report of the load lists these as unused.

    Raises:
        ValueError: if the weights do not fit, see :func:`~swin_pos_det.checkpoints.adapt_state_dict`, or those of neck
            and heads are not finite numbers. Nothing has been loaded into any part of the model then.
    """
    backbones = dict(_backbones(model))
    if not backbones:
        return state_dict
    if not isinstance(state_dict, Mapping):
        raise SettingError(f'the checkpoint has a {type(state_dict).__name__} where its state dict should be')
    check_metadata(state_dict)
    state_dict = place_classifier(unwrapped(model), state_dict)
    keys = [key for key in state_dict if isinstance(key, str)]
    without = [prefix for prefix in backbones if not any(key.startswith(prefix) for key in keys)]
    if without:
        state_dict = _copied_into_parts(state_dict, without, model)
        keys = [key for key in state_dict if isinstance(key, str)]
        without = [prefix for prefix in without if not any(key.startswith(prefix) for key in keys)]
    if without:
        state_dict = _moved(state_dict, without, list(backbones), _children(model))
    metadata = getattr(state_dict, '_metadata', None) or {}
    for prefix, backbone in backbones.items():
        fit_state_dict(state_dict, prefix, backbone, metadata.get(prefix[:-1], {}))
    whole = unwrapped(model)
    check_values(((name, own) for name, own in chain(whole.named_parameters(), whole.named_buffers())
                  if not name.startswith(tuple(backbones))), state_dict)
    return state_dict


def has_backbone(model: nn.Module) -> bool:
    """Return whether a backbone of this package is anywhere in a model."""
    return any(True for _ in _backbones(model))


def check_averages(model: nn.Module, checkpoint: Mapping[Any, Any]) -> None:
    """Check the averaged weights of a training checkpoint before MMEngine's ``EMAHook`` swaps them.

    Args:
        model: that is trained.
        checkpoint: with ``ema_state_dict``, where the hook saved the model's own weights, and ``state_dict``.

    Raises:
        ValueError: naming a weight that is missing, of another shape, or not finite.
    """
    model = unwrapped(model)
    backbones = tuple(dict(_backbones(model)))
    for part, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
        for name, own in model.state_dict().items():
            value = checkpoint[part].get(prefix + name)
            if value is None:
                raise SettingError(f'{name} is missing in {part!r} of the checkpoint')
            check_value(f'{name} in {part!r}', value, own)
            if value.shape != own.shape and not name.startswith(backbones):
                raise SettingError(f'{name}: the checkpoint has shape {tuple(value.shape)} in {part!r}, the model '
                                   f'{tuple(own.shape)}')


def check_heads(model: nn.Module, state_dict: Mapping[Any, Any], checkpoint: Any) -> None:
    """Check that a file has weights for all of a detector except its backbone, which has its own check.

    Args:
        model: with a ``backbone``; others are not checked.
        state_dict: about to be loaded into it, or loaded.
        checkpoint: its name, for the message.

    Raises:
        CheckpointError: naming a parameter of neck or heads for which there is no weight, or one of another shape.
    """
    model = unwrapped(model)
    if not hasattr(model, 'backbone'):
        return
    state_dict = place_classifier(model, state_dict)
    shapes = {name[7:] if name.startswith('module.') else name: tuple(value.shape)
              for name, value in state_dict.items() if isinstance(name, str) and isinstance(value, Tensor)}
    wanted = {name: tuple(value.shape) for name, value in model.named_parameters() if not name.startswith('backbone.')}
    wrong = [name for name, shape in wanted.items() if shapes.get(name) != shape]
    if wrong:
        raise CheckpointError(
            f'checkpoint {checkpoint} is not of this config: {len(wrong)} of {len(wanted)} tensors of neck and heads '
            f'are missing or have another shape, such as {wrong[0]}: {shapes.get(wrong[0], "missing")}, needed '
            f'{wanted[wrong[0]]}')


def _backbones(module: nn.Module, prefix: str = '') -> Iterator[Tuple[str, nn.Module]]:
    """Yield each backbone, and the prefix of its keys where MMEngine loads it."""
    module = unwrapped(module)
    if isinstance(module, LoadsAnySwin):
        yield prefix, module
        return
    for name, child in module.named_children():
        yield from _backbones(child, f'{prefix}{name}.')


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the model in wrappers for distribution and test-time augmentation: that whose names MMEngine uses."""
    while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        module = module.module
    return module


def _children(model: nn.Module) -> List[str]:
    return [name for name, _ in unwrapped(model).named_children()]


def _copied_into_parts(state_dict: Mapping[Any, Any], without: List[str], model: nn.Module) -> Mapping[Any, Any]:
    """Copy a detector's file into a model that contains such detectors, as mmdet's semi-supervised ones do.

    Those put ``student.`` and ``teacher.`` before the keys themselves, but later, and only if no key has them yet.
    """
    parts = {}
    for prefix in without:
        part, _, name = prefix[:-1].rpartition('.')
        if not part or not any(isinstance(key, str) and key.startswith(f'{name}.') for key in state_dict):
            return state_dict
        parts[part] = _children(unwrapped(model).get_submodule(part))
    own = _children(model)

    def place(content: Mapping[Any, Any]) -> Dict[str, Any]:
        named = {key: value for key, value in content.items() if isinstance(key, str)}
        kept = {key: value for key, value in named.items() if key.split('.')[0] in own}
        return OrderedDict(kept, **{f'{part}.{key}': value for part, children in parts.items()
                                    for key, value in named.items() if key.split('.')[0] in children})

    placed = place(state_dict)
    placed._metadata = place(getattr(state_dict, '_metadata', None) or {})
    return placed


def _moved(state_dict: Mapping[Any, Any], without: List[str], backbones: List[str],
           children: List[str]) -> Dict[Any, Any]:
    """Return the state dict with the Swin found in it placed under each prefix in ``without``."""
    found = candidates(state_dict)
    if not found:
        try:
            read_weights(state_dict)
        except ValueError as error:
            raise SettingError(f'the checkpoint has nothing under {without[0]!r}, all parameters there would stay '
                               f'random: {error}') from error
    layout, origin = found[0]
    others = set(split_state_dict(state_dict, layout, origin)[1])
    others.update(key for key in state_dict if isinstance(key, str) and key.startswith(origin)
                  and layout.beyond.match(key[len(origin):]))
    moved = [key for key in state_dict
             if isinstance(key, str) and (key not in others or key.split('.')[0] not in children)]
    kept = tuple(prefix for prefix in backbones if prefix not in without)
    placed = OrderedDict(state_dict)
    for key in moved:
        if not key.startswith(kept):
            del placed[key]
    metadata = OrderedDict(getattr(state_dict, '_metadata', None) or {})
    for prefix in without:
        print_log(f'nothing in the checkpoint is under {prefix!r}: the Swin under {origin!r} is loaded there',
                  logger='current')
        placed.update((prefix + key, state_dict[key]) for key in moved)
        metadata[prefix[:-1]] = metadata.get(origin[:-1], {})
    placed._metadata = metadata
    return placed
