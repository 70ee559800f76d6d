"""Types for argparse: an invalid value is reported together with its flag."""
from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence

from ..choices import BENCHMARK_MODELS


def window_size(text: str, words: Sequence[str] = ()) -> int | tuple[int, int] | str:
    """Parse a window, ``7`` or ``7,14`` for (h, w), as an argparse type.

    Args:
        text: as typed.
        words: allowed instead of numbers; they are returned unchanged.

    Raises:
        argparse.ArgumentTypeError: if ``text`` is none of these, or a side is less than 1.
    """
    if text in words:
        return text
    sides = [int(side) if side.isascii() and side.isdigit() else 0 for side in re.split(r'[, ]+', text.strip(' ()[]'))]
    if len(sides) > 2 or min(sides) < 1:
        alternatives = ''.join(f', or {word!r}' for word in words)
        raise argparse.ArgumentTypeError(f'{text!r} is no window: write 7, or 7,14 for (h, w){alternatives}')
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _number(kind: type, low: float, high: float, meant: str, ends: tuple[bool, bool]) -> Callable[[str], float]:
    """Make an argparse type for numbers between two others; ``ends`` says which of them are included."""
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low < value < high or ends[0] and value == low or ends[1] and value == high):
            raise argparse.ArgumentTypeError(f'{text!r} must be {meant}')
        return value

    return parse


count = _number(int, 1, math.inf, 'a whole number of at least 1', (True, False))
count_from_0 = _number(int, 0, math.inf, 'a whole number of at least 0', (True, False))
factor = _number(float, 0, math.inf, 'a number above 0', (False, False))
share = _number(float, 0, 1, 'a number above 0 and below 1', (False, False))
tile_size = _number(int, 32, math.inf, 'a whole number of at least 32 pixels', (True, False))
tile_overlap = _number(float, 0, 0.9, 'a number from 0 to 0.9', (True, True))
fraction = _number(float, 0, 1, 'a number from 0 to 1', (True, True))
ap_points = _number(float, 0, 100, 'AP points from 0 to 100, such as 0.1', (True, True))


def square_window(text: str) -> int | str:
    """Parse the side of a square window, or ``global``, as an argparse type."""
    value = window_size(text, ('global', ))
    if isinstance(value, tuple):
        raise argparse.ArgumentTypeError(f"{text!r} is no square window: write 7, or 'global'")
    return value


def native_or_window(text: str) -> int | tuple[int, int] | str | None:
    """Parse a window, ``global``, or ``native`` for the config's own, which is None, as an argparse type."""
    value = window_size(text, ('global', 'native'))
    return None if value == 'native' else value


def image_size(text: str) -> tuple[int, int]:
    """Parse ``512``, or ``800x1344`` for (h, w), as an argparse type."""
    sides = text.split('x')
    if len(sides) in (1, 2) and all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides):
        return int(sides[0]), int(sides[-1])
    raise argparse.ArgumentTypeError(f'{text!r} is no size: write 512, or 800x1344 for height x width')


def model_and_python(text: str) -> tuple[str, str]:
    """Parse ``MODEL=PATH``, a model of the benchmark and a Python interpreter, as an argparse type."""
    name, equals, path = text.partition('=')
    if not equals or name not in BENCHMARK_MODELS:
        raise argparse.ArgumentTypeError(f'{text!r} is not MODEL=PATH, with a model of {", ".join(BENCHMARK_MODELS)}')
    return name, path


def file_name(*endings: str) -> Callable[[str], str]:
    """Return an argparse type for the name of a file with one of these endings."""
    def check(name: str) -> str:
        if not name.endswith(endings):
            allowed = ' or '.join(filter(None, (', '.join(endings[:-1]), endings[-1])))
            raise argparse.ArgumentTypeError(f'{name!r} must end in {allowed}')
        return name
    return check


def device(name: str) -> str:
    """Check that this machine has a device, as an argparse type."""
    import torch
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        raise argparse.ArgumentTypeError(f'cannot use {name!r} ({str(error).splitlines()[0]})') from error
    return name
