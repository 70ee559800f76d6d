"""README and docs: links lead somewhere, commands parse, snippets build."""
from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from tests.test_apis import odd_images
from tests.test_cli import odd_settings
from tests.test_data import odd_inputs
from tests.test_evaluation import odd_results
from tests.test_tools.conftest import load_tool

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'configs').rglob('*.md'),
                *(path for path in (ROOT / 'docs').rglob('*.md'))])
GUIDES = [page for page in PAGES if page.parent in (ROOT, ROOT / 'docs')]
# Fenced blocks: (language, text).
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.S | re.M)
# Commands of other programs, which no test runs: they install, activate, or need what a test machine lacks.
FOREIGN = ('pip', 'mim', 'source', 'export', 'git', 'docker')


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


@pytest.mark.parametrize('page', PAGES, ids=title)
def test_links_lead_somewhere(page):
    text = FENCE.sub('', page.read_text())
    targets = [target for target in re.findall(r'\]\(([^)\s]+)\)', text) if '://' not in target]
    missing = [target for target in targets if not (page.parent / target.split('#')[0]).exists()]
    assert missing == []


def test_the_readme_is_one_page():
    assert len((ROOT / 'README.md').read_text().split()) <= 1000


def commands(page: Path) -> list[str]:
    """Return the lines of the shell blocks, without variables before them, comments and continuations."""
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines()
    stripped = [re.sub(r'^(\w+=\S+ )+', '', line.split('  #')[0].strip()) for line in lines]
    return [line for line in stripped if line and not line.startswith('#')]


@pytest.mark.parametrize(('page', 'command'), [(page, command) for page in GUIDES for command in commands(page)],
                         ids=lambda value: value if isinstance(value, str) else title(value))
def test_commands_parse(page, command):
    program, *arguments = shlex.split(command)
    if program in FOREIGN:
        return
    if program == 'make':
        targets = re.findall(r'^(\w+):', (ROOT / 'Makefile').read_text(), re.M)
        assert {word for word in arguments if '=' not in word} <= set(targets)
    elif program.startswith('tools/'):
        assert (ROOT / program).is_file()
    else:
        assert program == 'python', command
        while arguments[0].startswith('-') and arguments[0] != '-m':
            arguments = arguments[1:]
        if arguments[0] == '-m':
            module = ROOT.joinpath(*arguments[1].split('.'))
            assert arguments[1] in ('pytest', 'venv') or module.with_suffix('.py').is_file() or module.is_dir()
            return
        parser = load_tool(arguments[0].removeprefix('tools/')).get_parser()
        if '--help' not in arguments:
            parser.parse_args(arguments[1:])  # SystemExit(2) fails the test


# The snippets of small_data.md have a test of their own, which trains with them.
SNIPPETS = [(page, text) for page in GUIDES if page.name != 'small_data.md' for text in blocks(page, 'python')
            if re.search(r'^_base_ = |^\w+ = (dict\(|\[)', text, re.M)]


@pytest.mark.parametrize(('page', 'text'), SNIPPETS, ids=lambda value: title(value) if isinstance(value, Path) else '')
def test_config_snippets_build(page, text, tmp_path):
    """A snippet is a whole config, or what one adds to mmdet's Mask R-CNN with a Swin."""
    text = text.replace("'configs/", f"'{ROOT}/configs/")
    if '_base_' not in text:
        text = ("_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'\n"
                "custom_imports = dict(imports=['swin_pos_det'])\n" + text)
    (tmp_path / 'snippet.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'snippet.py')
    cfg.model.backbone.update(type=cfg.model.backbone.type.replace('SwinTransformer', 'SwinPosTransformer'),
                              init_cfg=None)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) > 23e6


def test_counts_of_odd_inputs():
    tables = (odd_inputs.ROWS, odd_results.CASES, odd_settings.ODD_SETTINGS, odd_images.ODD)
    page = (ROOT / 'docs/data.md').read_text()
    assert re.findall(r'^\| \[\w+\]\(\.\./tests/\S+ .*? \| (\d+) \|', page, re.M) == [str(len(rows)) for rows in tables]
    assert f'All {sum(map(len, tables))} rows' in page
