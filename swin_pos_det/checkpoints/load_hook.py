"""The hook that every load goes through: it adapts the weights of any Swin to the backbone."""
from __future__ import annotations

import logging
import re
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import SettingError
from ..layers import parameters_of_position, resample_absolute, table_size
from ..ops.windows import Pair
from .formats import TABLE, Format
from .report import LoadReport
from .tensor_checks import check_value, is_alike
from .variants import Variant, config_changes, describe_weights, square_window
from .weights import ABSOLUTE_GRID, POSITION, TABLE_WINDOWS, SwinWeights, read_weights

ABSOLUTE = 'absolute_pos_embed'
PATCHES = 'patch_embed.projection.weight'
OUTPUT_NORM = re.compile(r'norm\d+\.(weight|bias)')
_TYPES = {1: 'SwinPosTransformer', 2: 'SwinPosTransformerV2'}
_ATTENTION = re.compile(r'stages\.(\d+)\.blocks\.\d+\.attn\.w_msa\.(.+)')


class LoadsAnySwin:
    """A mixin for a backbone, before ``nn.Module``: every load of weights goes through this module's hook.

    Attributes:
        variant: of the backbone as its constructor built it, regardless of later changes to its modules.
        load_report: the outcome of the last load; None before the first.
    """

    variant: Variant
    load_report: Optional[LoadReport] = None

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, local_metadata: Dict[str, Any],
                              *args: Any) -> None:
        adapt_state_dict(state_dict, prefix, self, local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def note_table_windows(backbone: nn.Module, state_dict: Any, prefix: str, local_metadata: Dict[str, Any]) -> None:
    """Add the position scheme and the learned window of each stage to a state dict's metadata (a state dict hook).

    Shapes do not show it: tables of (7, 14) and (14, 7) have the same number of rows, and the parameters of a
    continuous bias are the same for every window. Likewise the grid of an absolute position embedding.

    Metadata is not a key, so the state dict stays that of mmdet's model.
    """
    model = backbone.variant
    local_metadata[TABLE_WINDOWS] = [list(window) if window else None for window in model.windows]
    local_metadata[POSITION] = model.position
    if model.absolute_grid is not None:
        local_metadata[ABSOLUTE_GRID] = list(model.absolute_grid)


def adapt_state_dict(state_dict: Dict[str, Any], prefix: str, backbone: nn.Module,
                     local_metadata: Optional[Mapping[str, Any]] = None) -> None:
    """Make the part of ``state_dict`` under ``prefix`` fit ``backbone``, in place.

    It finds the weights of a Swin backbone in any of the :mod:`.formats`, renames them, drops derived buffers,
    resamples tables and absolute embeddings that were learned on another grid, and adapts the patch embedding to
    another number of channels. Parameters of another position scheme than the model's are left out and reported.

    Called by ``backbone._load_from_state_dict``, so ``init_cfg``, ``load_from``, resuming and
    ``load_state_dict`` all pass here, strict or not. The outcome is logged and kept as ``backbone.load_report``.

    Args:
        state_dict: with tensors; keys under other prefixes are not touched.
        prefix: such as ``'backbone.'``, or ``''``.
        backbone: a ``SwinPosTransformer``.
        local_metadata: what :func:`note_table_windows` noted when the state dict was made. Without it, index buffers
            show a table's window; without these, a table in mmdet's names is assumed to be for the model's own window
            if its shape is the same, any other for a square one.

    Raises:
        ValueError: if a parameter would stay random, because the file has no weight for it or one that does not fit
            (both shapes are named), or if weights that the features depend on would be left out. Norms of the
            outputs, which classifiers do not have, may be missing.
    """
    for key in [key for key in state_dict if not isinstance(key, str)]:
        del state_dict[key]  # a whole checkpoint may have notes under numbers, on which torch would fail
    try:
        fitted, report = fit_state_dict(state_dict, prefix, backbone, local_metadata)
    except ValueError:
        # Part of a loaded model, such as an adapter: with strict=True, torch reports what is missing.
        part, state = _under(state_dict, prefix), backbone.state_dict()
        if backbone.load_report is None or not all(name in state and is_alike(value, state[name])
                                                   for name, value in part.items()):
            raise
        print_log(f'{len(part)} of the {len(state)} weights of {type(backbone).__name__} are in the checkpoint; the '
                  'others stay as they were loaded before', logger='current', level=logging.WARNING)
        return
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]
    state_dict.update((prefix + key, value) for key, value in fitted.items())
    backbone.load_report = report
    for line in report.lines():
        print_log(line, logger='current')
    print_log(report.details(), logger='current', level=logging.DEBUG)


