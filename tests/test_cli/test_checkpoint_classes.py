"""Every tool that evaluates or resumes a checkpoint compares its labels with those of the data, before it builds."""
from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from swin_pos_det.cli import resuming, runner
from swin_pos_det.cli.checkpoint_checks import check_checkpoint, classes_of
from swin_pos_det.errors import UserError
from tests.test_data.odd_inputs import Scene
from tests.test_engine.test_restart import save_training_state
from tests.test_tools.conftest import load_tool

OTHER_ORDER = "error: class 'dog' has label 0 in the checkpoint and 1 in "
PASSED = 'error: the checks are passed'
TOOLS = {
    'test.py': ['config.py', 'weights.pth'],
    'analysis_tools/sweep_windows.py': ['config.py', 'weights.pth'],
    'analysis_tools/plot_position.py': ['config.py', 'weights.pth'],
    'train.py': ['config.py', '--resume', 'weights.pth'],
    'train.py of the config': ['config.py', '--cfg-options', 'resume=True', 'load_from=weights.pth'],
    'train.py from the last': ['config.py', '--work-dir', '.', '--resume'],
}


@pytest.fixture(autouse=True)
def scene(tmp_path, monkeypatch):
    """Write a config of cats and dogs to the current directory; build nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr('logging.raiseExceptions', False)
    made = Scene(tmp_path)
    made.write_all()
    cfg = dict(made.cfg, test_dataloader=made.cfg.val_dataloader, test_evaluator=made.cfg.val_evaluator,
               train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
               optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)))
    Config(cfg).dump('config.py')

    def stop(*_, **__):
        raise UserError('the checks are passed')

    for module in (runner, resuming):
        monkeypatch.setattr(module, 'build_runner', stop)
    for module in ('position.report.draw_position', 'studies.window_sweep.sweep'):
        monkeypatch.setattr(f'swin_pos_det.analysis.{module}', stop)
    return made


def save(**meta):
    """Write weights.pth, a training state with a ``meta``."""
    save_training_state('weights.pth', meta=dict(epoch=1, iter=4, **meta))


def error_of(name, capsys, arguments=None):
    tool = load_tool(name.partition(' ')[0])
    arguments = arguments or TOOLS[name]
    status = tool.main(arguments) if hasattr(tool, 'main') else tool.run_cli(tool.run, tool.get_parser(), arguments)
    assert status == 1
    error, = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    return error


@pytest.mark.parametrize('name', TOOLS)
def test_labels_of_the_checkpoint(name, capsys):
    save(dataset_meta=dict(classes=('dog', 'cat')))
    error = error_of(name, capsys)
    assert error.startswith(OTHER_ORDER) and "order ('dog', 'cat')" in error and 'check_coco.py' in error
    save(dataset_meta=dict(classes=('cat', 'dog')))
    assert error_of(name, capsys) == PASSED


@pytest.mark.parametrize('meta', [
    dict(dataset_meta=dict(CLASSES=['dog', 'cat'])), dict(CLASSES=('dog', 'cat'))])
def test_labels_as_mmdet_2_wrote_them(meta, capsys):
    save(**meta)
    assert error_of('test.py', capsys).startswith(OTHER_ORDER)


@pytest.mark.parametrize('meta', [
    {}, dict(dataset_meta=None), dict(dataset_meta='dog cat'), dict(dataset_meta=dict(classes='dog')),
    dict(dataset_meta=dict(classes=[])), dict(CLASSES=[3, 4])])
def test_a_checkpoint_that_does_not_say(meta, capsys):
    save(**meta)
    assert classes_of(check_checkpoint('weights.pth')) is None
    assert error_of('test.py', capsys) == PASSED


def test_weights_alone_and_those_of_other_classes(capsys):
    """A training that starts from other weights has classes of its own; a checkpoint may have no meta at all."""
    save(dataset_meta=dict(classes=('dog', 'cat')))
    assert error_of('train.py', capsys, ['config.py', '--cfg-options', 'load_from=weights.pth']) == PASSED
    for checkpoint in (dict(w=torch.ones(1)), dict(state_dict=dict(w=torch.ones(1)), meta=['dog', 'cat'])):
        torch.save(checkpoint, 'weights.pth')
        assert check_checkpoint('weights.pth') == {}
        assert error_of('test.py', capsys) == PASSED


def test_the_checkpoint_is_looked_at_first(scene, capsys):
    scene.val['annotations'].clear()
    scene.write_all()
    assert 'checkpoint weights.pth does not exist' in error_of('test.py', capsys)
    assert 'checkpoint weights.pth does not exist' in error_of('train.py', capsys)
