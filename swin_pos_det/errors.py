"""Errors that a user can fix: each message names the offending value or file and says what would be right.

The tools print them in one line. Anything else that is raised is a bug and keeps its traceback. Every class is also the
built-in exception that one would expect, so that ``except ValueError`` works as ever.
"""
from __future__ import annotations


class UserError(Exception):
    """Base of all errors that a user can fix."""


class SettingError(UserError, ValueError):
    """A setting has a value that is not allowed."""


class SettingTypeError(SettingError, TypeError):
    """A setting has a value of the wrong type."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that a setting names does not exist."""


class OccupiedPathError(UserError, FileExistsError):
    """Something else stands where a file or folder is to be written."""


class MissingPackageError(UserError, ImportError):
    """An optional package is needed and not installed, or too old."""


class TrainingDivergedError(UserError, FloatingPointError):
    """A loss or a weight of a training is NaN or infinite."""
