"""The packages that a plain installation brings are enough, except for the embedded data."""
from __future__ import annotations

import ast
import re
import sys

import pytest

from tests.test_tools.conftest import ROOT, load_tool

# What distributions are imported as, where that is not their name.
IMPORTED_AS = {'pillow': 'PIL', 'pyyaml': 'yaml', 'faster-coco-eval': 'faster_coco_eval'}
STACK = {'mmcv', 'mmdet', 'mmengine', 'cv2'}


def required(*files):
    lines = [line for file in files for line in (ROOT / 'requirements' / f'{file}.txt').read_text().splitlines()]
    names = [re.match(r'[\w-]+', line)[0] for line in lines if line and not line.startswith('#')]
    return {IMPORTED_AS.get(name, name) for name in names}


def imported(path, at_the_top):
    """Return the packages that a file imports: when it is imported itself, or anywhere."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_the_top else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition('.')[0])
    return found


@pytest.mark.skipif(sys.version_info < (3, 10), reason='sys.stdlib_module_names was added in Python 3.10')
def test_what_the_package_imports_is_required():
    # Modules that import triton or faster-coco-eval at their top are imported on demand.
    known = required('runtime', 'triton', 'faster') | STACK | set(sys.stdlib_module_names) | {'swin_pos_det'}
    files = [*(ROOT / 'swin_pos_det').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]
    assert len(files) > 150
    unknown = {(str(path.relative_to(ROOT)), name) for path in files for name in imported(path, True) - known}
    assert not {(path, name) for path, name in unknown if not path.startswith('tools/dev/')}
    anywhere = set().union(*(imported(path, False) for path in files))
    assert required('runtime') <= anywhere
    assert 'tqdm' not in anywhere


@pytest.mark.parametrize(('config', 'missing', 'says'), [
    ('swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits', ('sklearn', 'sklearn.datasets'), 'scikit-learn'),
    ('swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits', ('skimage', ), 'scikit-image')])
def test_the_embedded_data_name_their_packages(tmp_path, monkeypatch, capsys, config, missing, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('SWIN_POS_DET_DATA', str(tmp_path / 'data'))
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    assert load_tool('train.py').main([f'{ROOT}/configs/{config}.py']) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('error: ') and f'{says}, which is not installed: pip install' in line
