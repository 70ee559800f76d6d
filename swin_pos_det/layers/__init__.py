"""Attention and position as ``nn.Module``s, in plain PyTorch. Nothing here depends on mmengine or mmdet."""
from ..ops.position_bias import PositionBias, gather_bias, relative_position_index, table_size
from ..ops.windows import WindowPlan, WindowSpec, window_partition, window_plan, window_reverse
from .attention import ATTENTIONS, WindowAttention
from .norm import LayerNorm2d
from .position import (
    POSITIONS,
    PositionScheme,
    PositionSetting,
    build_position,
    parameters_of_position,
    register_position,
    resample_absolute,
    without_weight_decay,
)
from .relative_bias import RESAMPLING_MODES, resample_table
from .window_policy import GLOBAL, WINDOW_POLICIES, WindowRule, image_scale

__all__ = [
    'ATTENTIONS', 'GLOBAL', 'LayerNorm2d', 'POSITIONS', 'PositionBias', 'PositionScheme', 'PositionSetting',
    'RESAMPLING_MODES', 'WINDOW_POLICIES', 'WindowAttention', 'WindowPlan', 'WindowRule', 'WindowSpec',
    'build_position', 'gather_bias', 'image_scale', 'parameters_of_position', 'register_position',
    'relative_position_index', 'resample_absolute', 'resample_table', 'table_size', 'window_partition', 'window_plan',
    'window_reverse', 'without_weight_decay'
]
