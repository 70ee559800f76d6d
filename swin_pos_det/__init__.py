"""swin-pos-det: a Swin backbone for MMDetection whose position-bias tables follow any window.

Importing it registers the backbone, the data set, the metric and the hooks with mmdet, and changes MMEngine by what
:mod:`swin_pos_det.mmengine_patches` lists, unless the environment variable ``SWIN_POS_DET_PATCHES`` is 0. A program
that sets ``DEFER_REGISTRATION = True`` before it imports the package calls :func:`register` itself: the tools do so
after they have parsed their command line, as importing torch and mmdet takes seconds that ``--help`` should not take.
Without mmdet there is nothing to register: a server that runs exported detectors needs neither it nor torch.
"""
import importlib.util
import sys

from .version import __version__

__all__ = ['__version__', 'register']


def register() -> None:
    """Import the modules that register something with mmdet or MMEngine, and change MMEngine. May be called again."""
    from . import data, engine, evaluation, mmengine_patches, models  # noqa: F401
    mmengine_patches.apply_unless_disabled()


if importlib.util.find_spec('mmdet') and not getattr(sys.modules.get('__main__'), 'DEFER_REGISTRATION', False):
    register()
