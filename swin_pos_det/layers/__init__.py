"""The heart, in plain PyTorch: windows -> bias -> attention. Nothing here knows of mmengine or mmdet."""
from .attention import ATTENTIONS, WindowAttention
from .gelu_linear import gelu_linear
from .linear import Layer, prepared_layer, prepared_linear, recurring_rows
from .plain import has_hooks, is_plain
from .position import (
    POSITIONS,
    PositionScheme,
    build_position,
    parameters_of_position,
    register_position,
    resample_absolute,
    without_weight_decay,
)
from .precision import autocast_dtype_on_cpu
from .relative_bias import gather_bias, relative_position_index, resample_table, table_size
from .rows import ROWS, blocks, can_go_by_rows
from .softmax_attention import attend
from .tracing import is_compiling, is_exporting, is_tracing
from .window_rule import GLOBAL, WINDOW_POLICIES, WindowRule, image_scale
from .windows import Cut, WindowGroup, WindowPlan, merge, partition, window_plan

__all__ = [
    'ATTENTIONS', 'Cut', 'GLOBAL', 'Layer', 'POSITIONS', 'PositionScheme', 'ROWS', 'WINDOW_POLICIES',
    'WindowAttention', 'WindowGroup', 'WindowPlan', 'WindowRule', 'attend', 'autocast_dtype_on_cpu', 'blocks',
    'build_position', 'can_go_by_rows', 'gather_bias', 'gelu_linear', 'has_hooks', 'image_scale', 'is_compiling',
    'is_exporting', 'is_plain', 'is_tracing', 'merge', 'parameters_of_position', 'partition', 'prepared_layer',
    'prepared_linear', 'recurring_rows', 'register_position', 'relative_position_index', 'resample_absolute',
    'resample_table', 'table_size', 'window_plan', 'without_weight_decay'
]
