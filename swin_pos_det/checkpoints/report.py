"""The load report: the outcome for each of a checkpoint's weights."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List


@dataclass
class LoadReport:
    """The outcome of loading weights into a backbone, by parameter.

    Attributes:
        found: a description of the weights, such as ``"timm's Swin-T, under 'module.'"``.
        loaded: parameters taken as they are.
        resampled: parameter -> old and new grid.
        adapted: parameter -> the change.
        new: parameters without weights, which keep their values: norms of the outputs.
        unused: keys of the checkpoint that the backbone has no use for.
        notes: further remarks.
    """

    found: str
    loaded: List[str] = field(default_factory=list)
    resampled: Dict[str, str] = field(default_factory=dict)
    adapted: Dict[str, str] = field(default_factory=dict)
    new: List[str] = field(default_factory=list)
    unused: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def lines(self) -> List[str]:
        """Return the report in one line per kind, with counts; kinds that did not occur are left out."""
        lines = [f'{self.found}: loaded {len(self.loaded)} parameters as they are']
        for kind in ('resampled', 'adapted'):
            counts = Counter(getattr(self, kind).values())
            lines += [f'{kind} {count}: {what}' for what, count in counts.items()]
        for kind in ('new', 'unused'):
            names = getattr(self, kind)
            if names:
                shown = ', '.join(names[:3]) + (', ..' if len(names) > 3 else '')
                lines.append(f'{kind} {len(names)}: {shown}')
        return lines + self.notes

    def details(self) -> str:
        """Return every parameter and key with its outcome, one per line."""
        rows = [f'loaded     {name}' for name in self.loaded]
        rows += [f'resampled  {name}  {what}' for name, what in self.resampled.items()]
        rows += [f'adapted    {name}  {what}' for name, what in self.adapted.items()]
        rows += [f'new        {name}' for name in self.new]
        rows += [f'unused     {name}' for name in self.unused]
        return '\n'.join(rows)
