"""swin-pos-det: a Swin backbone for MMDetection whose position-bias tables follow any window.

Importing it registers the backbone, the data set, the metric and the hooks with mmdet, and makes MMEngine read
checkpoints safely. A program that sets ``DEFER_REGISTRATION = True`` before it imports the package calls
:func:`register` itself: the tools do so after they have parsed their command line, as importing torch and mmdet takes
seconds that ``--help`` should not take.
"""
import sys

from .version import __version__

__all__ = ['__version__', 'register']


def register() -> None:
    """Import the modules that register something with mmdet or MMEngine. Calling it again is harmless."""
    from . import checkpoints, data, engine, evaluation, models  # noqa: F401


if not getattr(sys.modules.get('__main__'), 'DEFER_REGISTRATION', False):
    register()
