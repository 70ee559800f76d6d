"""The content of an installed package."""
from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_syntax_is_that_of_the_oldest_python():
    """Parse every file as Python 3.9; `ruff` reports newer names of the standard library's typing."""
    required = re.search(r"python_requires='>=(\d+)\.(\d+),", (ROOT / 'setup.py').read_text('utf-8'))
    oldest = tuple(int(part) for part in required.groups())
    files = [path for name in ('swin_pos_det', 'tools', 'configs', 'tests') for path in (ROOT / name).rglob('*.py')]
    assert len(files) > 400
    for path in [*files, *ROOT.glob('*.py')]:
        ast.parse(path.read_text('utf-8'), str(path), feature_version=oldest)


def test_citation():
    """The keys and types that the Citation File Format 1.2.0 requires; cffconvert --validate has checked the file."""
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text('utf-8'))
    scope: dict[str, str] = {}
    exec((ROOT / 'swin_pos_det/version.py').read_text('utf-8'), scope)
    assert (citation['cff-version'], citation['version']) == ('1.2.0', scope['__version__'])
    assert (citation['type'], citation['license']) == ('software', 'Apache-2.0')
    swin, = citation['references']
    assert swin['title'].startswith('Swin Transformer') and swin['identifiers'][0]['value'] == 'arXiv:2103.14030'
    for work in (citation, swin):
        assert work['title'] and all('family-names' in person or 'name' in person for person in work['authors'])
    assert isinstance(citation['message'], str)


def test_an_installed_package_has_its_configs_and_tools(tmp_path):
    subprocess.run([sys.executable, 'setup.py', '-q', 'build_py', '-d', tmp_path, 'dist_info', '-o', tmp_path],
                   cwd=ROOT, check=True)
    carried = tmp_path / 'swin_pos_det/.mim'
    for name in ('configs', 'tools'):
        want = {path.relative_to(ROOT) for path in (ROOT / name).rglob('*')
                if path.is_file() and '__pycache__' not in path.parts}
        assert {path.relative_to(carried) for path in (carried / name).rglob('*') if path.is_file()} == want
    assert (carried / 'model-index.yml').read_text() == (ROOT / 'model-index.yml').read_text()

    commands, = tmp_path.glob('*.dist-info/entry_points.txt')
    assert 'swin-pos-det = swin_pos_det_console:main' in commands.read_text()
    program = 'import swin_pos_det_console; print(swin_pos_det_console.find_tools())'
    where = subprocess.run([sys.executable, '-c', program],
                           env=dict(os.environ, PYTHONPATH=str(tmp_path)), cwd=tmp_path, check=True,
                           stdout=subprocess.PIPE, text=True).stdout
    assert where.strip() == str(carried / 'tools')

    (tmp_path / 'mine.py').write_text("_base_ = 'swin_pos_det::swin_pos/faster-rcnn_swin-pos-nano-p4-w7_fpn_coco.py'\n"
                                      'model = dict(roi_head=dict(bbox_head=dict(num_classes=2)))\n')
    program = ('import swin_pos_det; from mmengine.config import Config; '
               'from swin_pos_det.analysis.studies import study; '
               'print(Config.fromfile("mine.py").model.backbone.embed_dims, swin_pos_det.__file__); '
               'print(Config.fromfile(study.config_named("mask-rcnn_swin-pos-nano-p4-w7_fpn_digits")).filename)')
    env = dict(os.environ, PYTHONPATH=str(tmp_path))
    found = subprocess.run([sys.executable, '-c', program], env=env, cwd=tmp_path, check=True, stdout=subprocess.PIPE,
                           text=True).stdout
    assert Path(found.splitlines()[-1]) == carried / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'
    assert found.splitlines()[-2].split() == ['32', str(tmp_path / 'swin_pos_det/__init__.py')], 'a base by the package'
