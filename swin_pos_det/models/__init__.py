"""The mmdet side: the registered backbone, its parts, and the data preprocessor that serves it."""
from . import norms  # noqa: F401  registers LayerNorm2d
from .assigners import VectorizedBboxOverlaps2D, VectorizedMaxIoUAssigner
from .data_preprocessor import SwinPosDataPreprocessor, attach_valid_sizes, valid_sizes
from .pooling import ValidAveragePooling
from .roi_extractor import VectorizedSingleRoIExtractor
from .rpn_head import VectorizedRPNHead
from .swin_transformer import SwinPosTransformer
from .swin_transformer_v2 import SwinPosTransformerV2
from .tta_model import SwinPosTTAModel

__all__ = [
    'SwinPosDataPreprocessor', 'SwinPosTTAModel', 'SwinPosTransformer', 'SwinPosTransformerV2', 'ValidAveragePooling',
    'VectorizedBboxOverlaps2D', 'VectorizedMaxIoUAssigner', 'VectorizedRPNHead', 'VectorizedSingleRoIExtractor',
    'attach_valid_sizes', 'valid_sizes'
]
