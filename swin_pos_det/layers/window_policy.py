"""The window of a feature map: the setting, and the rules that adapt it to the map."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Union

from ..choices import WINDOW_POLICIES  # noqa: F401  the policies of WindowRule
from ..ops.windows import Pair

GLOBAL = 'global'

# Range of a policy's windows, relative to the nominal window.
FIT_RANGE = 0.75, 1.25
SCALE_RANGE = 0.5, 2.


@dataclass(frozen=True)
class WindowRule:
    """The window of a stage.

    Policies, each applied per axis:

    - ``'fixed'``: the nominal window at every map size. The map is padded to whole windows, as mmdet does it.
    - ``'fit'``: of the windows from 3/4 to 5/4 of the nominal one, that with the least padding; of several, the
      nearest to the nominal one; of two, the larger. A map no larger than 5/4 of the nominal window becomes one
      window of its own size. So it never has more tokens than ``'fixed'``. With a nominal window of 7, a map of
      25 tokens gets windows of 6 or 7 or 8 that pad it to 30, 28 or 32: 7. A map of 24: 6 or 8, and so 8.
    - ``'scale'``: the nominal window times the scale of the image against a reference size, rounded, from half to
      twice the nominal window and no larger than the map. So a window covers the same share of an object when the
      image is resized.

    Under ``'fit'`` and ``'scale'`` an axis with a single window is not shifted: it has no neighbour.
    ``'global'`` as the size is one window over the whole map, unshifted: a plain Transformer's attention.

    Attributes:
        size: nominal window (h, w) in tokens, or ``'global'``.
        policy: one of :data:`WINDOW_POLICIES`.
    """

    size: Union[Pair, str]
    policy: str = 'fixed'

    def window(self, map_size: Pair, scale: float = 1.) -> Pair:
        """Return the window (h, w) for a map of (h, w) tokens of an image of ``scale`` times the reference size."""
        if self.size == GLOBAL:
            return tuple(map_size)
        if self.policy == 'fit':
            return fit_window(map_size[0], self.size[0]), fit_window(map_size[1], self.size[1])
        if self.policy == 'scale':
            return (min(map_size[0], scale_window(self.size[0], scale)),
                    min(map_size[1], scale_window(self.size[1], scale)))
        return self.size

    def shift(self, map_size: Pair, window: Pair) -> Pair:
        """Return the cyclic shift (down, right) of shifted blocks: half a window, rounded down."""
        if self.policy == 'fixed' and self.size != GLOBAL:
            return window[0] // 2, window[1] // 2  # also where there is one window: mmdet does so
        return tuple(side // 2 if side < length else 0 for side, length in zip(window, map_size))


def fit_window(length: int, nominal: int) -> int:
    """Return the window side that ``'fit'`` chooses for an axis of ``length`` tokens, see :class:`WindowRule`."""
    low, high = max(1, math.ceil(nominal * FIT_RANGE[0])), max(1, math.floor(nominal * FIT_RANGE[1]))
    if length <= high:
        return length
    return min(range(low, high + 1), key=lambda side: (-(-length // side) * side, abs(side - nominal), -side))


def scale_window(nominal: int, scale: float) -> int:
    """Return the nominal side times ``scale``, rounded half up, within :data:`SCALE_RANGE` of the nominal side."""
    low, high = max(1, math.ceil(nominal * SCALE_RANGE[0])), math.floor(nominal * SCALE_RANGE[1])
    return min(max(math.floor(nominal * scale + 0.5), low), high)


def image_scale(image: Pair, reference: Pair) -> float:
    """Return the size of an image relative to a reference size, both (h, w) or (w, h) in pixels.

    The factor by which a keep-ratio resize, such as MMDet's ``Resize(scale=reference)``, would have enlarged an image
    that just fits the reference: the larger of the ratios of the long and of the short sides.
    """
    return max(max(image) / max(reference), min(image) / min(reference))
