"""Small data sets of balloon-like objects in the layouts that people have, and what must be read from each."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ('balloon', 'kite')
HEIGHT, WIDTH = 64, 96
TRAIN, VAL = 8, 4
_ANGLES = np.arange(12) * np.pi / 6

# (class, centre x, centre y, half width, half height) of the objects of an image
Objects = list[tuple[int, int, int, int, int]]


def objects_of(index: int) -> Objects:
    """Return a balloon, and in every second image a kite."""
    balloon = (0, 26 + index, 24, 10 + index, 14)
    return [balloon] if index % 2 else [balloon, (1, 70, 40, 16, 10 + index)]


def box_of(item: tuple[int, int, int, int, int]) -> list[int]:
    """Return x, y, w, h in pixels."""
    _, x, y, half_w, half_h = item
    return [x - half_w, y - half_h, 2 * half_w, 2 * half_h]


def polygon_of(item: tuple[int, int, int, int, int]) -> list[float]:
    """Return the corners of a dodecagon that touches the box, x1, y1, x2, y2, ..."""
    _, x, y, half_w, half_h = item
    return np.stack([x + half_w * np.cos(_ANGLES), y + half_h * np.sin(_ANGLES)], 1).round(3).reshape(-1).tolist()


def draw(path: Path, index: int) -> None:
    """Write the image of a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(index).integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    for item in objects_of(index):
        ImageDraw.Draw(picture).polygon(polygon_of(item), fill=('red', 'white')[item[0]])
    picture.save(path)


def coco(indices: range, masks: bool) -> dict[str, Any]:
    """Return COCO annotations of the images ``N.jpg``."""
    items = [(index, item) for index in indices for item in objects_of(index)]
    return dict(
        images=[dict(id=index, file_name=f'{index}.jpg', height=HEIGHT, width=WIDTH) for index in indices],
        categories=[dict(id=4 + 3 * label, name=name) for label, name in enumerate(CLASSES)],
        annotations=[dict(id=number, image_id=index, category_id=4 + 3 * item[0], bbox=box_of(item), iscrowd=0,
                          area=box_of(item)[2] * box_of(item)[3], **(dict(segmentation=[polygon_of(item)])
                                                                     if masks else {}))
                     for number, (index, item) in enumerate(items, 1)])


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


PARTS = dict(train=range(TRAIN), val=range(TRAIN, TRAIN + VAL))


def write_coco(root: Path, file: str = 'annotations/instances_{}2017.json', folder: str = '{}2017',
               masks: bool = True) -> None:
    """Write COCO's layout, or one like it."""
    for part, indices in PARTS.items():
        _write_json(root / file.format(part), coco(indices, masks))
        for index in indices:
            draw(root / folder.format(part) / f'{index}.jpg', index)


def write_roboflow_coco(root: Path, masks: bool = False) -> None:
    """Write Roboflow's COCO export: a super-category without objects comes first, and boxes have empty masks."""
    for part, indices in PARTS.items():
        content = coco(indices, masks)
        for category in content['categories']:
            category['supercategory'] = 'things'
        content['categories'].insert(0, dict(id=0, name='things', supercategory='none'))
        for item in content['annotations']:
            item.setdefault('segmentation', [])
        folder = root / ('valid' if part == 'val' else part)
        _write_json(folder / '_annotations.coco.json', content)
        for index in indices:
            draw(folder / f'{index}.jpg', index)
    _write_json(root / 'test/_annotations.coco.json', coco(range(1), masks))


def write_one_json(root: Path, masks: bool = True) -> None:
    """Write one annotation file for all images."""
    _write_json(root / 'labels.json', coco(range(TRAIN + VAL), masks))
    for index in range(TRAIN + VAL):
        draw(root / f'images/{index}.jpg', index)


def _yolo_line(item: tuple[int, int, int, int, int], masks: bool) -> str:
    label, x, y, half_w, half_h = item
    size = np.array([WIDTH, HEIGHT])
    values = np.array([x, y, 2 * half_w, 2 * half_h] if not masks else polygon_of(item)).reshape(-1, 2) / size
    return ' '.join([str(label), *(f'{value:.6f}' for value in values.reshape(-1))])


