"""Types shared by signatures all over the package."""
from __future__ import annotations

from typing import Tuple

# Height and width, or down and across, in this order: of images, maps, windows, strides, shifts.
Pair = Tuple[int, int]
