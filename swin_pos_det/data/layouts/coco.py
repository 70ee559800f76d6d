"""Folders with COCO annotations: COCO's own layout, Roboflow's, or one file."""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..annotation_file import read_json
from ..images import missing_files, sample
from .parts import PARTS, LayoutError, Part, part_of

_SECTIONS = ('images', 'annotations', 'categories')


def read_coco(root: Path) -> dict[str, Part]:
    """Read the COCO files of a folder, or one file.

    Returns:
        ``train`` and ``val``, or only ``train`` if one file is to be split; nothing if there is no such file.

    Raises:
        LayoutError: if there are several files for one part, or a file without usable images.
        CocoFileError: if ``root`` is a file that is not JSON.
    """
    if root.is_file():
        content = read_json(root)
        if not _is_coco(content):
            raise LayoutError(f'{root} is not a COCO annotation file: it must be a dict with the lists '
                              f'{", ".join(_SECTIONS)}')
        return {'train': _make_part(content, root, root.parent.parent if root.parent.name == 'annotations' else
                                    root.parent)}
    files = sorted({*root.glob('*.json'), *root.glob('*/*.json')})
    # COCO's folder also has captions and keypoints, of hundreds of megabytes.
    files = [file for file in files if file.name.startswith('instances')] or files
    found: dict[Any, tuple[Path, Any]] = {}
    for file in files:
        part = part_of(file.stem) or (part_of(file.parent.name) if file.parent != root else None)
        if part == 'test':
            continue
        content = read_json(file)
        if not _is_coco(content):
            continue
        if part in found:
            raise LayoutError(f'{root} has two COCO files for one part, {found[part][0]} and {file}: give one of them '
                              'as DATA, or name them train.json and val.json')
        found[part] = file, content
    chosen = PARTS if all(part in found for part in PARTS) else ('train', ) if 'train' in found else (None, )
    return {part or 'train': _make_part(content, file, root) for part, (file, content) in found.items()
            if part in chosen}


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in _SECTIONS)


def _make_part(content: dict[str, Any], file: Path, root: Path) -> Part:
    names = [str(image.get('file_name')).replace('\\', '/') for image in content['images'] if isinstance(image, dict)]
    some = sample(names, 20)
    if not some:
        raise LayoutError(f'{file} has no images')
    # The folder that lacks the fewest; without one that has all, the check of the files says what is missing.
    images = min(_image_folders(file, root), key=lambda folder: len(missing_files(str(folder), some)))
    return Part(content, images.absolute(), file, is_file=True)


def _image_folders(file: Path, root: Path) -> Iterator[Path]:
    """Yield the folders in which the images of a file are looked for."""
    yield file.parent
    word = re.search(r'(train|val)[a-z]*\d*', file.stem)
    part = part_of(file.stem)
    names = [word[0]] if word else []
    names += [name for name in ('train', 'val', 'valid', 'validation') if part_of(name) == part]
    for base in (root, root / 'images'):
        yield from (base / name for name in names)
    yield from (root / name for name in ('images', 'JPEGImages', 'data', '.'))
