"""The rules of the house: layers and models say what is computed, ops how; implementations stand alone."""
from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Set

import pytest

from swin_pos_det.ops import IMPLEMENTATIONS

PACKAGE = Path(__file__).parents[2] / 'swin_pos_det'


def files(*rooms: str):
    return sorted(path for room in rooms for path in (PACKAGE / room).rglob('*.py'))


def imported(path: Path) -> Set[str]:
    """Return the absolute names of the modules that a file imports."""
    package = ('swin_pos_det', *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join((*package[:len(package) - node.level + 1] * bool(node.level), node.module or '')).strip('.')
            found.update({base, *(f'{base}.{alias.name}' for alias in node.names)})
    return found


@pytest.mark.parametrize('path', files('layers', 'models'), ids=lambda path: path.stem)
def test_layers_and_models_ask_nothing_about_the_machine(path):
    questions = (r'is_tracing|is_exporting|is_grad_enabled|device\.type|is_cuda|torch\.autocast|'
                 r'dtype (not )?in|dtype [=!]=')
    assert not re.findall(questions, path.read_text())


@pytest.mark.parametrize('path', files('ops'), ids=lambda path: path.stem)
def test_ops_need_torch_only(path):
    outside = {name.split('.')[0] for name in imported(path)} - {'swin_pos_det', 'torch', '__future__'}
    known = {'collections', 'contextlib', 'contextvars', 'dataclasses', 'functools', 'itertools', 'operator', 'os',
             'threading', 'types', 'typing', 'warnings'}
    if path.parent.name == 'triton':
        known |= {'importlib', 'triton'}
    assert outside <= known, outside - known
    own = {name for name in imported(path) if name.startswith('swin_pos_det.')}
    assert all(name.startswith(('swin_pos_det.ops', 'swin_pos_det.errors')) for name in own), own


@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_implementations_never_import_one_another(name):
    others = {f'swin_pos_det.ops.{other}' for other in IMPLEMENTATIONS if other != name}
    paths = files(f'ops/{name}') or [PACKAGE / 'ops' / f'{name}.py']
    assert not set().union(*map(imported, paths)) & {*others, 'swin_pos_det.ops.window_attention'}


def test_only_the_runtime_asks_how_the_code_is_run():
    asks = re.compile(r'torch\.compiler\.is_|jit\.is_tracing|_mode_stack|is_autocast_enabled|_forward_hooks')
    assert [path.name for path in files('ops', 'layers', 'models') if asks.search(path.read_text())] == ['runtime.py']
