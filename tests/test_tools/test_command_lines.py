"""The command lines of train.py and test.py: MMDetection's flags, and one line for each error."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import Image

from swin_pos_det import choices
from swin_pos_det.analysis.benchmark import models
from swin_pos_det.analysis.studies import position_ablation
from swin_pos_det.analysis.studies.position_ablation import RECIPES, SCHEMES
from swin_pos_det.analysis.studies.window_study import TRAININGS
from swin_pos_det.checkpoints import EXPORTS

ROOT = Path(__file__).parents[2]


class Evil:

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}', )


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)
    # Loggers of runners of earlier tests write to streams that pytest has closed.
    monkeypatch.setattr('logging.raiseExceptions', False)


@pytest.fixture
def error_of(capsys):
    """Return a function that runs a tool that must fail with one line, and returns that line."""

    def run(tool, *argv):
        status = tool.main([str(argument) for argument in argv])
        lines = capsys.readouterr().err.splitlines()
        assert status == 1
        errors = [line for line in lines if line.startswith('error: ')]
        assert len(errors) == 1
        assert lines[-1] == errors[0]
        assert not any('Traceback' in line for line in lines)
        return errors[0]

    return run


@pytest.mark.parametrize('name', ['train', 'test'])
def test_flags_are_a_superset_of_mmdets(request, name):
    theirs = Path(mmdet.__file__).parent / f'.mim/tools/{name}.py'
    if not theirs.is_file():
        pytest.skip('this mmdet comes without its tools')
    flags = set(re.findall(r"'(--[\w-]+)'", theirs.read_text()))
    assert {'--work-dir', '--cfg-options', '--launcher', '--local-rank'} <= flags
    ours = set(request.getfixturevalue(f'{name}_tool').get_parser()._option_string_actions)
    assert flags <= ours


def test_resume_means_auto_without_a_name(train_tool):
    parse = train_tool.get_parser().parse_args
    assert parse(['c.py']).resume is None
    assert parse(['c.py', '--resume']).resume == 'auto'
    assert parse(['c.py', '--resume', 'a.pth']).resume == 'a.pth'


def test_missing_config(train_tool, test_tool, error_of, tmp_path):
    assert f'config nope.py does not exist (current directory: {tmp_path})' in error_of(train_tool, 'nope.py')
    assert 'config nope.py does not exist' in error_of(test_tool, 'nope.py', 'nope.pth')


@pytest.mark.parametrize(('text', 'message'), [
    ('model = dict(', 'SyntaxError'), ("_base_ = 'gone.py'", 'gone.py'), ('a = 1 / 0', 'ZeroDivisionError')])
def test_broken_config(train_tool, error_of, tmp_path, text, message):
    (tmp_path / 'broken.py').write_text(text)
    error = error_of(train_tool, 'broken.py')
    assert 'cannot read config broken.py' in error
    assert message in error


@pytest.mark.parametrize(('option', 'message'), [
    ('train_cfg.max_epochs', "'train_cfg.max_epochs' is not of the form key=value"), ('a=[1,2', 'a=[1,2: ')])
def test_mistyped_options(train_tool, capsys, nano_config, option, message):
    with pytest.raises(SystemExit) as stop:
        train_tool.main([nano_config, '--cfg-options', option])
    assert stop.value.code == 2
    assert f'argument --cfg-options: {message}' in capsys.readouterr().err


def test_option_that_does_not_fit(train_tool, error_of, nano_config):
    assert '--cfg-options do not fit' in error_of(train_tool, nano_config, '--cfg-options', 'train_pipeline.9.scale=1')


def test_out_is_a_pickle_or_json(test_tool, capsys):
    with pytest.raises(SystemExit):
        test_tool.main(['c.py', 'c.pth', '--out', 'a.txt'])
    assert "'a.txt' must end in .pkl, .pickle or .json" in capsys.readouterr().err


def test_unusable_checkpoints(train_tool, test_tool, error_of, nano_config, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save({'state_dict': {'w': torch.ones(3)}}, weights)
    (tmp_path / 'cut.pth').write_bytes(weights.read_bytes()[:-40])
    (tmp_path / 'page.pth').write_text('<!DOCTYPE html>')
    torch.save({'state_dict': {'w': torch.ones(3)}, 'meta': Evil(tmp_path / 'ran')}, tmp_path / 'evil.pth')
    for name, message in [('none.pth', 'does not exist'), ('cut.pth', 'is truncated'), ('page.pth', 'is a web page'),
                          ('evil.pth', 'asks for posix.system' if os.name == 'posix' else 'asks for')]:
        assert message in error_of(test_tool, nano_config, name), name
        error = error_of(train_tool, nano_config, '--resume', name)
        assert name in error
        assert message in error
        assert message in error_of(train_tool, nano_config, '--cfg-options', f'load_from={name}')
    assert not (tmp_path / 'ran').exists()
    assert ': it has no meta, optimizer, message_hub' in error_of(
        train_tool, nano_config, '--resume', 'weights.pth')


def test_a_checkpoint_without_heads_is_not_evaluated(test_tool, error_of, nano_config, tmp_path, monkeypatch):
    cfg = Config.fromfile(nano_config)
    backbone = MODELS.build(cfg.model.backbone)
    torch.save({'state_dict': {f'backbone.{name}': value for name, value in backbone.state_dict().items()}},
               tmp_path / 'backbone.pth')
    data = ['test_dataloader.dataset.num_val=2', 'test_dataloader.dataset.num_train=2',
            f'test_dataloader.dataset.data_root={tmp_path / "digits"}', 'test_dataloader.num_workers=0',
            'test_dataloader.persistent_workers=False']
    error = error_of(test_tool, nano_config, 'backbone.pth', '--cfg-options', *data)
    assert 'backbone.pth is not of this config: 38 of 38 tensors of neck and heads are missing' in error


def test_resume_in_a_work_dir_whose_checkpoint_is_gone(train_tool, error_of, nano_config, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text('/old/place/epoch_3.pth')
    error = error_of(train_tool, nano_config, '--work-dir', 'run', '--resume')
    assert "run/last_checkpoint names '/old/place/epoch_3.pth', which does not exist" in error


def test_auto_scale_lr_needs_a_base(train_tool, error_of, nano_config):
    error = error_of(train_tool, nano_config, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None')
    assert 'base_batch_size' in error


@pytest.mark.parametrize('root', [None, 'nowhere'])
def test_missing_coco(train_tool, test_tool, error_of, tmp_path, monkeypatch, root):
    if root:
        monkeypatch.setenv('COCO_ROOT', root)
    (tmp_path / 'coco.py').write_text("_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'")
    torch.save({'w': torch.ones(1)}, 'any.pth')
    for arguments in ([train_tool, 'coco.py'], [test_tool, 'coco.py', 'any.pth']):
        error = error_of(*arguments)
        assert f'{tmp_path}/{root or "data/coco"} does not exist' in error
        assert 'COCO_ROOT' in error
        assert 'annotations/instances_val2017.json' in error


@pytest.mark.parametrize('split', ['train', 'val'])
def test_damaged_annotations(train_tool, test_tool, error_of, tmp_path, monkeypatch, split):
    monkeypatch.setenv('COCO_ROOT', str(tmp_path))
    for folder in ('annotations', 'train2017', 'val2017'):
        (tmp_path / folder).mkdir()
    names = CocoDataset.METAINFO['classes']
    good = dict(images=[dict(id=5, file_name='a.jpg', height=40, width=40)],
                categories=[dict(id=number, name=name) for number, name in enumerate(names, 1)],
                annotations=[dict(id=1, image_id=5, category_id=1, bbox=[0, 0, 2, 2], area=4, iscrowd=0,
                                  segmentation=[[0, 0, 2, 0, 2, 2]])])
    for other in ('train', 'val'):
        (tmp_path / f'annotations/instances_{other}2017.json').write_text(json.dumps(good))
        Image.new('RGB', (40, 40)).save(tmp_path / f'{other}2017/a.jpg')
    del good['annotations'][0]['bbox']
    (tmp_path / f'annotations/instances_{split}2017.json').write_text(json.dumps(good))
    (tmp_path / 'coco.py').write_text("_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'")
    torch.save({'w': torch.ones(1)}, 'any.pth')
    for arguments in ([train_tool, 'coco.py'], *([[test_tool, 'coco.py', 'any.pth']] if split == 'val' else [])):
        assert f'instances_{split}2017.json: annotation 0 (id 1) has no bbox' in error_of(*arguments)


def test_wrong_setting_of_this_package(train_tool, error_of, nano_config):
    error = error_of(train_tool, nano_config, '--work-dir', 'run', '--cfg-options', 'model.backbone.window_size=-1')
    assert 'window_size' in error
    assert '-1' in error


def test_a_setting_that_shows_up_in_training(train_tool, capsys, nano_config, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/notes.txt').write_text('mine')
    places = [f'{part}_dataloader.dataset.data_root=data' for part in ('train', 'val', 'test')]
    assert train_tool.main([nano_config, '--work-dir', 'run', '--cfg-options', *places]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and 'makes its own images of digits, but has data_root=' in error
    assert (tmp_path / 'data/notes.txt').read_text() == 'mine'


@pytest.mark.parametrize(('option', 'message'), [
    ('model.type=NoSuchDetector', "there is no model called 'NoSuchDetector'"),
    ('model.backbone.window_sise=7', "SwinPosTransformer has no setting 'window_sise' (did you mean 'window_size'?)"),
    ('model.backbone.embed_dims=48', 'model.neck.in_channels is [32, 64, 128, 256], but a backbone with embed_dims=48'),
    ('optim_wrapper.optimizer.type=Adamm', "there is no optimizer called 'Adamm'"),
    ('train_dataloader.num_workers=-1', 'num_workers option should be non-negative')])
def test_settings_that_cannot_be(train_tool, error_of, nano_config, option, message):
    quick = ['train_dataloader.dataset.num_train=1', 'train_dataloader.dataset.num_val=1',
             'train_dataloader.dataset.data_root=digits']
    assert message in error_of(train_tool, nano_config, '--work-dir', 'run', '--cfg-options', option, *quick)


def test_other_errors_keep_their_traceback(train_tool, nano_config, monkeypatch):
    def broken(cfg):
        raise RuntimeError('a bug')

    monkeypatch.setattr('mmengine.runner.Runner.from_cfg', broken)
    with pytest.raises(RuntimeError, match='a bug'):
        train_tool.main([nano_config, '--work-dir', 'run'])


def test_what_cannot_be_written_is_known_before(train_tool, test_tool, error_of, nano_config, tmp_path):
    (tmp_path / 'file').write_text('mine')
    torch.save({'state_dict': {'w': torch.ones(3)}}, tmp_path / 'weights.pth')
    assert 'the work dir file is a file' in error_of(train_tool, nano_config, '--work-dir', 'file')
    for out in ('file/a.pkl', 'file/a.json'):
        error = error_of(test_tool, nano_config, 'weights.pth', '--work-dir', 'run', '--out', out)
        assert f'cannot write {out}' in error
    assert (tmp_path / 'file').read_text() == 'mine'


def test_shares_are_between_0_and_1(train_tool, capsys):
    for wrong in ('2', '0', '-1', 'nan', 'much'):
        with pytest.raises(SystemExit):
            train_tool.main(['c.py', f'--ema={wrong}'])
        assert f"argument --ema: '{wrong}' must be a number above 0 and below 1" in capsys.readouterr().err


def test_traceback_on_request(train_tool):
    with pytest.raises(Exception, match='does not exist'):
        train_tool.main(['nope.py', '--traceback'])


HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
found = {}
for tool in sys.argv[1:]:
    sys.argv = [tool, '--help']
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        runpy.run_path(tool, run_name='__main__')
    heavy = {'torch', 'mmengine', 'mmcv', 'mmdet', 'cv2', 'matplotlib', 'pycocotools'} & set(sys.modules)
    found[tool] = dict(text=text.getvalue(), heavy=sorted(heavy))
    for name in [name for name in sys.modules if name.partition('.')[0] in ('swin_pos_det', *heavy)]:
        del sys.modules[name]  # for the next tool
print(json.dumps(found))
"""


