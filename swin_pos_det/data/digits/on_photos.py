"""Make the embedded data set, handwritten digits on photographs, as a COCO folder::

    <data_root>/dataset.json                 the settings it was made with
    <data_root>/annotations/{train,val}.json
    <data_root>/{train,val}/000000.jpg ...

Image ``i`` of a split depends only on the seed and ``i``: more images never change the earlier ones.
The folder appears at once, by a rename, when everything in it is written; a killed run leaves only a hidden folder
beside it, which the next run removes. An empty hidden lock file stays there as well.
"""
from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from ...errors import OccupiedPathError, SettingError, SettingTypeError
from ...progress import track
from .scenes import Scene, lay_out, paint
from .sources import PHOTOS, SPLITS, find_photo, load_photos, load_scans

try:
    import fcntl
except ImportError:  # not on this system, where only the rename protects the data
    fcntl = None

NAME = 'digits_on_photos'
#: Increased when the same seed gives other data than before.
VERSION = 1
CLASSES = tuple('0123456789')
DEFAULTS = dict(num_train=400, num_val=100, seed=0)
MANIFEST = 'dataset.json'
#: Environment variable naming the folder for data sets that are given no data root.
DATA_VARIABLE = 'SWIN_POS_DET_DATA'
REMAKE = 'tools/dataset_tools/make_digits.py'

logger = logging.getLogger(__name__)


class Recipe(NamedTuple):
    """The settings of a data set."""
    num_train: int
    num_val: int
    seed: int

    def manifest(self) -> dict:
        return dict(name=NAME, version=VERSION, **self._asdict())


def _checked(num_train: int | None, num_val: int | None, seed: int | None) -> dict:
    """Check the given parameters and return them."""
    given = {key: value for key, value in dict(num_train=num_train, num_val=num_val, seed=seed).items()
             if value is not None}
    for key, value in given.items():
        least = 0 if key == 'seed' else 1
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise SettingTypeError(f'{key} must be a whole number, got {value!r}')
        if value < least:
            raise SettingError(f'{key} must be at least {least}, got {value}')
        given[key] = int(value)
    return given


def digits_root(data_root: str | os.PathLike | None = None, num_train: int | None = None, num_val: int | None = None,
                seed: int | None = None) -> Path:
    """Return the folder in which the data set is, or would be, made.

    Args:
        data_root: the folder. Empty or None: a folder named after the parameters, below ``$SWIN_POS_DET_DATA``, else
            below ``swin-pos-det/data`` in the user's cache folder (``$XDG_CACHE_HOME``, else ``~/.cache``).
        num_train, num_val, seed: see :func:`make_digits_on_photos`.

    Returns:
        An absolute path.

    Raises:
        TypeError, ValueError: a parameter is not a whole number, or is too small.
    """
    given = _checked(num_train, num_val, seed)
    if data_root:
        return Path(data_root).expanduser().resolve()
    recipe = Recipe(**{**DEFAULTS, **given})
    base = os.environ.get(DATA_VARIABLE)
    if not base:
        base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'swin-pos-det', 'data')
    name = f'{NAME}-v{VERSION}-{recipe.num_train}-{recipe.num_val}-seed{recipe.seed}'
    return Path(base, name).expanduser().resolve()


def make_digits_on_photos(data_root: str | os.PathLike | None = None, num_train: int | None = None,
                          num_val: int | None = None, seed: int | None = None, force: bool = False,
                          progress: bool = True) -> Path:
    """Make the data set unless it is there already; safe when several processes call it at once.

    Args:
        data_root: see :func:`digits_root`.
        num_train, num_val: images per split, at least 1. None: as many as the folder holds; 400 and 100 if it is made.
        seed: at least 0. None: likewise; 0 if it is made.
        force: make an existing data set of ours again.
        progress: show progress bars.

    Returns:
        Absolute path of the folder.

    Raises:
        TypeError, ValueError: a bad parameter; or the folder holds a data set made with others, or by another version.
        FileExistsError: the folder holds something else, which is never changed.
        MissingPackageError, MissingFileError: a package with the digits, or a photograph, is missing.
        OSError: writing to the folder fails.
    """
    given = _checked(num_train, num_val, seed)
    root = digits_root(data_root, **given)
    if not force and _is_made(root, given):
        return root
    for split in SPLITS:
        for photo in PHOTOS[split]:
            find_photo(photo)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with _locked(root.with_name(f'.{root.name}.lock')) as alone:
            if alone:
                for stale in root.parent.glob(f'.{root.name}.making-*'):
                    shutil.rmtree(stale, ignore_errors=True)
            made = _is_made(root, given, any_recipe=force)
            if force or not made:
                _make(root, Recipe(**{**DEFAULTS, **given}), replace=made, progress=progress)
    except OSError as error:
        if error.errno is None:  # one of ours
            raise
        raise OSError(f'cannot make the data set at {root} ({error.strerror}); pass a data root that can be written, '
                      f'or set {DATA_VARIABLE} to such a folder') from error
    return root


