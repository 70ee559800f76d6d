"""Whether the code is run, or traced into a graph by ``torch.compile``, ``torch.export`` or an ONNX exporter."""
from __future__ import annotations

import torch


def is_tracing() -> bool:
    """True while a graph is made: sizes may be symbols then, and whatever is branched on is fixed in the graph."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def is_exporting() -> bool:
    """True while the graph is made for another run time, which knows plain operators only and any size."""
    if torch.onnx.is_in_onnx_export():
        return True
    asked = getattr(torch.compiler, 'is_exporting', None)  # torch 2.7
    return torch.compiler.is_compiling() and asked is not None and asked()