def fit_state_dict(state_dict: Mapping[Any, Any], prefix: str, backbone: nn.Module,
                   local_metadata: Optional[Mapping[str, Any]] = None) -> Tuple[Dict[str, Tensor], LoadReport]:
    """Return the weights that :func:`adapt_state_dict` would load, and its report, without changing anything.

    Args:
        state_dict, prefix, backbone, local_metadata: see there.

    Returns:
        The weights in the backbone's names and shapes, without the prefix, and the report.

    Raises:
        ValueError: see there.
    """
    own = _under(state_dict, prefix)
    try:
        return _fit_swin(own, state_dict, prefix, backbone, local_metadata)
    except ValueError:
        if not _are_its_own(own, backbone, local_metadata):
            raise
        return own, LoadReport(f'{type(backbone).__name__}: its own weights, names and all', loaded=list(own))


def _under(state_dict: Mapping[Any, Any], prefix: str) -> Dict[str, Any]:
    return {key[len(prefix):]: value for key, value in state_dict.items() if isinstance(key, str)
            and key.startswith(prefix)}


def _are_its_own(own: Mapping[str, Any], backbone: nn.Module, noted: Optional[Mapping[str, Any]]) -> bool:
    """Return whether a backbone with wrapped, pruned or quantised modules gets exactly the keys of its state dict."""
    state = backbone.state_dict()
    windows = (noted or {}).get(TABLE_WINDOWS)
    same_windows = windows is None or [window and tuple(window) for window in windows] == list(backbone.variant.windows)
    return same_windows and own.keys() == state.keys() and all(is_alike(own[name], state[name]) for name in state)


def _fit_swin(own: Mapping[str, Any], state_dict: Mapping[Any, Any], prefix: str, backbone: nn.Module,
              local_metadata: Optional[Mapping[str, Any]]) -> Tuple[Dict[str, Tensor], LoadReport]:
    metadata = None if prefix else getattr(state_dict, '_metadata', None)
    try:
        weights = read_weights(own, local_metadata or {}, metadata)
    except ValueError as error:
        under = f' under {prefix!r}' if prefix else ''
        raise SettingError(f'the checkpoint has nothing{under} that {type(backbone).__name__} could load, all its '
                           f'parameters would stay random: {error}') from error
    model = backbone.variant
    variant = describe_weights(weights.state_dict, weights.windows, weights.grid, weights.position)
    report = LoadReport(f'{type(backbone).__name__}: {variant.name if variant else "Swin"} in {weights.where}')
    if variant and {variant.version, model.version} == {1, 2}:
        raise SettingError(f'these are weights of a Swin V{variant.version}, in {weights.where}; the model is a Swin '
                           f"V{model.version}: give the backbone type='{_TYPES[variant.version]}'")
    try:
        fitted = _fit(weights, variant, model, backbone, report)
    except ValueError as error:
        raise SettingError(f'{error}{_advice(variant, model)}') from error
    report.unused += weights.unused
    if weights.position not in (None, model.position):
        report.notes.append(f'position: the weights were trained with {weights.position!r}, the model has '
                            f'{model.position!r}')
    if weights.format.version == 2 and None in (variant.windows if variant else ()):
        report.notes.append(
            'position: the file does not say by which window offsets were measured in training; the model measures by '
            + ', '.join(str(window) for window in model.windows) + ' (pretrained_window_sizes)')
    if not weights.foreign:  # strict loading checks these
        fitted.update((key, weights.state_dict[key]) for key in report.unused if key in weights.state_dict)
    else:  # a classifier has no norms of the outputs; strict loading must not fail for that
        parameters = _parameters(backbone)
        fitted.update((name, parameters[name].detach()) for name in report.new)
    return fitted, report


