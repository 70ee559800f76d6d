"""The heart, in plain PyTorch: windows -> bias -> attention. Nothing here knows of mmengine or mmdet."""
from .attention import WindowAttention
from .position import resample_absolute
from .relative_bias import gather_bias, relative_position_index, resample_table, table_size
from .window_rule import GLOBAL, WINDOW_POLICIES, WindowRule, image_scale
from .windows import WindowPlan, merge, partition, window_plan

__all__ = [
    'GLOBAL', 'WINDOW_POLICIES', 'WindowAttention', 'WindowPlan', 'WindowRule', 'gather_bias', 'image_scale', 'merge',
    'partition', 'relative_position_index', 'resample_absolute', 'resample_table', 'table_size', 'window_plan'
]
