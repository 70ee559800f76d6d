"""All changes that importing swin_pos_det makes to MMEngine, in one table; :func:`apply` and :func:`revert` switch it.

``import swin_pos_det`` calls :func:`apply`; the environment variable ``SWIN_POS_DET_PATCHES=0`` prevents that. Each run
of an MMEngine runner logs one line about it. The import logs the same line to the logger ``swin_pos_det`` of Python's
``logging``, which prints nothing unless it is configured: MMEngine's logger would print to stdout, which is for the
output of the programs that import this package.
"""
from __future__ import annotations

import logging
import os

from mmengine.fileio import LocalBackend, io

from ..errors import SettingError
from .table import ENV, PATCHES, Patch, summary

__all__ = ['ENV', 'PATCHES', 'Patch', 'apply', 'apply_unless_disabled', 'is_applied', 'revert']

_LOGGER = logging.getLogger('swin_pos_det')
_applied = False


def is_applied() -> bool:
    """Return whether MMEngine is changed now."""
    return _applied


def apply() -> None:
    """Make every change of the table. Calling it again is harmless."""
    global _applied
    if _applied:
        return
    for patch in PATCHES:
        for change in patch.changes:
            change.apply()
    _forget_backends()
    _applied = True
    _LOGGER.info(summary())


def revert() -> None:
    """Restore the original objects, by identity. Calling it again is harmless.

    An object that other code has replaced since stays, with a warning.
    """
    global _applied
    if not _applied:
        return
    for patch in reversed(PATCHES):
        for change in reversed(patch.changes):
            if not change.revert():
                _LOGGER.warning('%r is not reverted: other code has replaced it since', change.key)
    _forget_backends()
    _applied = False


def _forget_backends() -> None:
    """Let MMEngine make new file backends: it keeps those that ``mmengine.fileio.put`` has used."""
    for key in [key for key, backend in io.backend_instances.items() if isinstance(backend, LocalBackend)]:
        del io.backend_instances[key]


def apply_unless_disabled() -> None:
    """Call :func:`apply` unless the environment variable is 0.

    Raises:
        SettingError: if the variable is neither 0 nor 1.
    """
    setting = os.environ.get(ENV, '1')
    if setting not in ('0', '1'):
        raise SettingError(f'the environment variable {ENV} must be 0 or 1, got {setting!r}')
    if setting == '1':
        apply()