def _yolo(root: Path, images: str, labels: str, masks: bool, numbers: range) -> None:
    for index in numbers:
        draw(root / images / f'{index}.jpg', index)
        file = root / labels / f'{index}.txt'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('\n'.join(_yolo_line(item, masks) for item in objects_of(index)) + '\n')


def write_yolo(root: Path, masks: bool = False) -> None:
    """Write ``images/train`` and ``labels/train`` with ``data.yaml``."""
    for part, indices in PARTS.items():
        _yolo(root, f'images/{part}', f'labels/{part}', masks, indices)
    names = '\n'.join(f'  {label}: {name}' for label, name in enumerate(CLASSES))
    (root / 'data.yaml').write_text(f'path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n')


def write_roboflow_yolo(root: Path, masks: bool = True) -> None:
    """Write ``train/images`` and ``train/labels``, which ``data.yaml`` calls ``../train/images``."""
    for part, indices in PARTS.items():
        folder = 'valid' if part == 'val' else part
        _yolo(root, f'{folder}/images', f'{folder}/labels', masks, indices)
    (root / 'data.yaml').write_text(f'train: ../train/images\nval: ../valid/images\nnc: 2\nnames: {list(CLASSES)}\n')


def write_yolo_classes(root: Path, masks: bool = False) -> None:
    """Write ``images/`` and ``labels/`` undivided, with ``classes.txt``."""
    _yolo(root, 'images', 'labels', masks, range(TRAIN + VAL))
    (root / 'classes.txt').write_text('\n'.join(CLASSES))


def _voc_xml(index: int) -> str:
    objects = ''
    for item in objects_of(index):
        x, y, w, h = box_of(item)
        # From 1, the last pixel inside.
        objects += (f'<object><name>{CLASSES[item[0]]}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin>'
                    f'<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>')
    return f'<annotation><filename>{index}.jpg</filename>{objects}</annotation>'


def write_voc(root: Path, masks: bool = False) -> None:
    """Write ``Annotations/``, ``JPEGImages/`` and ``ImageSets/Main/``."""
    for part, indices in PARTS.items():
        for index in indices:
            draw(root / f'JPEGImages/{index}.jpg', index)
            (root / 'Annotations').mkdir(exist_ok=True)
            (root / f'Annotations/{index}.xml').write_text(_voc_xml(index))
        (root / 'ImageSets/Main').mkdir(parents=True, exist_ok=True)
        (root / f'ImageSets/Main/{part}.txt').write_text('\n'.join(map(str, indices)))


def write_voc_folders(root: Path, masks: bool = False) -> None:
    """Write Roboflow's VOC export: XML files beside the images of ``train/`` and ``valid/``."""
    for part, indices in PARTS.items():
        for index in indices:
            draw(root / ('valid' if part == 'val' else part) / f'{index}.jpg', index)
            (root / ('valid' if part == 'val' else part) / f'{index}.xml').write_text(_voc_xml(index))


# name -> (writer, layout, whether it has a validation part, whether it has masks)
LAYOUTS: dict[str, tuple[Callable[[Path], None], str, bool, bool]] = {
    'COCO 2017': (write_coco, 'COCO', True, True),
    'COCO train and val': (lambda root: write_coco(root, 'annotations/{}.json', 'images/{}', False), 'COCO', True,
                           False),
    'COCO files beside folders': (lambda root: write_coco(root, '{}.json', '{}'), 'COCO', True, True),
    'Roboflow COCO': (write_roboflow_coco, 'COCO', True, False),
    'one JSON': (write_one_json, 'COCO', False, True),
    'YOLO': (write_yolo, 'YOLO', True, False),
    'YOLO polygons of Roboflow': (write_roboflow_yolo, 'YOLO', True, True),
    'YOLO with classes.txt': (write_yolo_classes, 'YOLO', False, False),
    'Pascal VOC': (write_voc, 'Pascal VOC', True, False),
    'Pascal VOC of Roboflow': (write_voc_folders, 'Pascal VOC', True, False),
}
