"""YOLO's folders: an image file, and a text file with a line for each object."""
from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import yaml

from .parts import PARTS, LayoutError, Part, build_part, list_images, part_of, read_lines, size_of

# Rounded shares may end beyond 1 by this.
_ROUNDING = 1e-3


def read_yolo(root: Path) -> dict[str, Part]:
    """Read a folder with ``data.yaml`` or ``classes.txt``, or a YAML file.

    A line of a label file is ``class x y w h`` (centre and size) or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon), as
    shares of the image. An image without a label file has no objects.

    Returns:
        See :func:`~.coco.read_coco`.

    Raises:
        LayoutError: for a label file that is not in this format, or a YAML file without ``names``.
    """
    settings = _find_settings(root)
    if settings is not None:
        base = settings.parent
        content = _read_yaml(settings)
        classes = _class_names(content['names'], settings)
        folders = {name: _listed(content.get(name), base, content.get('path')) for name in PARTS}
        for name in PARTS:
            if not folders[name] and (name == 'train' or content.get(name) is not None):
                raise LayoutError(f'{settings}: {name} is {content.get(name)!r}, where no image is found')
    else:
        names_file = next((file for file in (root / 'classes.txt', root / 'labels/classes.txt') if file.is_file()),
                          None)
        if names_file is None or not root.is_dir():
            return {}
        classes = [line for _, line in read_lines(names_file)]
        folders = _images_by_part(root)
        if not classes:
            raise LayoutError(f'{names_file} has no names of classes')
    labelled = {name: images for name, images in folders.items() if images}
    if not any(label_file(image).is_file() for image in labelled.get('train', ())):
        raise LayoutError(f'{root} has no label file for any image, such as '
                          f'{label_file(labelled["train"][0]) if labelled.get("train") else root / "labels"}')
    return {name: _make_part(images, classes, settings or root) for name, images in labelled.items()}


def label_file(image: Path) -> Path:
    """Return the label file of an image: in ``labels/`` in place of the last ``images/`` of its path, or beside it."""
    parts = list(image.parts)
    places = [place for place, name in enumerate(parts[:-1]) if name == 'images']
    if places:
        parts[places[-1]] = 'labels'
    return Path(*parts).with_suffix('.txt')


def _find_settings(root: Path) -> Optional[Path]:
    files = [root] if root.is_file() else sorted([*root.glob('*.yaml'), *root.glob('*.yml')])
    files = [file for file in files if file.suffix in ('.yaml', '.yml')]
    with_names = [file for file in files if _has_names(file)]
    if len(with_names) > 1:
        raise LayoutError(f'{root} has several YAML files with names: give one of them as DATA, such as '
                          f'{with_names[0]}')
    if root.is_file() and not with_names:
        raise LayoutError(f'{root} is no data file of YOLO: it needs names, train and val')
    return with_names[0] if with_names else None


def _has_names(file: Path) -> bool:
    content = _read_yaml(file)
    return isinstance(content, dict) and isinstance(content.get('names'), (list, dict))


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding='utf-8-sig'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LayoutError(f'{file} is not YAML ({error})') from error


def _class_names(names: Any, file: Path) -> list[str]:
    """Return the names in the order of their numbers, from a list or a dict."""
    if isinstance(names, dict):
        if not names or set(names) != set(range(len(names))):
            raise LayoutError(f'{file}: the numbers of names must be 0, 1, 2, ..., got {list(names)[:10]}')
        names = [names[number] for number in range(len(names))]
    if not names:
        raise LayoutError(f'{file}: names is empty')
    return list(map(str, names))


def _listed(entry: Any, base: Path, below: Any) -> list[Path]:
    """Return the images of an entry of the YAML file: a folder, a text file with their paths, or a list of these."""
    images: list[Path] = []
    for text in map(str, entry if isinstance(entry, list) else [entry] if entry else []):
        # Roboflow writes ../train/images for the folder train/images beside the file.
        inside = text[3:] if text.startswith('../') else text
        for path in (base / str(below or '') / text, base / text, base / inside):
            if path.is_dir():
                images += list_images(path)
                break
            if path.is_file():
                images += [path.parent / line for _, line in read_lines(path)]
                break
    return images


def _images_by_part(root: Path) -> dict[str, list[Path]]:
    images = list_images(root)
    found: dict[Any, list[Path]] = {}
    for image in images:
        parts = [part_of(name) for name in image.relative_to(root).parts[:-1]]
        found.setdefault(next(filter(None, parts), None), []).append(image)
    if all(found.get(name) for name in PARTS):
        return {name: found[name] for name in PARTS}
    return {'train': found.get('train') or found.get(None) or []}


def _make_part(images: Sequence[Path], classes: Sequence[str], source: Path) -> Part:
    folder = Path(osp.commonpath([osp.abspath(image.parent) for image in images]))
    files = [Path(osp.abspath(image)) for image in images]
    return build_part([(file, list(_objects(file, classes))) for file in files], folder, classes, source)


def _objects(image: Path, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    file = label_file(image)
    if not file.is_file():
        return
    height, width = size_of(image)
    for number, line in read_lines(file):
        try:
            label, *shares = map(float, line.split())
        except ValueError as error:
            raise LayoutError(f'{file}, line {number}: {line[:60]!r} is not numbers ({error})') from error
        if label not in range(len(classes)):
            raise LayoutError(f'{file}, line {number}: class {label:g}; there are {len(classes)} names, for 0 to '
                              f'{len(classes) - 1}')
        if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
            raise LayoutError(f'{file}, line {number}: {len(shares)} numbers after the class; a box has 4 (centre, '
                              'size), a polygon an even number from 6 on')
        if not all(-_ROUNDING <= share <= 1 + _ROUNDING for share in shares):
            raise LayoutError(f'{file}, line {number}: {max(shares, key=abs):g} is not in 0 to 1; YOLO has shares of '
                              'the image, not pixels')
        yield dict(category_id=int(label) + 1, **_geometry(np.array(shares), width, height))


def _geometry(shares: np.ndarray, width: int, height: int) -> dict[str, Any]:
    """Return bbox and, for a polygon, segmentation and area in pixels."""
    size = np.array([width, height])
    if len(shares) == 4:
        centre, side = shares.reshape(2, 2)
        low, high = np.clip([centre - side / 2, centre + side / 2], 0, 1) * size
        return dict(bbox=[*low.tolist(), *(high - low).tolist()])
    points = np.clip(shares.reshape(-1, 2), 0, 1) * size
    low, high = points.min(0), points.max(0)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return dict(bbox=[*low.tolist(), *(high - low).tolist()], area=float(area),
                segmentation=[points.reshape(-1).tolist()])
