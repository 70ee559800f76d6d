"""The model index names every config, and keeps what others published apart from what was measured here."""
from __future__ import annotations

import re
from pathlib import Path

import mmdet
import pytest
from mmengine.fileio import load

from swin_pos_det.analysis.runs.model_index import read_model_index
from tests.test_configs.test_configs import CONFIGS

ROOT = Path(__file__).parents[2]
METAFILE = load(str(ROOT / 'configs/swin_pos/metafile.yml'))
ENTRIES = {entry['Name']: entry for entry in METAFILE['Models']}


def test_every_config_has_one_entry():
    assert sorted(f'{name}.py' for name in ENTRIES) == CONFIGS
    assert len(ENTRIES) == len(METAFILE['Models'])
    assert list(read_model_index(ROOT / 'model-index.yml')) == list(ENTRIES)
    collections = {collection['Name'] for collection in METAFILE['Collections']}
    for name, entry in ENTRIES.items():
        assert entry['Config'] == f'configs/swin_pos/{name}.py'
        assert entry['In Collection'] in collections


@pytest.mark.parametrize('name', ENTRIES)
def test_published_figures_have_a_source_and_measured_ones_a_record(name):
    entry = ENTRIES[name]
    assert ('Published' in entry) != ('No Published Figure' in entry), 'figures, or the reason why there are none'
    for item in entry.get('Published', ()):
        assert item['Source'] and item['URL'].startswith('https://')
        assert set(item) <= {'Source', 'URL', 'box AP', 'mask AP', 'Weights', 'Note'}, 'nothing of ours among theirs'
    for item in entry.get('Results', ()):
        record = (ROOT / item['Record']).read_text()
        assert item['Record'].startswith('docs/results/') and item['Setup']
        for value in item['Metrics'].values():
            assert f'{value / 100:.3f}' in record, f'{item["Record"]} does not say {value}'


def test_this_project_measured_nothing_on_coco():
    """A training on COCO changes this test, with a record of the run."""
    assert [name for name, entry in ENTRIES.items() if 'Results' in entry] == [
        'mask-rcnn_swin-pos-nano-p4-w7_fpn_digits']


def test_the_readme_lists_every_config():
    readme = (ROOT / 'configs/swin_pos/README.md').read_text()
    listed = set(re.findall(r'\]\(([\w-]+\.py)\)', readme))
    assert listed == set(CONFIGS)


def test_figures_of_mmdets_zoo_are_mmdets():
    zoo = {}
    for folder in ('swin', 'mask2former'):
        file = Path(mmdet.__file__).parent / f'.mim/configs/{folder}/metafile.yml'
        if not file.is_file():
            pytest.skip('this mmdet comes without its metafiles')
        zoo.update({entry['Name']: entry for entry in load(str(file))['Models']})
    compared = 0
    for name, entry in ENTRIES.items():
        for item in entry.get('Published', ()):
            if item['Source'] == "MMDetection's model zoo":
                theirs = zoo[name.replace('swin-pos', 'swin')]
                figures = {key: value for result in theirs['Results'] for key, value in result['Metrics'].items()}
                assert {key: item[key] for key in figures} == figures, name
                assert Path(item['Weights']).name == Path(theirs['Weights']).name, name
                compared += 1
    assert compared == 4
