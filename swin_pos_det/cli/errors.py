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

from ..errors import UserError

_HINT = '(--traceback shows where)'


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Makes a :class:`UserError` of a setting or file that is refused; bugs keep their traceback.

    Errors of this package's own say so by their class (:mod:`swin_pos_det.errors`). Others are settings that are
    refused while MMEngine builds a part of a config, whoever wrote the part.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        own = _own_error(error)
        if own is not None:
            raise own from error
        _tell_refused_settings(error)
        raise


telling_mistakes = user_errors  # the name before; goes when no branch uses it any more


def closest(name: str, known: Iterable[Any]) -> str:
    """``' (did you mean ...?)'`` with the known name that is most like another, or nothing if none is."""
    found = difflib.get_close_matches(name, [text for text in known if isinstance(text, str)], 1)
    return f' (did you mean {found[0]!r}?)' if found else ''


def _own_error(error: BaseException | None) -> UserError | None:
    """The :class:`UserError` in the chain that led to ``error``, if any: MMEngine wraps what its parts raise."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _tell_refused_settings(error: BaseException) -> None:
    """Raises a :class:`UserError` if ``error`` comes from building a part that a config describes."""
    from mmengine.registry.build_functions import build_from_cfg, build_scheduler_from_cfg

    # What MMEngine builds the parts of a config with, and its variables there for the class and for the setting.
    builders = {build_from_cfg.__code__: ('obj_cls', 'obj_type'),
                build_scheduler_from_cfg.__code__: ('scheduler_cls', 'scheduler_type')}
    frames = _frames(error)
    building = [frame for frame in frames if frame.tb_frame.f_code in builders]
    if not building:
        return
    seen = building[-1].tb_frame.f_locals
    built, asked = map(seen.get, builders[building[-1].tb_frame.f_code])
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