def _parameters(backbone: nn.Module) -> Dict[str, nn.Parameter]:
    """Return parameters by their names in state dicts, which omit wrappers for activation checkpointing."""
    return {name.replace('_checkpoint_wrapped_module.', ''): value for name, value in backbone.named_parameters()}


def _fit(weights: SwinWeights, variant: Optional[Variant], model: Variant, backbone: nn.Module,
         report: LoadReport) -> Dict[str, Tensor]:
    """Fit the weights found to the backbone's parameters; fill the report."""
    own, fitted = weights.state_dict, {}
    parameters, buffers = _parameters(backbone), dict(backbone.named_buffers())
    for name, parameter in parameters.items():
        if name not in own:
            continue
        value = own[name]
        check_value(name, value, parameter)
        in_attention = _ATTENTION.match(name)
        if in_attention and in_attention[2].split('.')[0] in backbone.position.parameters:
            fitted[name] = _fit_position(name, value, parameter, backbone, weights, report)
        elif name == ABSOLUTE and (value.shape != parameter.shape or weights.grid is not None):
            fitted[name] = _fit_absolute(value, parameter, variant, model, report)
        elif name == PATCHES and _differs_in_channels_only(value, parameter):
            fitted[name] = adapt_channels(value, parameter.shape[1])
            report.adapted[name] = f'patch embedding from {value.shape[1]} to {parameter.shape[1]} channels'
        elif value.shape != parameter.shape:
            raise SettingError(f'{name}: the checkpoint has shape {tuple(value.shape)}, the model '
                               f'{tuple(parameter.shape)}')
        else:
            fitted[name] = value
            report.loaded.append(name)
    missing = [name for name in parameters if name not in own]
    report.new = [name for name in missing if OUTPUT_NORM.fullmatch(name)]
    report.unused = [name for name in own if name not in parameters]
    random = [name for name in missing if name not in report.new]
    if random:
        raise SettingError(
            f'the checkpoint has no weights for {len(random)} of the {len(parameters)} parameters of '
            f'{type(backbone).__name__}, such as {random[0]}: they would stay random')
    left_out = [name for name in report.unused if name not in buffers
                and _is_computed_with(name, len(model.depths)) and not _is_of_another_scheme(name, backbone)]
    if left_out:
        raise SettingError(f'the checkpoint has weights that the model has no parameters for: {len(left_out)}, such as '
                           f'{left_out[0]} of shape {tuple(own[left_out[0]].shape)}, would be left out')
    return fitted


def _is_computed_with(name: str, stages: int) -> bool:
    """Return whether a parameter of a larger model acts on the features of the first ``stages`` stages."""
    if name.startswith(('patch_embed.', ABSOLUTE)):
        return True
    stage = re.match(r'stages\.(\d+)\.(downsample\.)?', name)
    return stage is not None and (int(stage[1]) < stages - 1 if stage[2] else int(stage[1]) < stages)


def _is_of_another_scheme(name: str, backbone: nn.Module) -> bool:
    """Return whether a parameter in a stage belongs to a position scheme other than the backbone's."""
    foreign = set(parameters_of_position()) - set(backbone.position.parameters)
    return name.startswith('stages.') and not foreign.isdisjoint(name.split('.'))


def _advice(variant: Optional[Variant], model: Variant) -> str:
    """Describe the weights and the settings that they need, if those are not the model's."""
    changes = config_changes(variant, model) if variant else {}
    if not changes:
        return ''
    settings = ', '.join(f'{name}={value!r}' for name, value in changes.items())
    return f'. The weights are those of a {variant}, the model is a {model}: give the backbone {settings}'


def _source_window(noted: Optional[Any], value: Tensor, parameter: Tensor, target: Pair,
                   layout: Format) -> Optional[Pair]:
    """Return the window that a table was learned for; None if it is unknown."""
    if value.dim() != 2:
        return None
    if noted is not None and table_size(noted)[0] * table_size(noted)[1] == value.shape[0]:
        return tuple(noted)  # unless the table was resized after the note
    square = square_window(value.shape[0])
    if not layout.native and square is not None:
        return square  # other libraries have hardly any others
    return target if value.shape[0] == parameter.shape[0] else square


