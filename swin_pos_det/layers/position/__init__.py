"""Position schemes: one small class for each way to add position to attention. See :mod:`.base` to add one."""
from .absolute import Absolute, resample_absolute
from .base import (
    POSITIONS,
    PositionScheme,
    PositionSetting,
    axes_of_heads,
    build_position,
    parameters_of_position,
    register_position,
    without_weight_decay,
)
from .conditional import PositionEncodingGenerator
from .continuous import LinearBias, LogBias
from .relative import NoPosition, Relative, RelativeOnly
from .rotary import AxialRotary, MixedRotary

__all__ = [
    'POSITIONS', 'Absolute', 'AxialRotary', 'LinearBias', 'LogBias', 'MixedRotary', 'NoPosition',
    'PositionEncodingGenerator', 'PositionScheme', 'PositionSetting', 'Relative', 'RelativeOnly', 'axes_of_heads',
    'build_position', 'parameters_of_position', 'register_position', 'resample_absolute', 'without_weight_decay'
]
