"""swin-pos-det: a Swin backbone for MMDetection whose position-bias tables follow any window.

Importing it registers the backbone, the data set, the metric and the hooks with mmdet, and makes MMEngine read
checkpoints safely.
"""
from . import checkpoints, data, engine, evaluation, models  # noqa: F401  imported for their registrations
from .version import __version__

__all__ = ['__version__']
