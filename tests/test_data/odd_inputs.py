"""Odd data that people bring: what the checks say of each, and what MMDetection would have done.

The scene has 6 images of 80 x 60 pixels with 4 objects each of two classes, cat and dog, for training and for
validation. A row changes it; ``check_data``, which train, test, the sweeps and the other tools call, does the rest.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from mmengine.config import ConfigDict
from PIL import Image

HEIGHT, WIDTH, IMAGES, OBJECTS = 60, 80, 6, 24
ERROR, SAID, PASSES = 'error', 'said', 'passes'
EXIF_ROTATED = 6
RLE = dict(size=[HEIGHT, WIDTH], counts=[HEIGHT * WIDTH - 100, 100])


class Scene:
    """Files, and the config that reads them. ``train`` and ``val`` are the contents of the annotation files."""

    def __init__(self, root: Path) -> None:
        self.root, self.train, self.val = root, annotations('t'), annotations('v')
        self.texts: dict[str, bytes] = {}
        self.parts, self.checkpoint = ['train', 'val'], None
        for split, content in (('train', self.train), ('val', self.val)):
            (root / split).mkdir(parents=True)
            for image in content['images']:
                Image.new('RGB', (WIDTH, HEIGHT), 'grey').save(root / split / image['file_name'])
        steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
        self.cfg = ConfigDict(
            default_scope='mmdet', model=dict(),
            train_dataloader=dict(dataset=self.dataset('train', pipeline=deepcopy(steps))),
            val_dataloader=dict(dataset=self.dataset('val', pipeline=deepcopy(steps), test_mode=True)),
            val_evaluator=dict(type='CocoMetric', ann_file=str(root / 'val.json'), metric='bbox'))

    def dataset(self, split: str, **more: Any) -> dict[str, Any]:
        return dict(type='CocoDataset', data_root=str(self.root), ann_file=f'{split}.json',
                    data_prefix=dict(img=f'{split}/'), metainfo=dict(classes=('cat', 'dog')), **more)

    def write(self, name: str, content: Any) -> None:
        (self.root / f'{name}.json').write_text(json.dumps(content))

    def write_all(self) -> None:
        for name in ('train', 'val'):
            self.write(name, getattr(self, name))
        for name, content in self.texts.items():
            (self.root / f'{name}.json').write_bytes(content)

    @property
    def trained(self) -> ConfigDict:
        return self.cfg.train_dataloader.dataset

    @property
    def validated(self) -> ConfigDict:
        return self.cfg.val_dataloader.dataset


def annotations(prefix: str) -> dict[str, Any]:
    images = [dict(id=i + 1, file_name=f'{prefix}{i}.jpg', height=HEIGHT, width=WIDTH) for i in range(IMAGES)]
    objects, top = [], 3. if prefix == 't' else 15.
    for index in range(OBJECTS):
        x, y, side = 2. + 18 * (index % 4), top + 6 * (index // 4), 12.
        objects.append(dict(id=index + 1, image_id=1 + index // 4, category_id=5 + 4 * (index % 2), iscrowd=0,
                            bbox=[x, y, side, side], area=side * side,
                            segmentation=[[x, y, x + side, y, x + side, y + side, x, y + side]]))
    return dict(images=images, annotations=objects, categories=[dict(id=5, name='cat'), dict(id=9, name='dog')])


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: of the input.
        change: changes a :class:`Scene` before its files are written.
        how: ``'error'``: one line stops the tool; ``'said'``: the log has the line; ``'passes'``: no warning.
        line: a regular expression for the line.
        otherwise: what MMDetection 3.3.0's own parts make of it, as :mod:`.observe_mmdet` saw it.
    """
    name: str
    change: Callable[[Scene], Any]
    how: str
    line: str
    otherwise: str


def of(part: str, number: Optional[int] = None, **fields: Any) -> Callable[[Scene], None]:
    """Change fields of the first annotations of a split."""
    def change(scene: Scene) -> None:
        for item in getattr(scene, part)['annotations'][:number]:
            item.update(deepcopy(fields))
    return change


def boxes(part: str, make: Callable[[list], list], number: Optional[int] = None) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        for item in getattr(scene, part)['annotations'][:number]:
            item['bbox'] = make(item['bbox'])
    return change


