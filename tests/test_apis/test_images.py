"""A detector gets (H, W, 3) BGR bytes for every storage format of an image, or the reason why not."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from swin_pos_det.apis import ImageError
from swin_pos_det.apis.images import read_image

LOAD = LoadImageFromFile()


def read(image):
    return read_image(image, LOAD)


def test_plain(save, picture):
    assert (read(save(picture, 'a.png')) == picture[..., ::-1]).all()
    assert (read(str(save(picture, 'b.bmp'))) == picture[..., ::-1]).all()


def test_grey_becomes_three_equal_channels(save, picture):
    grey = read(save(picture[..., 0], 'grey.png'))
    assert grey.shape == picture.shape
    assert (grey == picture[..., :1]).all()
    assert (read(save(picture[..., 0], 'grey.jpg', quality=100)).std(2) == 0).all()


def test_palette(save, picture):
    few = np.asarray(Image.fromarray(picture).quantize(16).convert('RGB'))
    path = save(picture, 'palette.png')
    Image.fromarray(picture).quantize(16).save(path)
    assert (read(path) == few[..., ::-1]).all()


def test_transparency_is_dropped(save, picture):
    alpha = np.full(picture.shape[:2], 9, np.uint8)
    assert (read(save(np.dstack([picture, alpha]), 'rgba.png')) == picture[..., ::-1]).all()


def test_16_bits_keep_the_upper_8(tmp_path, picture):
    cv2.imwrite(str(tmp_path / 'deep.png'), picture[..., ::-1].astype(np.uint16) * 256 + 100)
    assert (read(tmp_path / 'deep.png') == picture[..., ::-1]).all()
    cv2.imwrite(str(tmp_path / 'deep.tif'), picture[..., 0].astype(np.uint16) * 256)
    assert (read(tmp_path / 'deep.tif') == picture[..., :1]).all()


@pytest.mark.parametrize(('orientation', 'turn'), [(3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1)),
                                                   (8, np.rot90), (2, lambda x: x[:, ::-1])])
def test_exif_turns(save, picture, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = read(save(picture, 'turned.jpg', quality=100, subsampling=0, exif=exif))
    upright = turn(picture)[..., ::-1]
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).mean() < 2


def test_arrays(picture):
    bgr = np.ascontiguousarray(picture[..., ::-1])
    assert (read(bgr) == bgr).all()
    assert (read(np.dstack([bgr, bgr[..., :1]])) == bgr).all()
    assert (read(bgr.astype(np.uint16) * 256 + 255) == bgr).all()
    for grey in (bgr[..., 0], bgr[..., :1]):
        assert (read(grey) == bgr[..., :1]).all()
        assert read(grey).shape == bgr.shape


@pytest.mark.parametrize('array', [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8),
                                   np.zeros(4, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)])
def test_other_arrays(array):
    with pytest.raises(ImageError, match='an image is .* got'):
        read(array)


def test_damaged_files(save, tmp_path, picture):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ('cut.jpg', 'cut.png', 'cut.tif', 'cut.webp'):
        path = save(noise, name)
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
        with pytest.raises(ImageError, match=f'{name} (is damaged|is not decodable|is no image)'):
            read(path)
    (tmp_path / 'empty.jpg').write_bytes(b'')
    (tmp_path / 'text.jpg').write_text('no picture')
    (tmp_path / 'folder.jpg').mkdir()
    for name, message in [('empty', 'is empty'), ('text', 'is no image'), ('none', 'does not exist'),
                          ('folder', 'does not exist')]:
        with pytest.raises(ImageError, match=f'{name}.jpg {message}'):
            read(tmp_path / f'{name}.jpg')


def test_the_loader_of_the_config_is_used(save, picture):
    path = save(picture, 'a.png')
    assert read_image(path, LoadImageFromFile(color_type='grayscale')).ndim == 2
    assert read_image(path, LoadImageFromFile(to_float32=True)).dtype == np.float32
