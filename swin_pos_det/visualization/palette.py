"""Colours for any number of classes."""
from __future__ import annotations

import colorsys
import itertools
from typing import Iterable, Iterator, Optional

Color = tuple[int, int, int]

_GOLDEN_RATIO = 0.618033988749895
# (saturation, value) of successive rounds through the hues: neighbours in the list differ in both hue and lightness.
_TONES = ((0.85, 1.), (1., 0.75), (0.55, 0.95), (0.75, 0.6))


def class_palette(num_classes: int, palette: Optional[Iterable[Color]] = None) -> list[Color]:
    """Return a colour for each class: those given, then generated ones.

    Args:
        num_classes: number of colours, at least 0.
        palette: RGB colours, 0 to 255, such as a data set's. It may be shorter or longer than needed.

    Returns:
        At least ``num_classes`` RGB colours. The generated ones are all different, also from the given ones, and do
        not depend on ``num_classes``.
    """
    colors = [(int(red), int(green), int(blue)) for red, green, blue in palette or ()]
    used = set(colors)
    generated = _generate()
    while len(colors) < num_classes:
        color = next(generated)
        if color not in used:
            used.add(color)
            colors.append(color)
    return colors


def _generate() -> Iterator[Color]:
    """Yield colours of evenly spread hues, without end."""
    for index in itertools.count():
        saturation, value = _TONES[index % len(_TONES)]
        # The dimming keeps colours distinct when rounding would make later hues equal to earlier ones.
        value *= 1 - 0.2 * (index // 97 % 5) / 5
        rgb = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, saturation, value)
        yield tuple(round(255 * part) for part in rgb)