def _fit_position(name: str, value: Tensor, parameter: Tensor, backbone: nn.Module, weights: SwinWeights,
                  report: LoadReport) -> Tensor:
    """Convert a parameter of an attention module's position scheme as the scheme does it."""
    stage, own_name = _ATTENTION.match(name).groups()
    target, mode = backbone.variant.windows[int(stage)], backbone.resampling
    noted = weights.windows[int(stage)] if weights.windows and int(stage) < len(weights.windows) else None
    source = None if noted is None else tuple(noted)
    if own_name == TABLE:
        source = _source_window(noted, value, parameter, target, weights.format)
        if source is None or value.shape[1] != parameter.shape[1]:
            raise SettingError(
                f'{name}: the checkpoint has shape {tuple(value.shape)}, the model {tuple(parameter.shape)} for window '
                f'{target}; a table can be resampled if it has as many heads and is of a square window')
    value = _precise(value)
    fitted = backbone.position.convert(own_name, value, source, target, mode)
    if fitted.shape != parameter.shape:
        raise SettingError(f'{name}: the checkpoint has shape {tuple(value.shape)}, the model {tuple(parameter.shape)}')
    guessed = own_name == TABLE and noted is None and weights.format.native
    if guessed and not target[0] == target[1] == source[0]:
        note = f'position: the file does not say of which window its tables are, so {source} is assumed'
        report.notes += [note] * (note not in report.notes)
    if fitted is value:
        report.loaded.append(name)
    elif own_name == TABLE:
        grids = ['x'.join(map(str, table_size(window))) for window in (source, target)]
        report.resampled[name] = (f'relative position bias tables from {grids[0]} to {grids[1]} '
                                  f'(window {source} to {target}, {mode})')
    else:
        report.resampled[name] = f'{own_name} from window {source} to {target} ({mode})'
    return fitted


def _fit_absolute(value: Tensor, parameter: Tensor, variant: Optional[Variant], model: Variant,
                  report: LoadReport) -> Tensor:
    source = variant and variant.absolute_grid
    tokens = value.flatten(2).transpose(1, 2) if value.dim() == 4 else value  # (1, C, h, w) -> (1, h * w, C)
    if not source or tokens.dim() != 3 or tokens.shape[2] != parameter.shape[2]:
        raise SettingError(
            f'{ABSOLUTE}: the checkpoint has shape {tuple(value.shape)}, the model {tuple(parameter.shape)} for the '
            f'grid {model.absolute_grid}; an embedding can be resampled if it has as many channels and is of a square '
            'grid')
    if source == model.absolute_grid and value.dim() == 3:
        report.loaded.append(ABSOLUTE)
    elif source == model.absolute_grid:
        report.adapted[ABSOLUTE] = 'absolute position embedding from a map to tokens'
    else:
        report.resampled[ABSOLUTE] = f'absolute position embedding from {source} to {model.absolute_grid}'
    return resample_absolute(_precise(tokens), source, model.absolute_grid)


def _precise(value: Tensor) -> Tensor:
    """Return at least float32, so that half-precision weights are resampled without further loss on any device."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _differs_in_channels_only(value: Tensor, parameter: Tensor) -> bool:
    return (value.dim() == 4 and value.shape[1] != parameter.shape[1]
            and (value.shape[0], value.shape[2:]) == (parameter.shape[0], parameter.shape[2:]))


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Make a patch embedding for images of another number of channels, keeping its sum over channels.

    With more channels the learned ones are repeated in turn, each divided by how often it occurs: an image whose
    further channels repeat the first ones gives the same features. With fewer, each gets the learned ones' sum over
    the new number: a grey image gives the features of its copy in every channel.

    Args:
        weight: (C, learned channels, h, w).
        channels: the wanted number, at least 1.

    Returns:
        (C, channels, h, w), the same for the same number.
    """
    learned = weight.shape[1]
    if channels < learned:
        return weight.sum(1, keepdim=True).div(channels).expand(-1, channels, -1, -1).contiguous()
    source = [channel % learned for channel in range(channels)]
    times = weight.new_tensor([source.count(channel) for channel in source])
    return weight[:, source] / times.view(1, -1, 1, 1)
