"""How this machine computes a Swin's attention and blocks: tensors in, tensors out, torch only.

Every choice of an implementation is made here; ``layers/`` and ``models/`` say what is computed.

- ``window_attention``: the one function that attends, and the choice between ``reference``, ``sdpa``, ``cpu_training``
  and ``triton``. ``heads`` (split and join) and ``masks`` are what these share.
- ``windows``: which token is in which window; ``position_bias``: what is added to the logits; ``patches``: padding to
  whole patches.
- ``feed_forward``: feed-forward networks in training; ``cpu_inference``: whole blocks, for inference on a CPU;
  ``cuda_graphs``: recorded forwards.
- ``nms``: suppression that stops early; ``elementwise``: what the last bit of a sigmoid depends on.
- ``runtime``: how the code is being run (traced, under autocast, with hooks); ``optimizations``: switches.
"""
from .window_attention import IMPLEMENTATIONS, use_impl

__all__ = ['IMPLEMENTATIONS', 'use_impl']
