"""Counting the tokens that windows process."""
from __future__ import annotations

import json

from swin_pos_det.analysis.studies.window_tokens import count_tokens, map_sizes, resized_images, token_table


def test_sizes_are_those_of_the_resize_and_the_padding(tmp_path):
    path = tmp_path / 'coco.json'
    path.write_text(json.dumps(dict(images=[dict(width=640, height=480), dict(width=200, height=640)])))
    # 640 x 480 -> 1067 x 800 -> 1088 x 800; 200 x 640 -> 417 x 1333 -> 416 (rounded 417 -> 448) x 1344
    assert resized_images(str(path), (1333, 800)) == [(800, 1088), (1344, 448)]


def test_literal_counts():
    assert map_sizes((800, 1088)) == [(200, 272), (100, 136), (50, 68), (25, 34)]
    # The last stage of two blocks: 25 x 34 in windows of 7 is 28 x 35.
    assert count_tokens([(800, 1088)], 7, 'fixed')[3] == 2 * 28 * 35
    assert count_tokens([(800, 1088)], 7, 'fit')[3] == 2 * 28 * 35
    assert count_tokens([(800, 1088)], 7, 'fixed')[2] == 6 * 56 * 70
    assert count_tokens([(800, 1088)], 7, 'fit')[2] == 6 * 54 * 70  # 6 pads 50 to 54; 7 pads 68 to 70


def test_fit_saves_and_never_costs(coco_root):
    images = resized_images(str(coco_root / 'annotations/instances_val2017.json'), (1333, 800))
    for row in token_table(images, [7, 12, 16]):
        assert row['never_more']
        assert 0 < row['saved'] < 1
        assert row['fixed'] > row['fit'] >= 0
