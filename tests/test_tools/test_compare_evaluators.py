"""The comparison of evaluators prints what the records in docs/results quote."""
from __future__ import annotations

import json

import pytest

from .conftest import load_tool

pytest.importorskip('faster_coco_eval')


def test_the_table(tmp_path, capsys):
    box = dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 40, 40], area=1600, iscrowd=0,
               segmentation=[[5, 5, 45, 5, 45, 45, 5, 45]])
    (tmp_path / 'gt.json').write_text(json.dumps(dict(
        images=[dict(id=1, width=90, height=60, file_name='a.jpg')], categories=[dict(id=1, name='cat')],
        annotations=[box])))
    tool = load_tool('analysis_tools/compare_evaluators.py')
    assert tool.main([str(tmp_path / 'gt.json'), '--copies', '5', '--per-image', '20', '--runs', '1']) == 0
    output = capsys.readouterr().out
    assert '5 images' in output
    rows = [line.split('│') for line in output.splitlines() if 'bbox' in line or 'segm' in line]
    assert [row[2].strip() for row in rows] == ['1 10 100', '100 300 1000'] * 2
    assert all(float(row[7]) < 1e-12 for row in rows)
    assert all(float(row[3]) > 0 for row in rows)


def test_a_file_that_is_no_ground_truth(tmp_path, capsys):
    (tmp_path / 'gt.json').write_text('[]')
    assert load_tool('analysis_tools/compare_evaluators.py').main([str(tmp_path / 'gt.json')]) == 1
    assert capsys.readouterr().err.startswith('error: ')
