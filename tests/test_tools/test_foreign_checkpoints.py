"""tools/test.py and tools/train.py --resume on detectors whose backbone has another library's names.

Nobody but MMEngine writes checkpoints that a training can go on from, so for resuming, the foreign weights stand in one
of MMEngine's, as after a detector's checkpoint was edited or written by another backbone class.
"""
from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from swin_pos_det.checkpoints import read_weights
from swin_pos_det.layers import resample_table
from tests.test_checkpoints.test_formats import NAMES, golden, with_window
from tests.test_checkpoints.test_formats_v2 import LEARNED
from tests.test_checkpoints.test_formats_v2 import NAMES as NAMES_V2
from tests.test_tools.toy import CONFIG, ToyDetector, ToyImages

WINDOWS = [((7, 7), (7, 7)), ((7, 7), (12, 12)), ((7, 7), (7, 14)), ((12, 12), (7, 7))]
CASES = [(name, *windows) for name in NAMES for windows in WINDOWS]
CASES += [(name, None, target) for name in NAMES_V2 for target in (6, (6, 12))]  # nothing there depends on the window
MICROSOFT_DET = {'model.backbone.use_abs_pos_embed': True, 'model.backbone.pretrain_img_size': 112}


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'toy.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture(autouse=True, scope='module')
def swiftly():
    """Skip the compilers' versions and the config's layout in the log: half the time of a run of this size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        for owner in ('mmengine.config.config', 'yapf.yapflib.yapf_api'):  # the forks import it where they use it
            patch.setattr(f'{owner}.FormatCode', lambda text, **style: (text, True), raising=False)
        yield


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def trained(config, train_tool, tmp_path_factory):
    """Return MMEngine's own checkpoints after one epoch, and a resume, at a learning rate of 0: weights stay.

    Without and with an absolute position embedding, and of a Swin V2.
    """
    found = {}
    for name, options in (('plain', {}), ('absolute', MICROSOFT_DET), ('v2', options_for('swinv2_timm', 6))):
        folder = tmp_path_factory.mktemp(name)
        assert run(train_tool, config, folder, options) == 0
        found[name] = torch.load(folder / 'epoch_1.pth', weights_only=False)
    return found


def run(tool, config, folder, options, *argv):
    options = [f'{key}={value}'.replace(' ', '') for key, value in {'experiment_name': folder, **options}.items()]
    return tool.main([str(config), *map(str, argv), '--work-dir', str(folder), '--cfg-options', *options])


def foreign_detector(name, source):
    """Return a golden file's weights as the backbone of a detector, and the same in mmdet's names."""
    checkpoint = golden(name)['checkpoint'] if name in NAMES_V2 else with_window(golden(name)['checkpoint'], source)
    weights = read_weights(checkpoint)
    inner = checkpoint
    for entry in filter(None, weights.container.split('.')):
        inner = inner[entry]
    neck = {'neck.weight': torch.randn(2, 32, 1, 1), 'neck.bias': torch.randn(2)}
    return {**{f'backbone.{key}': value for key, value in inner.items()}, **neck}, weights.state_dict


def options_for(name, target):
    further = MICROSOFT_DET if name == 'swin_microsoft_det' else {}
    if name in NAMES_V2:
        further = {'model.backbone.type': 'SwinPosTransformerV2',
                   'model.backbone.pretrained_window_sizes': LEARNED.get(name, [4, 4, 3])}
    return {**further, 'model.backbone.window_size': target}


def kind_of(name):
    return 'absolute' if name == 'swin_microsoft_det' else 'v2' if name in NAMES_V2 else 'plain'


def filled_by_hand(name, target, config, source, mmdet_names, state):
    """Return the expected detector."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options_for(name, target))
    init_default_scope('mmdet')
    model = ToyDetector(cfg.model.backbone).eval()
    own = {f'backbone.{key}': resample_table(value, source, target) if key.endswith('table') else value
           for key, value in mmdet_names.items() if not key.startswith('swin.')}  # transformers 5 saves one too many
    model.load_state_dict({**model.state_dict(), **own, **{k: v for k, v in state.items() if k.startswith('neck')}})
    return model


@pytest.mark.parametrize(('name', 'source', 'target'), CASES)
def test_a_foreign_detector_is_tested(name, source, target, config, test_tool, tmp_path):
    state, mmdet_names = foreign_detector(name, source)
    torch.save(dict(state_dict=state), tmp_path / 'foreign.pth')
    assert run(test_tool, config, tmp_path / 'run', options_for(name, target), 'foreign.pth') == 0
    got = json.loads(next((tmp_path / 'run').glob('*/*.json')).read_text())['mean']
    model = filled_by_hand(name, target, config, source, mmdet_names, state)
    with torch.no_grad():
        want = sum(model(ToyImages()[i]['image'][None])[0].mean().item() for i in range(2)) / 2
    assert got == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize(('name', 'source', 'target'), CASES)
def test_a_training_goes_on_from_foreign_weights(name, source, target, config, trained, train_tool, tmp_path):
    state, mmdet_names = foreign_detector(name, source)
    checkpoint = dict(trained[kind_of(name)], state_dict=state)
    torch.save(checkpoint, tmp_path / 'foreign.pth')
    options = {**options_for(name, target), 'train_cfg.max_epochs': 2}
    assert run(train_tool, config, tmp_path / 'run', options, '--resume', 'foreign.pth') == 0
    after = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    assert after['meta']['epoch'] == 2 and after['meta']['iter'] == 4
    model = filled_by_hand(name, target, config, source, mmdet_names, state)
    for key, value in model.state_dict().items():
        if not key.startswith('backbone.norm'):  # of the outputs, which some files have not
            torch.testing.assert_close(after['state_dict'][key], value, rtol=0, atol=1e-6)
    steps = [float(entry['step']) for entry in after['optimizer']['state'].values()]
    resampled = 0 if source == target or name in NAMES_V2 else 6
    resampled += name == 'swin_microsoft_det'  # the embedding, from a map to tokens
    assert sorted(steps) == [2.] * resampled + [4.] * (len(steps) - resampled)
