"""The raw material of the embedded data set: handwritten digits and photographs that installed packages ship.

Nothing is downloaded. The split of scans and photographs is fixed here, so that training and validation
images share none at any seed or count.
"""
from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...errors import MissingFileError, MissingPackageError, SettingError

SPLITS = ('train', 'val')

#: One scan in this many, class by class, is kept for validation.
VAL_EVERY = 5

#: The folder of each package's sample photographs, relative to the package.
PHOTO_FOLDERS = {'sklearn': 'datasets/images', 'skimage': 'data', 'matplotlib': 'mpl-data/sample_data'}
_INSTALL = "pip install 'swin-pos-det[demo]'"
INSTALL_NAMES = {'sklearn': 'scikit-learn', 'skimage': 'scikit-image', 'matplotlib': 'matplotlib'}

CC0 = 'https://creativecommons.org/publicdomain/zero/1.0/'
CC_BY = 'https://creativecommons.org/licenses/by/2.0/'


class Photo(NamedTuple):
    """A photograph inside an installed package, with the terms of use in its documentation."""
    package: str
    file: str
    license: str = 'public domain'
    license_url: str = ''

    @property
    def name(self) -> str:
        """Return ``package/file``, as recorded in the annotations."""
        return f'{self.package}/{self.file}'


# Left out: drawings and test patterns, photographs that show figures or writing (text.png, page.png), and
# motorcycle_right.png, which is the same scene as motorcycle_left.png.
TRAIN_PHOTOS = (
    Photo('sklearn', 'china.jpg', 'CC BY 2.0, by danielbuechele', CC_BY),
    Photo('skimage', 'astronaut.png', 'public domain, by NASA'),
    Photo('skimage', 'coffee.png', 'CC0, by Rachel Michetti', CC0),
    Photo('skimage', 'motorcycle_left.png', 'Middlebury stereo benchmark 2014'),
    Photo('skimage', 'camera.png', 'CC0, by Lav Varshney', CC0),
    Photo('skimage', 'coins.png', 'no known restrictions, Brooklyn Museum'),
    Photo('skimage', 'grass.png', 'CC0', CC0),
    Photo('skimage', 'gravel.png', 'CC0', CC0),
    Photo('skimage', 'hubble_deep_field.jpg', 'public domain, by NASA'),
    Photo('skimage', 'retina.jpg', 'CC0, Häggström 2014', CC0),
    Photo('matplotlib', 'grace_hopper.jpg', 'public domain, by the US Navy'),
)
VAL_PHOTOS = (
    Photo('sklearn', 'flower.jpg', 'CC BY 2.0, by vultilion', CC_BY),
    Photo('skimage', 'chelsea.png', 'CC0, by Stefan van der Walt', CC0),
    Photo('skimage', 'rocket.jpg', 'public domain, by SpaceX'),
    Photo('skimage', 'brick.png', 'CC0', CC0),
    Photo('skimage', 'moon.png', 'see scikit-image'),
)
PHOTOS = {'train': TRAIN_PHOTOS, 'val': VAL_PHOTOS}


class DigitScans(NamedTuple):
    """Handwritten digits.

    Attributes:
        images: (N, 8, 8) uint8, ink 0 (none) to 255.
        labels: (N,) int, the digit 0-9.
        indices: (N,) int, each scan's place in scikit-learn's collection of 1,797.
    """
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


def check_split(split: str) -> None:
    """Raise ValueError unless ``split`` is ``'train'`` or ``'val'``."""
    if split not in SPLITS:
        raise SettingError(f'split must be one of {SPLITS}, got {split!r}')


def load_scans(split: str) -> DigitScans:
    """Load the digits of one split (scikit-learn's ``load_digits``: UCI's optical recognition test set, 8x8 px).

    Every ``VAL_EVERY``-th scan of each class goes to validation, so that the classes are balanced in both splits.
    Writers are not recorded in the collection; the same hand may occur in both splits.

    Args:
        split: ``'train'`` or ``'val'``.

    Raises:
        ValueError: ``split`` is neither.
        MissingPackageError: if scikit-learn is not installed.
    """
    check_split(split)
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f'the embedded digits come with scikit-learn, which is not installed: {_INSTALL}') from error
    bunch = load_digits()
    is_val = np.zeros(len(bunch.target), dtype=bool)
    for label in range(10):
        is_val[np.flatnonzero(bunch.target == label)[VAL_EVERY - 1::VAL_EVERY]] = True
    indices = np.flatnonzero(is_val if split == 'val' else ~is_val)
    images = np.round(bunch.images[indices] * (255 / 16)).astype(np.uint8)
    return DigitScans(images, bunch.target[indices].astype(int), indices)


def find_photo(photo: Photo) -> Path:
    """Return the path of a photograph without importing the package that ships it.

    Raises:
        MissingPackageError: if the package is not installed.
        MissingFileError: if its version does not ship the file.
    """
    spec = importlib.util.find_spec(photo.package)
    if spec is None or spec.origin is None:
        raise MissingPackageError(f'the photograph {photo.file} of the embedded data comes with '
                                  f'{INSTALL_NAMES[photo.package]}, which is not installed: {_INSTALL}')
    path = Path(spec.origin).parent / PHOTO_FOLDERS[photo.package] / photo.file
    if not path.is_file():
        raise MissingFileError(f'the installed {INSTALL_NAMES[photo.package]} does not ship the photograph '
                               f'{photo.file} (expected at {path}); install a version that does')
    return path


def load_photos(split: str) -> list[Image.Image]:
    """Return the photographs of one split as RGB images, in the order of ``PHOTOS[split]``.

    Raises:
        ValueError: ``split`` is not ``'train'`` or ``'val'``.
        MissingPackageError, MissingFileError: see :func:`find_photo`.
    """
    check_split(split)
    photos = []
    for photo in PHOTOS[split]:
        with Image.open(find_photo(photo)) as image:
            photos.append(image.convert('RGB'))
    return photos