def _is_made(root: Path, given: dict, any_recipe: bool = False) -> bool:
    """Return whether the folder holds the data set asked for. Raises if it holds anything else."""
    if not root.is_dir():
        if root.exists():
            raise OccupiedPathError(f'the data root {root} is a file; pass a folder')
        return False
    try:
        found = json.loads((root / MANIFEST).read_text(encoding='utf-8'))
    except FileNotFoundError:
        if any(root.iterdir()):
            raise OccupiedPathError(f'the data root {root} holds other files and no {MANIFEST}; pass a new or an empty '
                                    'folder') from None
        return False
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get('name') != NAME:
        raise OccupiedPathError(f'{root / MANIFEST} does not describe a {NAME} data set; pass another data root')
    wanted = {} if any_recipe else dict(version=VERSION, **given)
    differing = [f'{key}={found.get(key)}, not {value}' for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise SettingError(f'the data set at {root} was made with {"; ".join(differing)}; pass another data root, or '
                           f'remake it: python {REMAKE} --out {root} --force')
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock file that the system frees when its holder dies. Yield False if the file system has no locks."""
    with open(path, 'a') as file:
        held = fcntl is not None
        if held:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning('waiting for another process that makes %s', path.name[1:-len('.lock')])
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                held = False
        yield held


def _make(root: Path, recipe: Recipe, replace: bool, progress: bool) -> None:
    """Write the data set beside ``root``, then move it there, over an older one if that is to be replaced."""
    temp = Path(tempfile.mkdtemp(prefix=f'.{root.name}.making-', dir=root.parent))
    try:
        fresh = temp / 'new'
        (fresh / 'annotations').mkdir(parents=True)
        for split, count in zip(SPLITS, (recipe.num_train, recipe.num_val)):
            _write_split(fresh, split, count, recipe.seed, progress)
        (fresh / MANIFEST).write_text(json.dumps(recipe.manifest(), indent=2) + '\n', encoding='utf-8')
        if replace:
            os.replace(root, temp / 'old')
        try:
            os.replace(fresh, root)
        except OSError:  # without locks, another process may have been first
            if not _is_made(root, recipe._asdict()):
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _write_split(root: Path, split: str, count: int, seed: int, progress: bool) -> None:
    scans, photos = load_scans(split), load_photos(split)
    (root / split).mkdir()
    images, annotations = [], []
    for index in track(range(count), f'making {NAME}/{split}', disable=not progress):
        layout_rng, paint_rng = (np.random.default_rng([seed, SPLITS.index(split), index, stream]) for stream in (0, 1))
        scene = lay_out(layout_rng, index, scans, len(photos))
        file_name = f'{index:06d}.jpg'
        paint(paint_rng, scene, photos[scene.photo]).save(root / split / file_name, quality=90)
        height, width = scene.owner.shape
        images.append(dict(id=index + 1, file_name=file_name, width=width, height=height, license=scene.photo + 1,
                           photo=PHOTOS[split][scene.photo].name))
        annotations += annotate(scene, image_id=index + 1, first_id=len(annotations) + 1)
    licenses = [dict(id=number, name=f'{photo.name}: {photo.license}', url=photo.license_url)
                for number, photo in enumerate(PHOTOS[split], 1)]
    categories = [dict(id=label, name=name, supercategory='digit') for label, name in enumerate(CLASSES, 1)]
    info = dict(description='Handwritten digits (scikit-learn) on photographs (scikit-learn, scikit-image, matplotlib)',
                version=str(VERSION), seed=seed, split=split)
    coco = dict(info=info, licenses=licenses, images=images, annotations=annotations, categories=categories)
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(coco), encoding='utf-8')


def annotate(scene: Scene, image_id: int, first_id: int) -> list[dict]:
    """Return COCO annotations of a scene: the part of each instance that is neither covered nor cut off.

    Besides COCO's keys each has ``scans`` (indices into scikit-learn's collection) and ``full_area`` (px, without
    occlusion). Masks are compressed RLE with text counts, crowds' too; boxes are ``[x, y, w, h]`` in px.

    Args:
        scene: the layout.
        image_id: id of its image.
        first_id: id of the first annotation.
    """
    annotations = []
    for instance, full_area in enumerate(scene.full_areas):
        digits = [digit for digit in scene.digits if digit.instance == instance]
        rle = coco_mask.encode(np.asfortranarray(scene.owner == instance, dtype=np.uint8))
        annotations.append(dict(
            id=first_id + instance, image_id=image_id, category_id=digits[0].label + 1,
            iscrowd=int(instance == scene.crowd), bbox=coco_mask.toBbox(rle).tolist(),
            area=float(coco_mask.area(rle)), segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
            scans=[digit.scan for digit in digits], full_area=full_area))
    return annotations
