"""Types for argparse, so that what cannot be is told with the flag it was given to."""
from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence


def window_size(text: str, words: Sequence[str] = ()) -> int | tuple[int, int] | str:
    """An argparse type: a window on the command line, ``7`` or ``7,14`` for (h, w).

    Args:
        text: as typed.
        words: that may be typed instead of numbers; they are returned as they are.

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
    """An argparse type: a number of a kind between two others, either of which may itself be meant."""
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
factor = _number(float, 0, math.inf, 'a number above 0', (False, False))
share = _number(float, 0, 1, 'a number above 0 and below 1', (False, False))
fraction = _number(float, 0, 1, 'a number from 0 to 1', (True, True))
