"""The heart, in plain PyTorch: windows -> bias -> attention. Nothing here knows of mmengine or mmdet."""
from .attention import WindowAttention
from .position import resample_absolute
from .relative_bias import gather_bias, relative_position_index, resample_table, table_size
from .windows import WindowPlan, merge, partition, window_plan

__all__ = [
    'WindowAttention', 'WindowPlan', 'gather_bias', 'merge', 'partition', 'relative_position_index',
    'resample_absolute', 'resample_table', 'table_size', 'window_plan'
]
