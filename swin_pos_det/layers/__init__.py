"""The heart, in plain PyTorch: windows -> bias -> attention. Nothing here knows of mmengine or mmdet."""
from .attention import WindowAttention
from .position import resample_absolute
from .relative_bias import gather_bias, relative_position_index, resample_table, table_size
from .rows import by_rows, can_go_by_rows
from .softmax_attention import attend
from .tracing import is_exporting, is_tracing
from .window_rule import GLOBAL, WINDOW_POLICIES, WindowRule, image_scale
from .windows import WindowGroup, WindowPlan, merge, partition, window_plan

__all__ = [
    'GLOBAL', 'WINDOW_POLICIES', 'WindowAttention', 'WindowGroup', 'WindowPlan', 'WindowRule', 'attend', 'by_rows',
    'can_go_by_rows', 'gather_bias',
    'image_scale', 'is_exporting', 'is_tracing', 'merge', 'partition', 'relative_position_index',
    'resample_absolute', 'resample_table', 'table_size', 'window_plan'
]
