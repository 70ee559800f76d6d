"""Importing the package changes in MMEngine only what is in the table, and all of it can be reverted."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.fileio.io import backend_instances, put_text
from mmengine.logging import HistoryBuffer

import swin_pos_det
from swin_pos_det import mmengine_patches
from swin_pos_det.checkpoints import AtomicLocalBackend, CheckpointError
from swin_pos_det.errors import SettingError
from swin_pos_det.mmengine_patches import PATCHES, apply, apply_unless_disabled, is_applied, revert
from swin_pos_det.mmengine_patches.change import Change
from tests.test_checkpoints.test_formats import golden, micro

CHANGES = [change for patch in PATCHES for change in patch.changes]

# Lists what differs in MMEngine, MMCV, MMDetection and torch, by identity, before and after the package is imported:
# every attribute of their modules and of the classes in these, and every entry of the dicts among them.
SNAPSHOT = '''
import importlib, json, pkgutil, sys
import mmcv.ops, mmcv.transforms, mmdet.apis, mmdet.datasets, mmdet.engine, mmdet.evaluation, mmdet.models, mmdet.utils
import mmengine._strategy, mmengine.fileio.backends.registry_utils, mmengine.hooks, mmengine.infer, mmengine.runner
import torch, torch.distributed.fsdp
from mmdet.utils import register_all_modules
register_all_modules()
from mmengine.registry import Registry

def snapshot():
    seen = {}
    def note(owner, key, value):
        path = f'{owner}.{key}'
        seen[owner, key] = value
        if isinstance(value, Registry):
            value = value.module_dict
        if isinstance(value, dict):
            for key, entry in list(value.items()):
                seen[path, str(key)] = entry
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] not in ('mmengine', 'mmdet', 'mmcv', 'torch') or module is None:
            continue
        if name.startswith(('torch._', 'torch.fx', 'torch.testing')):
            continue
        for key, value in list(vars(module).items()):
            if key.startswith('__'):
                continue
            note(name, key, value)
            if isinstance(value, type) and value.__module__ == name:
                for attribute, inner in list(vars(value).items()):
                    if attribute not in ('__abstractmethods__', '_abc_impl', '__doc__'):
                        note(f'{name}.{key}', attribute, inner)
    return seen

def replaced(before, after):
    """Those that are other objects; plain values are compared by value."""
    return sorted(path for path in before.keys() & after.keys() if before[path] is not after[path]
                  and not (isinstance(after[path], (int, str, float, tuple)) and before[path] == after[path]))

before = snapshot()
import swin_pos_det
from swin_pos_det import mmengine_patches
applied = snapshot()
mmengine_patches.revert()
reverted = snapshot()
print(json.dumps(dict(applied=replaced(before, applied), reverted=replaced(before, reverted),
                      hook='CheckpointHook' in mmdet.registry.HOOKS.module_dict)))
'''


@pytest.fixture(autouse=True)
def _restore():
    yield
    apply()


def test_each_row_says_what_and_why():
    names = [patch.name for patch in PATCHES]
    assert len(set(names)) == len(names) > 3
    for patch in PATCHES:
        assert patch.changes and all(len(text) > 10 for text in (patch.what, patch.why, patch.unnecessary_since))


def test_the_docs_list_every_row():
    lines = (Path(__file__).parents[2] / 'docs/design.md').read_text(encoding='utf-8').splitlines()
    rows = [f'| **{patch.name}.** {patch.what} | {patch.why} | {patch.unnecessary_since} |' for patch in PATCHES]
    start = lines.index('| What | Why | Unnecessary since |') + 2
    assert lines[start:start + len(rows) + 1] == [*rows, '']


def test_revert_restores_every_object_by_identity():
    assert is_applied()
    ours = [change.current for change in CHANGES]
    revert()
    originals = [change.current for change in CHANGES]
    assert not is_applied()
    assert not any(original is own for original, own in zip(originals, ours))
    assert not any('swin_pos_det' in (getattr(original, '__module__', None) or '') for original in originals)
    revert()
    apply()
    again = [change.current for change in CHANGES]
    apply()
    assert all(change.current is value for change, value in zip(CHANGES, again))
    revert()
    assert all(change.current is original for change, original in zip(CHANGES, originals))


def test_a_file_backend_that_was_used_is_not_used_again(tmp_path):
    for switch, own in ((apply, True), (revert, False), (apply, True)):
        switch()
        put_text('[1]', str(tmp_path / 'list.json'))
        assert {type(backend) is AtomicLocalBackend for backend in backend_instances.values()} == {own}


def test_nothing_but_the_table_is_changed():
    """In a fresh process: no function or class of MMEngine, MMDetection, MMCV or torch is another one afterwards."""
    run = subprocess.run([sys.executable, '-c', SNAPSHOT], check=True, capture_output=True, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found['reverted'] == [] and not found['hook']
    # mmdet's registry has none of its own, nor has MMEngine's module; the last is not a function or class.
    new = {'CheckpointHook', 'open', 'swin_pos_det'}
    assert {key for _, key in found['applied']} == {change.key for change in CHANGES} - new
    assert ['mmengine.runner.checkpoint', 'load_state_dict'] in found['applied']
    assert ['mmengine.runner.runner.Runner', 'call_hook'] in found['applied']


def test_checkpoints_are_read_safely_without_the_patches(tmp_path):
    """Pretrained weights too, from a file of a kind that MMEngine's own loader cannot read on torch >= 2.6."""
    weights = golden('swin_microsoft')['checkpoint']['model']
    torch.save(dict(model=weights, message_hub=dict(log=HistoryBuffer([1.], [1]))), tmp_path / 'file.pth')
    revert()
    backbone = micro(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth')))
    backbone.init_weights()
    assert torch.equal(backbone.get_parameter('stages.1.blocks.1.attn.w_msa.relative_position_bias_table'),
                       weights['layers.1.blocks.1.attn.relative_position_bias_table'])
    torch.save(dict(model=weights, more=subprocess.Popen), tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='subprocess.Popen'):
        micro(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'evil.pth'))).init_weights()


