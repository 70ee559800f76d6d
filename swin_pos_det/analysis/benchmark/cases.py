"""The cases to measure: all combinations of the command line's lists, and the presets."""
from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Union

if TYPE_CHECKING:  # --help of the tools imports no torch
    from ...ops.windows import Pair

Window = Union[int, str]

MODES = ('forward', 'train')
DETECTOR_MODES = ('train', 'inference')


@dataclass(frozen=True)
class Case:
    """One input and one way of running.

    Attributes:
        mode: 'forward': under ``no_grad``, in eval mode; 'train': forward and backward.
        window: side in tokens, or 'global'.
        size: (h, w) of the images in pixels.
        batch: images.
        dtype: 'float32', or 'bf16' or 'fp16' by autocast.
        compiled: by ``torch.compile``.
    """

    mode: str = 'forward'
    window: Window = 7
    size: Pair = (800, 1344)
    batch: int = 1
    dtype: str = 'float32'
    compiled: bool = False

    @property
    def pixels(self) -> int:
        """Return the pixels of the whole batch."""
        return self.batch * self.size[0] * self.size[1]

    def asdict(self) -> Dict[str, Any]:
        """Return a dict for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (f'{self.mode} {self.dtype} {"compiled" if self.compiled else "eager"} window {self.window} '
                f'{self.batch} x {self.size[0]}x{self.size[1]}')


@dataclass(frozen=True)
class DetectorCase:
    """One input to a whole detector.

    Attributes:
        mode: 'train': a training step with its optimizer; 'inference': up to boxes and masks.
        config: path of the detector's config.
        size: (h, w) of the images in pixels.
        batch: images.
        dtype: 'float32', or 'bf16' or 'fp16' by autocast.
        compiled: not offered.
    """

    mode: str
    config: str
    size: Pair = (800, 1344)
    batch: int = 1
    dtype: str = 'float32'
    compiled: bool = False

    @property
    def pixels(self) -> int:
        """Return the pixels of the whole batch."""
        return self.batch * self.size[0] * self.size[1]

    def asdict(self) -> Dict[str, Any]:
        """Return a dict for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f'{self.mode} {self.dtype} {self.config} {self.batch} x {self.size[0]}x{self.size[1]}'


# 'full' is the whole grid; the others are its parts in the tables of the documentation.
PRESETS: Dict[str, Dict[str, Sequence[Any]]] = {
    'quick': dict(modes=['forward'], windows=[7], sizes=[(512, 512)], batches=[1], dtypes=['float32'],
                  runs=['eager']),
    'windows': dict(modes=['forward'], windows=[7, 12, 16, 24], sizes=[(800, 1344)], batches=[1], dtypes=['float32'],
                    runs=['eager', 'compiled']),
    'pixels': dict(modes=['forward'], windows=[7], sizes=[(512, 512), (800, 1344), (1600, 2688)], batches=[1],
                   dtypes=['float32'], runs=['eager']),
    'train': dict(modes=['train'], windows=[7, 12, 16], sizes=[(512, 512)], batches=[2], dtypes=['float32'],
                  runs=['eager']),
    'full': dict(modes=['forward', 'train'], windows=[7, 12, 16, 24],
                 sizes=[(224, 224), (512, 512), (800, 1344), (1600, 2688)], batches=[1, 2, 8],
                 dtypes=['float32', 'bf16', 'fp16'], runs=['eager', 'compiled']),
}


def span(modes: Sequence[str], windows: Sequence[Window], sizes: Sequence[Pair], batches: Sequence[int],
         dtypes: Sequence[str], runs: Sequence[str]) -> List[Case]:
    """Return every combination; those of one table are neighbours."""
    return [Case(mode, window, size, batch, dtype, run == 'compiled') for dtype, run, mode, window, size, batch in
            itertools.product(dtypes, runs, modes, windows, sizes, batches)]


def within(lists: Mapping[str, Sequence[Any]], megapixels: Optional[float]) -> List[Case]:
    """Return every combination of ``lists``, without batches above a number of megapixels."""
    return [case for case in span(**lists) if megapixels is None or case.pixels <= megapixels * 1e6]