def test_help_imports_nothing_that_takes_seconds(tmp_path):
    """In a process without torch, from another directory."""
    tools = sorted(str(path) for path in (ROOT / 'tools').rglob('*.py') if 'dev' not in path.parts)
    assert len(tools) >= 20
    done = subprocess.run([sys.executable, '-c', HELP_OF_ALL, *tools], cwd=tmp_path, capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=str(ROOT)), check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {tool: row['heavy'] for tool, row in found.items() if row['heavy']} == {}
    assert all(row['text'].startswith(f'usage: {Path(tool).name} ') for tool, row in found.items())
    for tool in ('train.py', 'test.py', 'reproduce.py'):
        text = found[str(ROOT / 'tools' / tool)]['text']
        assert '--cfg-options' in text and 'COCO_ROOT' in text


def test_choices_of_parsers_are_those_of_the_package():
    assert list(choices.CHECKPOINT_LAYOUTS) == list(EXPORTS)
    assert set(choices.ABLATED_SCHEMES) == {*SCHEMES, *position_ablation.VARIANTS}
    assert list(choices.ABLATION_RECIPES) == list(RECIPES)
    assert list(choices.STUDY_TRAININGS) == list(TRAININGS)
    assert list(choices.BENCHMARK_MODELS) == list(models.MODELS)
    assert list(choices.BENCHMARK_VARIANTS) == list(models.VARIANTS)
