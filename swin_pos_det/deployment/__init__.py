"""Backbones and detectors for other runtimes.

What is exported here runs elsewhere: ``OnnxDetector`` is loaded without torch and MMDetection, so names are looked up
when they are first used.
"""
from __future__ import annotations

import importlib
from typing import Any

_MODULES = dict(
    compare_exported='export', export_backbone='export', load_exported='export', time_exported='export',
    export_detector='detector_export', OnnxDetector='onnx_detector')
__all__ = ['OnnxDetector', 'compare_exported', 'export_backbone', 'export_detector', 'load_exported', 'time_exported']


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'.{_MODULES[name]}', __name__), name)