def item(part: str, section: str, **fields: Any) -> Callable[[Scene], None]:
    """Change fields of the second image, category or annotation."""
    return lambda scene: getattr(scene, part)[section][1].update(fields)


def drop(part: str, section: str, key: str) -> Callable[[Scene], None]:
    return lambda scene: getattr(scene, part)[section][1].pop(key)


def dataset(part: str, **settings: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.cfg[f'{part}_dataloader'].dataset.update(ConfigDict(settings))


def masks(number: Optional[int], segmentation: Any, **settings: Any) -> Callable[[Scene], None]:
    """Train with masks, the first of which are others."""
    def change(scene: Scene) -> None:
        of('train', number, segmentation=segmentation)(scene)
        scene.trained.pipeline[1].update(with_mask=True, **settings)
    return change


def both(*changes: Callable[[Scene], Any]) -> Callable[[Scene], None]:
    return lambda scene: [change(scene) for change in changes] and None


def text(name: str, make: Callable[[str], bytes]) -> Callable[[Scene], None]:
    return lambda scene: scene.texts.update({name: make(json.dumps(getattr(scene, name)))})


def reverse(part: str) -> Callable[[Scene], None]:
    return lambda scene: getattr(scene, part)['categories'].reverse()


def evaluator(content: Callable[[dict], Any], **settings: Any) -> Callable[[Scene], None]:
    """Compare results with a changed copy of the validation's file."""
    def change(scene: Scene) -> None:
        other = deepcopy(scene.val)
        content(other)
        scene.write('other', other)
        scene.cfg.val_evaluator.update(ann_file=str(scene.root / 'other.json'), **settings)
    return change


def concat(scene: Scene) -> None:
    other = annotations('v')
    for image in other['images']:
        image['id'] += 100
    for one in other['annotations']:
        one['image_id'] += 100
    scene.write('more', other)
    more = dict(deepcopy(scene.validated), ann_file='more.json')
    scene.cfg.val_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[scene.validated, more])


def concat_with_two(scene: Scene) -> None:
    concat(scene)
    metrics = [dict(type='CocoMetric', ann_file=str(scene.root / name), metric='bbox')
               for name in ('val.json', 'more.json')]
    scene.cfg.val_evaluator = ConfigDict(type='MultiDatasetsEvaluator', metrics=metrics, dataset_prefixes=['a', 'b'])


def image(action: Callable[[Path], Any], split: str = 'train') -> Callable[[Scene], None]:
    """Do something with the file of the second image."""
    return lambda scene: action(scene.root / split / f'{split[0]}1.jpg')


def names(make: Callable[[str], str]) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        for one in scene.train['images']:
            one['file_name'] = make(one['file_name'])
    return change


def digits(**settings: Any) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        given = dict(type='DigitsOnPhotosDataset', data_root=str(scene.root / 'digits'),
                     ann_file='annotations/train.json', data_prefix=dict(img='train/'))
        scene.cfg.train_dataloader.dataset = ConfigDict(dict(given, **settings))
        scene.parts = ['train']
    return change


def in_a_file(scene: Scene) -> None:
    (scene.root / 'classes.txt').write_text('cat\ndog\n')
    for one in (scene.trained, scene.validated):
        one.metainfo = dict(classes=str(scene.root / 'classes.txt'))


def checkpoint(*classes: str) -> Callable[[Scene], None]:
    return lambda scene: setattr(scene, 'checkpoint', classes)


def without(part: str, *sections: str) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        for section in sections:
            getattr(scene, part).pop(section)
    return change


def format_only(scene: Scene) -> None:
    scene.cfg.val_evaluator.update(format_only=True, outfile_prefix='results')


def save_rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = EXIF_ROTATED
    Image.new('RGB', (WIDTH, HEIGHT), 'grey').save(path, exif=exif)


RUNS = 'runs: all objects are used, AP 1'
NOTHING = 'learns from 0 of 24 objects in 6 of 6 images'
NO_FILE = 'FileNotFoundError in a worker that loads training data'
AP_0 = 'AP 0 of perfect results'
AP_NONE = 'AP -1 of perfect results'

