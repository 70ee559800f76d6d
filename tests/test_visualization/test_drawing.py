"""Masks, boxes and names land where they belong, at any scale, for any number of classes."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from swin_pos_det.visualization import (
    InstanceDrawer,
    class_palette,
    contact_sheet,
    distinct_names,
    picture_scale,
    save_picture,
    to_rgb,
)

GREY = np.full((120, 200, 3), 128, np.uint8)


def changed(picture, image=GREY):
    return (picture != image).any(2)


@pytest.fixture(scope='module')
def drawer():
    return InstanceDrawer(['cat', 'dog'], [(200, 0, 0), (0, 0, 200)], line_width=1)


def test_a_box_and_its_name(drawer):
    before = GREY.copy()
    picture = drawer.draw(before, [1], boxes=[[50, 40, 150, 100]], scores=[0.5])
    assert (before == GREY).all(), 'the image is left alone'
    assert (picture[70, 50] == (0, 0, 200)).all() and (picture[100, 100] == (0, 0, 200)).all(), 'the frame'
    drawn = changed(picture)
    assert not drawn[42:99, 52:149].any(), 'the inside stays'
    assert not drawn[:20].any() and not drawn[102:].any() and not drawn[:, :48].any() and not drawn[:, 152:].any()
    assert drawn[25:40, 50:80].mean() > 0.9, 'the name stands above'


def test_names_with_and_without_scores_and_texts_of_ones_own(drawer):
    plain, scored, given = (drawer.draw(GREY, [0], boxes=[[20, 40, 150, 100]], **more)
                            for more in ({}, dict(scores=[0.25]), dict(texts=['cat 0.25'])))
    assert changed(scored).sum() > changed(plain).sum()
    assert (scored == given).all()


def test_a_mask_is_see_through_and_outlined(drawer):
    mask = np.zeros((1, 120, 200), bool)
    mask[0, 60:110, 60:140] = True
    picture = drawer.draw(GREY, [0], masks=mask, texts=[''])
    assert picture[80, 100].tolist() == [round(.55 * 128 + .45 * 200), 70, 70]
    assert picture[60, 100, 0] > 190 and picture[60, 100, 1] < 20, 'the outline'
    assert not changed(picture)[112:].any()
    assert (drawer.draw(GREY, [0], masks=mask.astype(np.uint8), texts=['']) == picture).all()


def test_small_masks_are_not_hidden_by_large_ones(drawer):
    masks = np.zeros((2, 120, 200), bool)
    masks[0, 50:60, 50:60] = masks[1, 20:100, 20:180] = True
    small_first, large_first = drawer.draw(GREY, [1, 0], masks=masks, texts=['', '']), drawer.draw(
        GREY, [0, 1], masks=masks[::-1], texts=['', ''])
    assert small_first[55, 55, 2] > small_first[55, 55, 0], 'the blue small one is on top'
    assert (small_first[40:] == large_first[40:]).all()


@pytest.mark.parametrize('scale', [0.5, 1., 3.])
def test_at_any_scale(drawer, scale):
    mask = np.zeros((1, 120, 200), bool)
    mask[0, 60:110, 60:140] = True
    picture = drawer.draw(GREY, [0], boxes=[[60, 60, 140, 110]], masks=mask, texts=[''], scale=scale)
    assert picture.shape == (round(120 * scale), round(200 * scale), 3)
    ys, xs = np.nonzero(changed(picture[round(50 * scale):], np.full(3, 128, np.uint8)))
    for found, want in ((xs.min(), 60), (xs.max(), 140), (ys.max() + round(50 * scale), 110)):
        assert abs(found / scale - want) <= 2 / min(scale, 1)


def test_what_lies_at_or_beyond_the_border(drawer):
    boxes = [[-50, -50, 300, 300], [195, 115, 200, 120], [500, 500, 600, 600], [10, 10, 10, 10],
             [float('nan'), 0, float('inf'), 5]]
    picture = drawer.draw(GREY, [0, 1, 0, 1, 0], boxes=boxes, masks=np.zeros((5, 120, 200), bool))
    assert picture.shape == GREY.shape and changed(picture).any()
    tiny = drawer.draw(GREY[:1, :1], [0], boxes=[[0, 0, 1, 1]])
    assert tiny.shape == (1, 1, 3)
    assert (drawer.draw(GREY, []) == GREY).all()


def test_names_do_not_cover_each_other():
    drawer = InstanceDrawer(['cat'], line_width=1)
    alone = changed(drawer.draw(GREY, [0], boxes=[[40, 40, 120, 100]])).sum()
    both = changed(drawer.draw(GREY, [0, 0], boxes=[[40, 40, 120, 100]] * 2)).sum()
    name = alone - changed(drawer.draw(GREY, [0], boxes=[[40, 40, 120, 100]], texts=[''])).sum()
    assert both - alone > 0.7 * name


def test_more_classes_than_names_and_colours():
    picture = InstanceDrawer(['cat'], [(9, 9, 9)], line_width=1).draw(GREY, [1500], boxes=[[40, 40, 120, 100]])
    color = class_palette(1501, [(9, 9, 9)])[1500]
    assert tuple(picture[70, 40]) == color


def test_palette():
    colors = class_palette(2000)
    assert len(set(colors)) == 2000
    assert class_palette(10) == colors[:10], 'a colour does not depend on the number of classes'
    assert class_palette(3, [(1, 2, 3)]) == [(1, 2, 3), *colors[:2]]
    assert class_palette(2, [colors[0]]) == colors[:2], 'a given colour is not generated again'
    assert class_palette(1, [(1, 2, 3), (4, 5, 6)]) == [(1, 2, 3), (4, 5, 6)]
    apart = [max(abs(a - b) for a, b in zip(one, other)) for one, other in zip(colors, colors[1:40])]
    assert min(apart) > 60, 'neighbours can be told apart'


def test_picture_scale():
    assert picture_scale((100, 50)) == 1
    assert picture_scale((100, 50), at_least=640) == 7
    assert picture_scale((4000, 6000), at_least=640, at_most=2048) == 2048 / 6000
    assert picture_scale((640, 640), at_least=640, at_most=640) == 1


def test_anything_loaded_can_be_looked_at():
    bgr = np.dstack([np.full((4, 5), value, np.uint8) for value in (10, 20, 30)])
    assert to_rgb(bgr)[0, 0].tolist() == [30, 20, 10]
    assert to_rgb(np.dstack([bgr, bgr]))[0, 0].tolist() == [30, 20, 10]
    assert to_rgb(bgr[..., 0])[0, 0].tolist() == [10, 10, 10]
    assert to_rgb(bgr[..., :2])[0, 0].tolist() == [10, 10, 10]
    assert to_rgb(bgr.astype(np.float32))[0, 0].tolist() == [30, 20, 10]
    assert to_rgb(bgr.astype(np.uint16) * 100)[0, 0].tolist() == [255, 170, 85], 'deep values are scaled'


def test_contact_sheet():
    tiles = [np.full((50, 100, 3), value, np.uint8) for value in (10, 20, 30)] + [np.full((100, 50, 3), 40, np.uint8)]
    sheet = contact_sheet(iter(tiles), width=420, row_height=100, gap=10)
    assert sheet.shape == (210, 410, 3)
    assert sheet[50, 100, 0] == 10 and sheet[50, 300, 0] == 20 and sheet[160, 100, 0] == 30 and sheet[160, 230, 0] == 40
    assert (sheet[100:110] == 255).all() and (sheet[:, 200:210] == 255).all()
    assert contact_sheet(tiles[:1], width=20, row_height=100).shape == (100, 200, 3), 'one that is wider than the sheet'


def test_distinct_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distinct_names(['a/1.jpg', 'b/2.jpg']) == {'a/1.jpg': '1.jpg', 'b/2.jpg': '2.jpg'}
    assert distinct_names(['a/1.jpg', f'{tmp_path}/b/1.jpg', 'b/c/2.jpg']) == {
        'a/1.jpg': 'a/1.jpg', f'{tmp_path}/b/1.jpg': 'b/1.jpg', 'b/c/2.jpg': 'b/c/2.jpg'}
    assert distinct_names(['a/1.jpg', './a/1.jpg']) == {'a/1.jpg': '1.jpg', './a/1.jpg': '1.jpg'}, 'one file'
    assert set(distinct_names(['a/X.jpg', 'b/x.jpg']).values()) == {'a/X.jpg', 'b/x.jpg'}, 'some disks ignore case'


def test_save_picture(tmp_path):
    picture = np.dstack([np.full((4, 5), value, np.uint8) for value in (10, 20, 30)])
    for name, written in (('a.png', 'a.png'), ('deep/b.gif', 'deep/b.gif.png'), ('c', 'c.png')):
        assert save_picture(picture, tmp_path / name) == tmp_path / written
        assert (np.asarray(Image.open(tmp_path / written)) == picture).all()
