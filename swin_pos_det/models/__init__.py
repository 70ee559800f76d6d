"""The mmdet side: the registered backbone and its parts."""
from .swin_pos import SwinPosTransformer

__all__ = ['SwinPosTransformer']