ROWS = [
    # Objects that a training learns from
    Row('area 0 and crowds', both(of('train', 8, area=0), lambda s: [a.update(iscrowd=1) for a in
                                                                     s.train['annotations'][-4:]]), SAID,
        '12 of 24 objects dropped: 8 of area 0, 4 crowd', 'learns from 12 of 24 objects in 6 of 6 images'),
    Row('negative area', of('train', 3, area=-1), SAID, '3 of 24 objects dropped: 3 of negative area',
        'learns from 21 of 24 objects in 6 of 6 images'),
    Row('area 0 everywhere', of('train', area=0), ERROR, 'no object is left to learn: .* 24 of area 0', NOTHING),
    Row('boxes as shares', boxes('train', lambda b: [v / 100 for v in b]), ERROR, 'look like shares', NOTHING),
    Row('boxes outside', boxes('train', lambda b: [b[0] + 500, *b[1:]], 3), SAID, '3 outside of their image',
        'learns from 21 of 24 objects in 6 of 6 images'),
    Row('all boxes outside', boxes('train', lambda b: [b[0] - 500, *b[1:]]), ERROR, 'no object is left to learn',
        NOTHING),
    Row('width 0', boxes('train', lambda b: [*b[:2], 0, b[3]], 2), SAID, '2 without width or height',
        'learns from 22 of 24 objects in 6 of 6 images'),
    Row('negative height', boxes('train', lambda b: [*b[:3], -5], 2), SAID, '2 without width or height',
        'learns from 22 of 24 objects in 6 of 6 images'),
    Row('under a pixel', boxes('train', lambda b: [*b[:2], .5, 5], 2), SAID, '2 under 1 pixel',
        'learns from 22 of 24 objects in 6 of 6 images'),
    Row('all crowd', of('train', iscrowd=1), ERROR, 'no object is left to learn: .* 24 crowd', NOTHING),
    Row('all ignore', of('train', ignore=1), ERROR, 'no object is left to learn: .* 24 marked ignore', NOTHING),
    Row('some ignore', of('train', 2, ignore=True), SAID, '2 marked ignore',
        'learns from 22 of 24 objects in 6 of 6 images'),
    Row('unknown images', of('train', 5, image_id=99), SAID, '5 of images that the file does not have',
        'learns from 19 of 24 objects in 6 of 6 images'),
    Row('unknown categories', of('train', 5, category_id=99), SAID, '5 of categories that the file does not have',
        'learns from 19 of 24 objects in 6 of 6 images'),
    Row('image ids as text', of('train', image_id='1'), ERROR, 'no annotation belongs to one of the images', NOTHING),
    Row('some image ids as text', of('train', 4, image_id='1'), SAID, '4 of images that',
        'learns from 20 of 24 objects in 6 of 6 images'),
    Row('category ids as text', of('train', category_id='5'), ERROR, 'belongs to one of the categories', NOTHING),
    Row('image ids as floats', of('train', 4, image_id=1.), PASSES, '', RUNS),
    Row('ids as text on both sides', lambda s: [
        one.update({key: str(one[key])}) for section, key in (('images', 'id'), ('annotations', 'image_id'))
        for one in s.train[section]], PASSES, '', RUNS),
    Row('small images filtered', dataset('train', filter_cfg=dict(min_size=100)), ERROR,
        'left to train on: 6 of 6 images dropped: 6 under 100 pixels', 'ValueError when the training data are built'),
    Row('images without objects', both(dataset('train', filter_cfg=dict(filter_empty_gt=True)),
                                       lambda s: s.train.update(annotations=s.train['annotations'][8:])), SAID,
        '2 of 6 images dropped: 2 without objects', 'learns from 16 of 24 objects in 4 of 6 images'),
    Row('a class without objects', of('train', category_id=5), SAID, '1 of 2 classes have no object to learn: dog',
        RUNS),
    Row('first images only', dataset('train', indices=2), SAID, '4 not among the indices, 16 of 24',
        'learns from 8 of 24 objects in 2 of 6 images'),
    Row('last images only', dataset('train', indices=-2), SAID, '4 not among the indices',
        'learns from 8 of 24 objects in 2 of 6 images'),
    Row('corners as boxes', boxes('train', lambda b: [b[0] + 30, b[1] + 20, b[0] + 60, b[1] + 50]), SAID,
        'look like x1, y1, x2, y2', 'learns from 18 of 24 objects in 6 of 6 images; boxes beyond the image: 18'),
    Row('no objects at all', lambda s: s.train.update(annotations=[]), ERROR, 'no object is left to learn', NOTHING),
    # Masks
    Row('polygons of odd length', masks(3, [[1, 2, 3, 4, 5, 6, 7]]), SAID, '3 without a polygon of 3 points',
        'learns from 21 of 24 objects in 6 of 6 images'),
    Row('polygons of two points', masks(None, [[1, 2, 3, 4]]), ERROR, 'no object is left to learn', NOTHING),
    Row('an empty segmentation', masks(1, []), ERROR, r'has segmentation \[\]; it must be RLE',
        'KeyError in a worker that loads training data'),
    Row('a segmentation of null', masks(1, None), ERROR, 'has segmentation None',
        'KeyError in a worker that loads training data'),
    Row('a segmentation of text', masks(1, 'abc'), ERROR, "has segmentation 'abc'",
        'TypeError in a worker that loads training data'),
    Row('no segmentation', both(masks(0, None), drop('train', 'annotations', 'segmentation')), ERROR,
        'annotation 1 .* has no segmentation', 'KeyError in a worker that loads training data'),
    Row('empty masks, boxes learned', of('train', 3, segmentation=[]), PASSES, '', RUNS),
    Row('null masks, boxes learned', of('train', 3, segmentation=None), PASSES, '', RUNS),
    Row('run lengths', masks(2, RLE), PASSES, '', RUNS),
    Row('swapped size of run lengths', masks(2, dict(RLE, size=[WIDTH, HEIGHT])), ERROR, 'they are swapped.*1 more',
        'ValueError in a worker that loads training data'),
    Row('run lengths of another image', masks(1, dict(RLE, size=[9, 9])), ERROR, r'has size \[9, 9\]',
        'ValueError in a worker that loads training data'),
    Row('run lengths that do not add up', masks(1, dict(RLE, counts=[5, 5])), ERROR, 'add up to 10 pixels', RUNS),
    Row('garbage for run lengths', masks(1, dict(RLE, counts='\x01##')), ERROR, 'no run-length code',
        'ValueError in a worker that loads training data'),
    Row('negative run lengths', masks(1, dict(RLE, counts=[-5, 4805])), ERROR, 'not all whole numbers',
        'OverflowError in a worker that loads training data'),
    Row('run lengths as polygons', masks(2, RLE, poly2mask=False), SAID, '2 with run lengths, where poly2mask=False',
        'learns from 22 of 24 objects in 6 of 6 images'),
    Row('wrong run lengths in the evaluation', both(of('val', 1, segmentation=dict(RLE, counts=[5, 5])),
                                                    lambda s: s.cfg.val_evaluator.update(metric=['bbox', 'segm'])),
        ERROR, 'add up to 10 pixels', 'AP 0.917 of perfect results'),
    Row('no masks in the evaluation', both(of('val', 1, segmentation=[]),
                                           lambda s: s.cfg.val_evaluator.update(metric='segm')),
        ERROR, r'has segmentation \[\]', 'IndexError after the first epoch'),
    # Names of classes
    Row('a text for classes', dataset('train', metainfo=dict(classes='cat')), ERROR, r"write \('cat', \), with a comma",
        'learns from 12 of 24 objects in 6 of 6 images; AP 0.5 of perfect results'),
    Row('no classes', dataset('train', metainfo=dict(classes=())), ERROR, 'must be a list of names', RUNS),
    Row('numbers for classes', dataset('train', metainfo=dict(classes=(0, 1))), ERROR, 'names of classes are text',
        'learns from 0 of 24 objects in 6 of 6 images; the evaluation has no AP'),
    Row('a class twice', dataset('train', metainfo=dict(classes=('cat', 'cat'))), ERROR, "has 'cat' twice",
        'learns from 12 of 24 objects in 6 of 6 images; AP 0.5 of perfect results'),
    Row("mmdet 2's CLASSES", lambda s: setattr(s.trained, 'metainfo', ConfigDict(CLASSES=('cat', 'dog'))), ERROR,
        'CLASSES has no effect', RUNS),
    Row('classes in a file', in_a_file, PASSES, '', RUNS),
    Row('a class that the file lacks', dataset('train', metainfo=dict(classes=('cat', 'cow', 'dog'))), ERROR,
        "has no category named 'cow'", RUNS),
    Row('a class in another case', dataset('train', metainfo=dict(classes=('Cat', 'dog'))), ERROR,
        "has no category named 'Cat'", 'learns from 12 of 24 objects in 6 of 6 images; AP 0 of perfect results'),
    Row('no metainfo', lambda s: s.trained.pop('metainfo'), ERROR, "no category named 'person'", RUNS),
    Row('a subset of the classes', both(*(dataset(p, metainfo=dict(classes=('dog', ))) for p in ('train', 'val'))),
        PASSES, '', 'learns from 12 of 24 objects in 6 of 6 images'),
    # The same label for the same name
    Row('another order in both files', both(reverse('train'), reverse('val')), SAID, 'categories in another order',
        RUNS),
    Row('another order in val', reverse('val'), ERROR, "class 'cat' has label 0 in .*train.json and 1 in .*val.json",
        AP_0),
    Row('another order in train', reverse('train'), ERROR, "class 'dog' has label 0", AP_0),
    Row('another order, and metainfo after it', both(reverse('val'), dataset('val', metainfo=dict(
        classes=('dog', 'cat')))), ERROR, "class 'cat' has label 0 in .*train", AP_0),
    Row('a class fewer in val', dataset('val', metainfo=dict(classes=('dog', ))), ERROR, "class 'dog' has label 1",
        'IndexError after the first epoch'),
    Row('other names in val', both(lambda s: s.val['categories'][0].update(name='felis'),
                                   dataset('val', metainfo=dict(classes=('felis', 'dog')))), SAID,
        "1 classes of .* have other names in .*'felis' and 'cat'", RUNS),
    Row('a name in another case in val', both(item('val', 'categories', name='DOG'), dataset('val', metainfo=dict(
        classes=('cat', 'DOG')))), PASSES, '', RUNS),
    Row('a checkpoint of the same classes', checkpoint('cat', 'dog'), PASSES, '', RUNS),
    Row('a checkpoint of another order', checkpoint('dog', 'cat'), ERROR, "class 'dog' has label 0 in the checkpoint",
        AP_0),
    Row('a checkpoint of other classes', checkpoint('owl', 'cow'), SAID, '2 classes .* other names in the checkpoint',
        RUNS),
    Row('a checkpoint with the wrong names of the training', both(
        reverse('train'), reverse('val'), checkpoint('cat', 'dog')), SAID, 'another order', RUNS),
    # The evaluator's file
    Row('an evaluator left at the base config', lambda s: s.cfg.val_evaluator.update(ann_file='data/coco/none.json'),
        ERROR, r"is data/coco/none.json, which does not exist.*set val_evaluator.ann_file='.*val",
        'FileNotFoundError when the evaluation is built'),
    Row('an evaluator of others', evaluator(lambda c: [i.update(id=i['id'] + 50) for i in c['images']]
                                                  + [a.update(image_id=a['image_id'] + 50) for a in c['annotations']]),
        ERROR, '6 of its 6 images are not in the file of the evaluator', 'AssertionError after the first epoch'),
    Row('an evaluator of the training', lambda s: s.cfg.val_evaluator.update(ann_file=str(s.root / 'train.json')),
        ERROR, "image 1 is 'v0.jpg' here and 't0.jpg' there", AP_0),
    Row('an evaluator with other sizes', evaluator(lambda c: c['images'][0].update(height=30)), ERROR,
        'is 80 x 60 here and 80 x 30 there', RUNS),
    Row('an evaluator with another order', evaluator(lambda c: c['categories'].reverse()), ERROR, 'label 0 is',
        AP_0),
    Row('an evaluator that lacks images', evaluator(lambda c: c.update(
        images=c['images'][:4], annotations=c['annotations'][:16])), ERROR, '2 of its 6 images',
        'AssertionError after the first epoch'),
    Row('a copy of the file', evaluator(lambda c: None), PASSES, '', RUNS),
    Row('fewer images than the evaluator', dataset('val', indices=2), SAID, 'in the other 4 as missed',
        'AP 0.337 of perfect results'),
    Row('filtered images in val', dataset('val', test_mode=False, filter_cfg=dict(min_size=61)), SAID,
        'in the other 6 as missed', 'ValueError when the evaluation is built'),
    Row('two data sets, one evaluator', concat, ERROR, "needs val_evaluator=dict.type='MultiDatasetsEvaluator'",
        'AssertionError after the first epoch'),
    Row('two data sets, two evaluators', concat_with_two, PASSES, '', RUNS),
    Row('a wrapped data set', lambda s: setattr(s.cfg.val_dataloader, 'dataset', ConfigDict(
        type='RepeatDataset', times=1, dataset=deepcopy(s.validated))), PASSES, '', RUNS),
    # What can be found
    Row('only crowds in val', of('val', iscrowd=1), ERROR, 'nothing can be found: .* 24 crowd', AP_NONE),
    Row('shares in val', boxes('val', lambda b: [v / 100 for v in b]), ERROR, 'nothing can be found.*shares', AP_0),
    Row('boxes outside in val', boxes('val', lambda b: [b[0] + 500, *b[1:]]), ERROR, 'nothing can be found', AP_0),
    Row('some boxes outside in val', boxes('val', lambda b: [b[0] + 500, *b[1:]], 3), SAID,
        '3 outside of their image of the evaluation', 'AP 0.764 of perfect results'),
    Row('negative areas in val', of('val', area=-1), ERROR, 'nothing can be found', AP_NONE),
    Row('no iscrowd', drop('val', 'annotations', 'iscrowd'), ERROR, 'annotation 1 .* has no iscrowd',
        'KeyError after the first epoch'),
    Row('val without annotations', without('val', 'annotations'), ERROR, 'has no annotations', AP_NONE),
    Row('images alone, format_only', both(without('val', 'annotations'), format_only), PASSES, '', RUNS),
    Row('no categories, format_only', both(without('val', 'annotations', 'categories'), format_only), ERROR,
        'has no categories', 'KeyError when the evaluation is built'),
    # Files
    Row('no file', lambda s: s.trained.update(ann_file='none.json'), ERROR, 'none.json does not exist',
        'FileNotFoundError when the training data are built'),
    Row('an empty file', text('train', lambda t: b''), ERROR, 'is not JSON',
        'JSONDecodeError when the training data are built'),
    Row('half a file', text('train', lambda t: t[:100].encode()), ERROR, 'is not JSON',
        'JSONDecodeError when the training data are built'),
    Row('a list', text('train', lambda t: b'[]'), ERROR, 'holds a list',
        'AssertionError when the training data are built'),
    Row('a byte order mark', text('train', lambda t: t.encode('utf-8-sig')), ERROR, 'with a byte order mark',
        'JSONDecodeError when the training data are built'),
    Row('UTF-16', text('train', lambda t: t.encode('utf-16')), ERROR, 'is UTF-16',
        'UnicodeDecodeError when the training data are built'),
    Row('Latin-1', text('train', lambda t: t.replace('cat', 'caf\xe9').encode('latin-1')), ERROR, 'save it as UTF-8',
        'UnicodeDecodeError when the training data are built'),
    Row('no images', without('train', 'images'), ERROR, 'has no images', 'ValueError when the training data are built'),
    Row('annotations of null', lambda s: s.train.update(annotations=None), ERROR, 'has no annotations',
        'TypeError when the training data are built'),
    Row('an image twice', item('train', 'images', id=1), ERROR, '2 images have the id 1',
        'learns from 20 of 24 objects in 5 of 6 images'),
    Row('an annotation twice', item('train', 'annotations', id=1), ERROR, '2 annotations have the id 1',
        'AssertionError when the training data are built'),
    Row('a category twice', item('train', 'categories', name='cat'), ERROR, "2 categories have the name 'cat'",
        AP_0),
    Row('three numbers for a box', item('train', 'annotations', bbox=[1, 2, 3]), ERROR, 'it must be four',
        'ValueError when the training data are built'),
    Row('text in a box', item('train', 'annotations', bbox=['1', 2, 3, 4]), ERROR, 'it must be four',
        'TypeError when the training data are built'),
    Row('NaN in a box', item('train', 'annotations', bbox=[float('nan'), 2, 3, 4]), ERROR, 'four finite',
        'learns from 23 of 24 objects in 6 of 6 images'),
    Row('text for a height', item('train', 'images', height='60'), ERROR, "has height '60'",
        'TypeError when the training data are built'),
    Row('width 0 of an image', item('train', 'images', width=0), ERROR, 'has width 0',
        'learns from 20 of 24 objects in 6 of 6 images'),
    Row('no file_name', drop('train', 'images', 'file_name'), ERROR, 'image 1 .* has no file_name',
        'KeyError when the training data are built'),
    Row('no area', drop('train', 'annotations', 'area'), ERROR, 'annotation 1 .* has no area',
        'KeyError when the training data are built'),
    # Image files
    Row('an image is missing', image(Path.unlink), ERROR, '1 of the 6 images of .* are missing, .*t1.jpg', NO_FILE),
    Row('a missing image, skipped', both(image(Path.unlink), lambda s: s.cfg.update(skip_unreadable_images=True)), SAID,
        'are missing.*skip_unreadable_images is set', NO_FILE),
    Row('a wrong prefix', dataset('train', data_prefix=dict(img='val/')), ERROR, 'train/t0.jpg exists; set data_prefix',
        NO_FILE),
    Row('no such folder', dataset('train', data_prefix=dict(img='none/')), ERROR, 'there is no folder', NO_FILE),
    Row('backslashes', both(names(lambda n: f'train\\{n}'), dataset('train', data_prefix=dict(img=''))), ERROR,
        'file_name has backslashes', NO_FILE),
    Row('the folder twice', names(lambda n: f'train/{n}'), ERROR, 'a folder too many', NO_FILE),
    Row('names in upper case', names(str.upper), ERROR, "did you mean 't0.jpg'", NO_FILE),
    Row('another ending', names(lambda n: n.replace('jpg', 'png')), ERROR, "did you mean 't0.jpg'", NO_FILE),
    Row('an empty image', image(lambda p: p.write_bytes(b'')), ERROR, '1 of the 6 images of .* are empty',
        'error in a worker that loads training data'),
    Row('text for an image', image(lambda p: p.write_text('<html>')), ERROR, 'is not readable as an image',
        'AssertionError in a worker that loads training data'),
    Row('a truncated image', image(lambda p: p.write_bytes(p.read_bytes()[:-60])), ERROR, 'it is truncated',
        'AssertionError in a worker that loads training data'),
    Row('a truncated image in val', image(lambda p: p.write_bytes(p.read_bytes()[:-60]), 'val'), ERROR,
        'it is truncated', 'AssertionError in a worker that loads the data of the evaluation'),
    Row('width and height swapped', lambda s: [i.update(height=WIDTH, width=HEIGHT) for i in s.train['images']], ERROR,
        '6 of 6 images .* is 80 x 60 .*the file says 60 x 80', RUNS),
    Row('an image turned by EXIF', image(save_rotated), ERROR, 'is 60 x 80 once turned as its EXIF',
        'boxes beyond the image: 1'),
    Row('an EXIF turn that is ignored', both(image(save_rotated), lambda s: s.trained.pipeline[0].update(
        color_type='color_ignore_orientation')), PASSES, '', RUNS),
    Row('a resized image', image(lambda p: Image.new('RGB', (40, 30)).save(p)), ERROR, 'is 40 x 30',
        'boxes beyond the image: 2'),
    # The demo's data set, on other data
    Row('digits with other classes', digits(metainfo=dict(classes=('cat', 'dog'))), ERROR, "type='CocoDataset'",
        'not run: the data set is of this package'),
    Row('digits with another file', digits(ann_file='mine.json'), ERROR, "ann_file='mine.json'; nothing was made",
        'not run: the data set is of this package'),
    Row('digits in a folder with other files', lambda s: digits(data_root=str(s.root))(s), ERROR,
        'which holds other files; nothing was made', 'not run: the data set is of this package'),
    Row('digits with two classes in the heads', both(digits(), lambda s: s.cfg.update(model=ConfigDict(
        roi_head=dict(bbox_head=dict(num_classes=2))))), ERROR, 'num_classes is 2, but .* has 10',
        'not run: the data set is of this package'),
]
