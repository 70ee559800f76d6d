"""One replaced attribute or dict entry, which can be restored."""
from __future__ import annotations

from typing import Any, Callable, Mapping, Optional, Union

_MISSING = object()


class Change:
    """Replace an attribute of a module or class, or an entry of a dict.

    Args:
        owner: a module, a class or a dict, or a function that returns one, for owners that others replace.
        key: name of the attribute, or key of the entry.
        make: called with the original (None if there is none); returns the replacement.
    """

    def __init__(self, owner: Union[Any, Callable[[], Any]], key: str, make: Callable[[Any], Any]) -> None:
        self._owner = owner
        self.key = key
        self._make = make
        self._original: Any = _MISSING
        self._replacement: Any = _MISSING

    @property
    def owner(self) -> Any:
        """Return the module, class or dict."""
        return self._owner() if callable(self._owner) and not isinstance(self._owner, type) else self._owner

    @property
    def current(self) -> Optional[Any]:
        """Return the value in place now: an attribute as its class stores it (e.g. a ``staticmethod``), or None."""
        value = self._get()
        return None if value is _MISSING else value

    def apply(self) -> None:
        """Put the replacement in place."""
        self._original = self._get()
        self._replacement = self._make(self.current)
        self._set(self._replacement)

    def revert(self) -> bool:
        """Restore the original object.

        Returns:
            Whether that was done: not if other code has replaced the value since.
        """
        if self._get() is not self._replacement:
            return False
        self._set(self._original)
        self._original = self._replacement = _MISSING
        return True

    def _get(self) -> Any:
        values = self.owner if isinstance(self.owner, Mapping) else vars(self.owner)
        return values.get(self.key, _MISSING)

    def _set(self, value: Any) -> None:
        owner = self.owner
        if isinstance(owner, Mapping):
            if value is _MISSING:
                del owner[self.key]
            else:
                owner[self.key] = value
        elif value is _MISSING:
            delattr(owner, self.key)
        else:
            setattr(owner, self.key, value)
