"""Classes that a config names: by the class itself or by its name, in the scope of any library."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, MutableMapping

if TYPE_CHECKING:
    from mmengine.registry import Registry


def type_name(settings: Mapping[str, Any]) -> str:
    """Return the class that ``settings['type']`` names, without its registry: ``'Resize'`` for ``'mmdet.Resize'``.

    MMEngine's configs in plain Python name classes by themselves. '' if there is no type.
    """
    kind = settings.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def resolve_type(registry: Registry, settings: Mapping[str, Any]) -> Any:
    """Return the class that ``settings['type']`` names, looked up as ``registry.build`` would; None if there is none.

    A name without a scope is one of the current default scope: ``'CityscapesDataset'`` is another class in mmseg than
    in mmdet.
    """
    kind = settings.get('type')
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as found:
        return found.get(kind)


def use_scope(cfg: MutableMapping[str, Any]) -> None:
    """Let the types of a config be looked up in its scope; a config without one, or with None, gets mmdet's, in place.

    MMEngine's own default for such a config is a scope without detectors, and ``init_default_scope(None)`` raises.
    """
    from mmengine.registry import init_default_scope  # here, as --help of the tools imports no torch

    cfg['default_scope'] = cfg.get('default_scope') or 'mmdet'
    init_default_scope(cfg['default_scope'])