def test_what_others_replaced_since_stays(caplog):
    place = {'entry': 1}
    change = Change(place, 'entry', lambda original: original + 1)
    change.apply()
    assert place == {'entry': 2} and change.revert() and place == {'entry': 1}
    change.apply()
    place['entry'] = 3
    assert not change.revert() and place == {'entry': 3}
    new = Change(place, 'other', lambda original: original)
    new.apply()
    assert place['other'] is None and new.revert() and 'other' not in place


@pytest.mark.parametrize('setting', ['', 'no', 'True', '2'])
def test_a_setting_that_is_neither(monkeypatch, setting):
    monkeypatch.setenv(mmengine_patches.ENV, setting)
    with pytest.raises(SettingError, match=f"SWIN_POS_DET_PATCHES must be 0 or 1, got '{setting}'"):
        apply_unless_disabled()


@pytest.mark.parametrize(('setting', 'applied'), [('0', False), ('1', True), (None, True)])
def test_the_environment_variable(monkeypatch, setting, applied):
    revert()
    monkeypatch.delenv(mmengine_patches.ENV, raising=False)
    if setting is not None:
        monkeypatch.setenv(mmengine_patches.ENV, setting)
    apply_unless_disabled()
    assert is_applied() is applied


def test_one_line_says_so_and_stdout_stays_clean(caplog, capsys):
    revert()
    with caplog.at_level('INFO', logger='swin_pos_det'):
        apply()
        apply()
    assert len(caplog.records) == 1 and 'SWIN_POS_DET_PATCHES=0' in caplog.text and 'call_hook' not in caplog.text
    assert capsys.readouterr().out == ''
    assert swin_pos_det.__version__
