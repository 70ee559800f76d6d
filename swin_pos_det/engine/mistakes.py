"""A user's mistakes, told in one line; bugs keep their traceback."""
from __future__ import annotations

import contextlib
import difflib
import inspect
import linecache
import re
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from mmengine.registry.build_functions import build_from_cfg, build_scheduler_from_cfg

# What MMEngine builds the parts of a config with, and its variables there for the class and for what the config says.
_BUILDERS = {build_from_cfg.__code__: ('obj_cls', 'obj_type'),
             build_scheduler_from_cfg.__code__: ('scheduler_cls', 'scheduler_type')}
_HINT = '(--traceback shows where)'


class UserError(Exception):
    """Something on the command line or in a config is wrong; the message says what, and what would be right."""


@contextlib.contextmanager
def telling_mistakes() -> Iterator[None]:
    """Makes a :class:`UserError` of a setting or file that is refused; bugs keep their traceback.

    Refused means: by a ``raise`` in this package; or while a part is being built from the settings of a config, whoever
    wrote it, by a ``raise`` or ``assert``, for a setting that it does not have, or because there is no such part.
    """
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        if _raised_in_this_package(error):
            raise UserError(str(error)) from error
        _tell_refused_settings(error)
        raise
    except (KeyError, AssertionError) as error:
        _tell_refused_settings(error)
        raise


def closest(name: str, known: Iterable[Any]) -> str:
    """``' (did you mean ...?)'`` with the known name that is most like another, or nothing if none is."""
    found = difflib.get_close_matches(name, [text for text in known if isinstance(text, str)], 1)
    return f' (did you mean {found[0]!r}?)' if found else ''


def _raised_in_this_package(error: BaseException | None) -> bool:
    """Whether ``error``, or one in the chain that led to it, comes from a ``raise`` in this package.

    A ``TypeError`` that Python itself raises in a line of this package is a bug of ours and not meant.
    """
    if error is None:
        return False
    frames = _frames(error)
    if (frames and frames[-1].tb_frame.f_globals.get('__name__', '').startswith('swin_pos_det.')
            and _line(frames[-1]).startswith('raise ')):
        return True
    return _raised_in_this_package(error.__context__)


def _tell_refused_settings(error: BaseException) -> None:
    """Raises a :class:`UserError` if ``error`` comes from building a part that a config describes."""
    frames = _frames(error)
    building = [frame for frame in frames if frame.tb_frame.f_code in _BUILDERS]
    if not building:
        return
    seen = building[-1].tb_frame.f_locals
    built, asked = map(seen.get, _BUILDERS[building[-1].tb_frame.f_code])
    name = getattr(built, '__name__', str(built))
    wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if built is None and isinstance(asked, str):
        known = [key for registry in _with_parents(seen['registry']) for key in registry.module_dict]
        message = (f'there is no {seen["registry"].name} called {asked!r}{closest(asked, known)}. '
                   'If it is yours, the config must import its module: '
                   "custom_imports = dict(imports=['my_module'])")
    elif isinstance(error, TypeError) and wrong and wrong[1] in seen.get('args', ()):
        message = f'{name} has no setting {wrong[1]!r}{closest(wrong[1], _settings_of(built))}'
    elif built is not None and _line(frames[-1]).startswith(('raise ', 'assert ')):
        what = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or _line(frames[-1])
        message = f'the settings of {name} are refused: {what}'
    else:
        return
    raise UserError(f'{message} {_HINT}') from error


def _with_parents(registry: Any) -> Iterator[Any]:
    while registry is not None:
        yield registry
        registry = registry.parent


def _settings_of(built: Any) -> Iterator[str]:
    for kind in inspect.getmro(built) if inspect.isclass(built) else [built]:
        with contextlib.suppress(TypeError, ValueError):  # of classes that are not Python's
            yield from inspect.signature(kind).parameters


def _frames(error: BaseException) -> list[TracebackType]:
    found, trace = [], error.__traceback__
    while trace is not None:
        found.append(trace)
        trace = trace.tb_next
    return found


def _line(frame: TracebackType) -> str:
    return linecache.getline(frame.tb_frame.f_code.co_filename, frame.tb_lineno).strip()
