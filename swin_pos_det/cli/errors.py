"""Report a user's errors in one line; bugs keep their traceback.

This package raises a class of :mod:`swin_pos_det.errors` for errors that a user can fix, so anything else that its own
code raises is a bug. Other code has no such classes. An error from there is a user's if one of MMEngine's builders
raises it while it builds a part of the config, and it is

- about a part or a setting that does not exist, or a setting that is missing;
- about a package that is not installed (this one at any place: MMEngine's visualizers import theirs late);
- of a class for wrong values, types, packages or files (``_REFUSALS``); but not for a keyword that is no setting of the
  part, as then the part's own code passes it on;
- a ``KeyError`` with the value of a setting, which was looked up and not found, or with a message.
"""
from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from ..errors import MissingPackageError, SettingError, UserError

_REFUSALS = (ValueError, TypeError, AssertionError, NotImplementedError, ImportError, OSError)
_PACKAGE = __name__.partition('.')[0]
_HINT = '(--traceback shows where)'


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise a :class:`UserError` for a refused setting or file; let bugs pass with their traceback.

    Raises:
        UserError: one of this package, even where MMEngine wrapped it in another exception; or a
            :class:`SettingError` by the rules of this module.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        known = _wrapped_user_error(error) or _build_error(error)
        if known is None:
            raise
        raise known from error


def closest(name: str, known: Iterable[Any]) -> str:
    """Return ``' (did you mean ...?)'`` with the known name that is most like another, or nothing if none is."""
    found = difflib.get_close_matches(name, [text for text in known if isinstance(text, str)], 1)
    return f' (did you mean {found[0]!r}?)' if found else ''


def _wrapped_user_error(error: BaseException | None) -> UserError | None:
    """Find the :class:`UserError` in the chain that led to ``error``: MMEngine wraps the errors of its parts."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _build_error(error: Exception) -> UserError | None:
    """Describe an error that left a builder of MMEngine; None if it is a bug or has nothing to do with building."""
    from mmengine.registry.build_functions import build_from_cfg, build_scheduler_from_cfg

    # The builders, and their local variables for the class and for the setting that names it.
    builders = {build_from_cfg.__code__: ('obj_cls', 'obj_type'),
                build_scheduler_from_cfg.__code__: ('scheduler_cls', 'scheduler_type')}
    if _is_missing_package(error):
        return MissingPackageError(f'a package is missing: {error} {_HINT}')
    frames = _frames(error)
    building = [frame for frame in frames if frame.f_code in builders]
    if not building:
        return None
    seen = building[-1].f_locals
    built, asked = map(seen.get, builders[building[-1].f_code])
    settings = seen.get('args', {})
    if built is not None:
        message = _constructor_error(error, built, settings, frames[-1])
    elif isinstance(asked, str):
        known = [key for registry in _with_parents(seen['registry']) for key in registry.module_dict]
        message = (f'there is no {seen["registry"].name} called {asked!r}{closest(asked, known)}. '
                   'If it is yours, the config must import its module: '
                   "custom_imports = dict(imports=['my_module'])")
    else:
        message = f'a part of the config has no valid type: {_text(error)}'
    return message and SettingError(f'{message} {_HINT}')


def _is_missing_package(error: Exception) -> bool:
    if isinstance(error, ModuleNotFoundError):
        return (error.name or '').partition('.')[0] != _PACKAGE
    return isinstance(error, (ImportError, RuntimeError)) and bool(re.search('pip install|[Pp]lease install|is not '
                                                                             'installed', str(error)))


def _constructor_error(error: Exception, built: Any, settings: Mapping[str, Any], where: FrameType) -> str | None:
    """Describe an error that was raised while ``built`` was called with ``settings``; None if it is a bug."""
    name = getattr(built, '__name__', str(built))
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error)) if isinstance(error, TypeError) else None
    if unexpected:
        if unexpected[1] not in settings:
            return None
        return f'{name} has no setting {unexpected[1]!r}{closest(unexpected[1], _setting_names(built))}'
    missing = [] if not isinstance(error, TypeError) else _missing(built, settings)
    if missing:
        return f'{name} needs the setting {", ".join(map(repr, missing))}'
    if where.f_globals.get('__name__', '').partition('.')[0] == _PACKAGE:
        return None
    if isinstance(error, _REFUSALS) or isinstance(error, KeyError) and _is_about(error, settings):
        return f'the settings of {name} are refused: {_text(error) or _some(settings)}'
    return None


def _is_about(error: KeyError, settings: Mapping[str, Any]) -> bool:
    """Return whether the key of a ``KeyError`` is the value of a setting, or a message."""
    key = error.args[0] if error.args else None
    return isinstance(key, str) and (' ' in key or any(isinstance(value, str) and value == key
                                                       for value in settings.values()))


def _text(error: Exception) -> str:
    """Return the message of an error. That of a ``KeyError`` is often the key alone, so its type is added."""
    if not isinstance(error, KeyError):
        return str(error)
    return error.args[0] if ' ' in str(error.args[0]) else f'KeyError: {error}'


def _some(settings: Mapping[str, Any]) -> str:
    """Return the first settings that fit in a line, for an assertion without a message."""
    shown = [f'{key}={value!r}' for key, value in settings.items() if len(repr(value)) < 40]
    return 'an assertion fails with ' + ', '.join(shown[:6])


def _with_parents(registry: Any) -> Iterator[Any]:
    while registry is not None:
        yield registry
        registry = registry.parent


def _setting_names(built: Any) -> Iterator[str]:
    """Yield the parameters of a part and of its bases, as constructors pass keywords on to those."""
    for kind in inspect.getmro(built) if inspect.isclass(built) else [built]:
        with contextlib.suppress(TypeError, ValueError):  # of classes that are not Python's
            yield from inspect.signature(kind).parameters


def _missing(built: Any, settings: Mapping[str, Any]) -> list[str]:
    """Return the parameters that a part requires and ``settings`` lack."""
    with contextlib.suppress(TypeError, ValueError):
        return [name for name, parameter in inspect.signature(built).parameters.items() if name not in settings
                and parameter.default is parameter.empty
                and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)]
    return []


def _frames(error: Exception) -> list[FrameType]:
    found, trace = [], error.__traceback__
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return found
