"""Checks that a value from a file can be a parameter: PyTorch copies integers, NaN and more without warning."""
from __future__ import annotations

from typing import Any, Iterable, Mapping, Tuple

import torch
from torch import Tensor, nn

from ..errors import SettingError


def check_value(name: str, value: Any, own: Any) -> None:
    """Check that a value can be copied into a tensor, except for its shape.

    Args:
        name: of the parameter or buffer, for the message.
        value: from a checkpoint.
        own: the tensor of the model.

    Raises:
        ValueError: if the value is not a tensor, of another kind (integers, complex, sparse, quantised or nested, or
            without values as on the meta device), or has NaN or infinity, also once it has the model's precision.
    """
    problem = _kind_problem(value, own)
    if problem is None and isinstance(own, Tensor) and own.is_floating_point() \
            and type(value) in (Tensor, nn.Parameter) and not value.is_meta:  # subclasses may be spread over processes
        problem = _number_problem(value, own)
    if problem is not None:
        raise SettingError(f'{name}: the checkpoint has {problem}')


def check_values(tensors: Iterable[Tuple[str, Tensor]], state_dict: Mapping[Any, Any]) -> None:
    """Check that the values of a state dict can be copied into tensors of the same names and shapes.

    Raises:
        ValueError: naming the first invalid one, see :func:`check_value`.
    """
    for name, own in tensors:
        value = state_dict.get(name, own)
        if value is not own and getattr(value, 'shape', own.shape) == own.shape:
            check_value(name, value, own)


def is_alike(value: Any, own: Any) -> bool:
    """Return whether an entry of a state dict can replace the model's own, which may be no tensor if quantised."""
    if not isinstance(own, Tensor):
        return type(value) is type(own)
    if getattr(value, 'shape', None) != own.shape:
        return False
    try:
        check_value('', value, own)
    except SettingError:
        return False
    return True


def _kind_problem(value: Any, own: Any) -> str | None:
    if not isinstance(value, Tensor):
        return f'a {type(value).__name__}, not a tensor'
    if value.is_nested or value.layout != torch.strided:
        return 'a nested tensor' if value.is_nested else f'a tensor that is {str(value.layout)[6:].replace("_", " ")}'
    if value.is_meta and not own.is_meta:
        return 'a tensor without values (on the meta device)'
    if value.is_quantized != own.is_quantized or value.is_complex() != own.is_complex() \
            or value.is_floating_point() != own.is_floating_point():
        wanted = 'floating-point numbers' if own.is_floating_point() else str(own.dtype)[6:]
        return f'{str(value.dtype)[6:]}, not {wanted}' + '; quantised weights are not supported' * value.is_quantized
    return None


@torch.no_grad()
def _number_problem(value: Tensor, own: Tensor) -> str | None:
    """Describe a value that is not finite, if any. A finite sum shows in one pass that all are finite."""
    cast = value.to(own.dtype)
    if cast.numel() == 0 or torch.isfinite(cast.sum(dtype=torch.float32 if own.dtype.itemsize < 4 else None)):
        return None
    wrong = int((~torch.isfinite(cast)).sum())
    if wrong == 0 or not (own.is_meta or torch.isfinite(own).all()):
        return None
    was = int((~torch.isfinite(value)).sum())
    if was == wrong:
        return f'NaN or infinity in {wrong} of {cast.numel()} numbers'
    return f'{wrong} of {cast.numel()} numbers too large for {str(own.dtype)[6:]}'
