"""What a part of a config is, however it is named."""
from __future__ import annotations

from typing import Any, Mapping


def type_name(settings: Mapping[str, Any]) -> str:
    """Return the class that ``settings['type']`` names, without its registry: ``'Resize'`` for ``'mmdet.Resize'``.

    MMEngine's configs in plain Python name classes by themselves. '' if there is no type.
    """
    kind = settings.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
