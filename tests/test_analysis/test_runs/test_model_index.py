"""Reading the model index, and errors in one."""
from __future__ import annotations

import pytest

from swin_pos_det.analysis.runs.model_index import Figures, find_model, read_model_index

METAFILE = """
Models:
  - Name: one_coco
    Config: configs/one_coco.py
    Metadata: {Training Data: COCO}
    Published:
      - {Source: A paper, URL: https://paper, box AP: 42.7, mask AP: 39.3, Weights: https://zoo/one.pth, Note: bigger}
      - {Source: Another, URL: https://other, box AP: 43}
    Results:
      - {Task: Object Detection, Metrics: {box AP: 42.5}, Record: docs/a.md, Setup: 8 GPUs}
      - {Task: Object Detection, Metrics: {box AP: 42.4}, Record: docs/b.md, Setup: 8 GPUs}
      - {Task: Instance Segmentation, Metrics: {mask AP: 39.1}, Record: docs/a.md, Setup: 8 GPUs}
  - Name: two_coco
    Config: configs/two_coco.py
    Metadata: {Training Data: COCO}
    No Published Figure: too new
"""


@pytest.fixture
def write(tmp_path):

    def index(metafile=METAFILE):
        (tmp_path / 'zoo').mkdir(exist_ok=True)
        (tmp_path / 'zoo/metafile.yml').write_text(metafile)
        (tmp_path / 'index.yml').write_text('Import: [zoo/metafile.yml]')
        return tmp_path / 'index.yml'

    return index


def test_measured_and_published_figures(write, tmp_path):
    models = read_model_index(write())
    assert list(models) == ['one_coco', 'two_coco']
    one = models['one_coco']
    assert (one.config, one.dataset) == (tmp_path / 'configs/one_coco.py', 'COCO')
    assert one.figures == (
        Figures({'box AP': 42.5, 'mask AP': 39.1}, '8 GPUs', 'docs/a.md', measured=True),
        Figures({'box AP': 42.4}, '8 GPUs', 'docs/b.md', measured=True),
        Figures({'box AP': 42.7, 'mask AP': 39.3}, 'A paper', 'https://paper', measured=False,
                weights='https://zoo/one.pth', note='bigger'),
        Figures({'box AP': 43.}, 'Another', 'https://other', measured=False),
    )
    assert models['two_coco'].figures == () and models['two_coco'].why_no_published == 'too new'


@pytest.mark.parametrize('name', ['one_coco', 'one_coco.py', 'configs/swin_pos/one_coco.py'])
def test_a_config_is_found_by_name_and_file(write, name):
    assert find_model(read_model_index(write()), name).name == 'one_coco'


def test_a_wrong_name(write):
    models = read_model_index(write())
    with pytest.raises(ValueError, match='has no on_coco; did you mean one_coco'):
        find_model(models, 'on_coco')
    with pytest.raises(ValueError, match='has no yolo. tools/reproduce.py --list shows all 2'):
        find_model(models, 'yolo')


@pytest.mark.parametrize(('old', 'new', 'message'), [
    ('Name: two_coco', 'Name: one_coco', 'two entries one_coco'),
    ('Config: configs/two_coco.py', 'File: x.py', 'two_coco lacks Config'),
    ('box AP: 42.7, mask AP: 39.3', 'box AP: 427', 'one_coco: figures need .* from 0 to 100'),
    ('box AP: 43}', 'AP: 43}', 'one_coco: figures need box AP or mask AP'),
])
def test_mistakes_are_named(write, old, new, message):
    with pytest.raises(ValueError, match=message):
        read_model_index(write(METAFILE.replace(old, new)))


def test_missing_files(write, tmp_path):
    index = write()
    with pytest.raises(FileNotFoundError, match='no model index'):
        read_model_index(tmp_path / 'none.yml')
    (tmp_path / 'zoo/metafile.yml').unlink()
    with pytest.raises(FileNotFoundError, match='imports zoo/metafile.yml, which does not exist'):
        read_model_index(index)
