"""How this machine computes a Swin's attention and blocks: tensors in, tensors out, torch only.

Every choice of an implementation is made here; ``layers/`` and ``models/`` say what is computed.
"""
from .window_attention import IMPLEMENTATIONS, use_impl

__all__ = ['IMPLEMENTATIONS', 'use_impl']
