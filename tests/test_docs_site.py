"""The site of docs/: it builds without a warning, and every link in its pages leads to a page, a file and an anchor."""
from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path

import pytest

mkdocs_config = pytest.importorskip('mkdocs.config', reason='pip install -e .[docs]')
pytest.importorskip('mkdocstrings', reason='pip install -e .[docs]')
build = pytest.importorskip('mkdocs.commands.build').build

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """Build the site; a warning of MkDocs, or of what reads the docstrings, raises."""
    folder = tmp_path_factory.mktemp('site')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('NO_MKDOCS_2_WARNING', '1')
        patch.chdir(ROOT)
        config = mkdocs_config.load_config('mkdocs.yml', site_dir=str(folder))
        assert config.strict
        config.plugins.on_startup(command='build', dirty=False)
        build(config)
    return folder


def test_links_of_the_pages(site):
    pages = {page: page.read_text('utf-8') for page in site.rglob('*.html') if page.name != '404.html'}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    broken, count = [], 0
    for page, text in pages.items():
        for link in re.findall(r'<(?:a|img)\b[^>]*?\b(?:href|src)="([^"]+)"', text):
            if re.match(r'\w+:', link):
                continue
            path, _, anchor = urllib.parse.unquote(link).partition('#')
            target, count = (page.parent / path).resolve() if path else page, count + 1
            target = target / 'index.html' if target.is_dir() else target
            if not target.is_file() or anchor and anchor not in anchors.get(target, {anchor}):
                broken.append((str(page.relative_to(site)), link))
    assert broken == [] and count > 1000


def test_every_guide_and_record_is_a_page(site):
    for page in (ROOT / 'docs').rglob('*.md'):
        path = page.relative_to(ROOT / 'docs').with_suffix('.html')
        assert (site / (path.with_name('index.html') if page.name == 'README.md' else path)).is_file(), page


def test_the_readme_is_the_home_page(site):
    text = (site / 'index.html').read_text('utf-8')
    for picture in re.findall(r'\]\(docs/(images/\w+\.png)\)', (ROOT / 'README.md').read_text('utf-8')):
        assert f'src="{picture}"' in text
    assert 'href="windows.html"' in text
    assert 'href="repository/CONTRIBUTING.html"' in text


def test_files_of_the_repository_are_pages(site):
    assert 'href="repository/swin_pos_det/data/objects.py.html"' in (site / 'data.html').read_text('utf-8')
    assert '_base_' in (site / 'repository/configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py.html').read_text()


def test_the_reference_comes_from_the_docstrings(site):
    text = (site / 'api/models.html').read_text('utf-8')
    assert 'id="swin_pos_det.models.SwinPosTransformer.set_window_size"' in text
    assert 'nominal window in tokens' in text
    assert ':class:' not in text and ':meth:' not in text
    public = {path.parent.name for path in (ROOT / 'swin_pos_det').glob('*/__init__.py')
              if '__all__' in path.read_text('utf-8')}
    assert {path.stem for path in (ROOT / 'docs/api').glob('*.md')} == public | {'errors'}


def test_search_knows_the_reference_and_the_guides(site):
    found = {entry['location'] for entry in json.loads((site / 'search/search_index.json').read_text())['docs']}
    assert 'api/models.html#swin_pos_det.models.SwinPosTransformer.set_window_size' in found
    assert 'windows.html' in found
