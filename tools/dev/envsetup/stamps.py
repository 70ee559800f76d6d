"""What has been done in an environment: one small file per step, keyed by what the step was asked for."""
from __future__ import annotations

import csv
import hashlib
import os
import shutil
from pathlib import Path


def digest(*parts: str) -> str:
    """A key for what was requested; equal only for the same parts in the same order."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode()
        whole.update(len(data).to_bytes(8, 'big') + data)
    return whole.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """A reader, or a set-up after a power cut, sees the old text or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    draft.write_text(text, encoding='utf-8')
    os.replace(draft, path)


class Stamps:
    """The stamps of one environment, kept inside it so that they go when it goes."""

    def __init__(self, venv: Path) -> None:
        self.folder = venv / '.swin-pos-det'

    def read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text(encoding='utf-8')
        except OSError:
            return None

    def write(self, name: str, key: str) -> None:
        write_atomically(self.folder / name, key)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


def site_packages(venv: Path) -> Path | None:
    """The environment's package folder, None if there is none yet."""
    return next(iter(sorted(venv.glob('lib/python3*/site-packages'))), None)


def installed_version(venv: Path, name: str) -> str | None:
    """The version of a completely installed distribution, read off its folder's name: starting no Python is quick."""
    site = site_packages(venv)
    for info in sorted(site.glob(f'{name}-*.dist-info')) if site else ():
        if (info / 'RECORD').is_file():
            return info.name[len(name) + 1:-len('.dist-info')]
    return None


def _recorded(info: Path) -> list[tuple[Path, int | None]]:
    with (info / 'RECORD').open(newline='', encoding='utf-8') as file:
        rows = [row for row in csv.reader(file) if row and not row[0].endswith('.pyc')]
    return [(Path(os.path.normpath(info.parent / row[0])), int(row[2]) if row[2:] and row[2] else None) for row in rows]


def remove_broken(site: Path) -> list[str]:
    """Un-register what an interrupted installation left half done, so that pip installs it again.

    A distribution is broken when it has no RECORD, or when a recorded file is missing or has a size that no
    distribution recorded for it (two may own one file: opencv-python and its headless twin do).

    Returns:
        the names of the distributions removed.
    """
    for leftover in site.glob('~*'):
        shutil.rmtree(leftover, ignore_errors=True)
    contents = {info: _recorded(info) if (info / 'RECORD').is_file() else None for info in site.glob('*.dist-info')}
    sizes: dict[Path, set[int | None]] = {}
    for files in contents.values():
        for path, size in files or ():
            sizes.setdefault(path, set()).add(size)

    def intact(path: Path) -> bool:
        return path.exists() and (None in sizes[path] or path.stat().st_size in sizes[path])

    broken = [info for info, files in contents.items() if files is None or not all(intact(path) for path, _ in files)]
    for info in broken:
        shutil.rmtree(info)
    return sorted(info.name[:-len('.dist-info')] for info in broken)
