"""Pascal VOC's folders: an image file, and an XML file with its objects."""
from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional
from xml.etree import ElementTree

from .parts import IMAGE_ENDINGS, PARTS, LayoutError, Part, build_part, part_of, read_lines


def read_voc(root: Path) -> dict[str, Part]:
    """Read a folder with VOC's XML files, boxes only.

    ``ImageSets/Main/train.txt`` and ``val.txt``, or folders of such names, divide it. Objects marked difficult become
    crowds, which neither a training nor COCO's evaluation counts.

    Returns:
        See :func:`~.coco.read_coco`.

    Raises:
        LayoutError: for an XML file that is not in this format, or without its image.
    """
    files = _find_files(root)
    if not files:
        return {}
    trees = {file: _parse(file) for file in files}
    classes = sorted({_text(item, 'name', file) for file, tree in trees.items() for item in tree.iter('object')})
    boxes = {file: [_corners(item, file) for item in tree.iter('object')] for file, tree in trees.items()}
    # The original has pixels from 1 to the width; several programs write corners from 0.
    first = 0 if any(min(box[:2]) < 1 for items in boxes.values() for box in items) else 1
    return {name: _make_part(chosen, trees, boxes, first, classes, root)
            for name, chosen in _divide(files, root).items()}


def _find_files(root: Path) -> list[Path]:
    """Return the annotations: the first of the usual places that has some."""
    if not root.is_dir():
        return []
    for pattern in ('Annotations/*.xml', 'annotations/*.xml', '*/Annotations/*.xml', '*/annotations/*.xml', '*.xml',
                    '*/*.xml', 'VOCdevkit/*/Annotations/*.xml'):
        files = [file for file in sorted(root.glob(pattern)) if _is_annotation(file)]
        if files:
            return files
    return []


def _is_annotation(file: Path) -> bool:
    with open(file, 'rb') as opened:
        return b'<annotation' in opened.read(4096)


def _divide(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    sets = {name: next(root.glob(f'**/ImageSets/Main/{name}.txt'), None) for name in PARTS}
    if all(sets.values()):
        stems = {name: {line.split()[0] for _, line in read_lines(file)} for name, file in sets.items()}
        found = {name: [file for file in files if file.stem in stems[name]] for name in PARTS}
    else:
        found = {}
        for file in files:
            parts = [part_of(name) for name in file.relative_to(root).parts[:-1]]
            found.setdefault(next(filter(None, parts), None), []).append(file)
    if all(found.get(name) for name in PARTS):
        return {name: found[name] for name in PARTS}
    return {'train': found.get('train') or found.get(None) or list(files)}


def _parse(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise LayoutError(f'{file} is not XML ({error})') from error


def _text(node: ElementTree.Element, name: str, file: Path) -> str:
    text = (node.findtext(name) or '').strip()
    if not text:
        raise LayoutError(f'{file}: <{node.tag}> has no <{name}>')
    return text


def _corners(item: ElementTree.Element, file: Path) -> list[float]:
    box = item.find('bndbox')
    if box is None:
        raise LayoutError(f'{file}: <object> has no <bndbox>')
    values = []
    for name in ('xmin', 'ymin', 'xmax', 'ymax'):
        text = _text(box, name, file)
        try:
            values.append(float(text))
        except ValueError as error:
            raise LayoutError(f'{file}: <{name}> is {text!r}, not a number') from error
    if values[2] < values[0] or values[3] < values[1]:
        raise LayoutError(f'{file}: the box {values} (xmin, ymin, xmax, ymax) ends before it begins')
    return values


def _make_part(files: Sequence[Path], trees: dict[Path, ElementTree.Element], boxes: dict[Path, list[list[float]]],
               first: int, classes: Sequence[str], root: Path) -> Part:
    paired = [(Path(osp.abspath(_image(file, trees[file]))), list(_objects(file, trees[file], boxes[file], first,
                                                                           classes))) for file in files]
    folder = Path(osp.commonpath([image.parent for image, _ in paired]))
    return build_part(paired, folder, classes, root)


def _objects(file: Path, tree: ElementTree.Element, boxes: Sequence[list[float]], first: int,
             classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    for item, (left, top, right, bottom) in zip(tree.iter('object'), boxes):
        # From 1 the last pixel belongs to the box.
        yield dict(category_id=classes.index(_text(item, 'name', file)) + 1,
                   bbox=[left - first, top - first, right - left + first, bottom - top + first],
                   iscrowd=int((item.findtext('difficult') or '0').strip() == '1'))


def _image(file: Path, tree: ElementTree.Element) -> Path:
    named = (tree.findtext('filename') or '').strip()
    for name in filter(None, (named, *(file.stem + ending for ending in (*IMAGE_ENDINGS, '.JPG', '.PNG')))):
        found = _in_usual_folders(file, Path(name.replace('\\', '/')).name)
        if found is not None:
            return found
    raise LayoutError(f'{file}: its image {named or file.stem!r} is neither in JPEGImages/ nor in images/ nor beside '
                      'it')


def _in_usual_folders(file: Path, name: str) -> Optional[Path]:
    base = file.parent.parent
    folders = (base / 'JPEGImages', base / 'images', file.parent)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
