"""The configs for mmpretrain build, the nano one trains and is tested, and features are those of mmpretrain's Swin."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from swin_pos_det.data import DigitScansDataset
from swin_pos_det.errors import SettingError
from swin_pos_det.models import SwinPosTransformer
from tests.test_tools.conftest import load_tool

FOLDER = Path(__file__).parents[2] / 'configs' / 'classification'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
SIZES = {'t': (96, (2, 2, 6, 2), 0.2), 's': (96, (2, 2, 18, 2), 0.3), 'b': (128, (2, 2, 18, 2), 0.5)}


@pytest.fixture(scope='module')
def mmpretrain():
    return pytest.importorskip('mmpretrain', reason="mmpretrain is not installed: pip install -e '.[classification]'")


@pytest.fixture(autouse=True)
def _no_scope_from_elsewhere():
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


def test_the_readme_lists_every_config():
    assert set(re.findall(r'\]\(([\w-]+\.py)\)', (FOLDER / 'README.md').read_text())) == set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_builds(mmpretrain, name):
    from mmpretrain.registry import MODELS
    cfg = Config.fromfile(FOLDER / name)
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    backbone = model.backbone
    assert type(backbone) is SwinPosTransformer
    assert {stage.window_rule.policy for stage in backbone.stages} == {'fit'}
    last = backbone.num_features[-1]
    assert tuple(model.head.fc.weight.shape) == ((10, 128) if 'nano' in name else (1000, last))
    if 'nano' in name:
        return
    size = re.match(r'swin-pos-(\w)', name)[1]
    depths = tuple(len(stage.blocks) for stage in backbone.stages)
    assert (backbone.num_features[0], depths, cfg.model.backbone.drop_path_rate) == SIZES[size]
    large = '384px' in name
    assert backbone.window_size == [(12, 12) if large else (7, 7)] * 4
    assert cfg.train_dataloader.dataset.pipeline[1].scale == (384 if large else 224)
    assert cfg.train_cfg.max_epochs == (30 if large else 300)
    if large:
        assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay) == (1e-5, 1e-8)
        assert cfg.param_scheduler == [] and cfg.load_from.startswith('https://')


@pytest.mark.parametrize(('policy', 'low', 'high'), [('fit', 0., 1e-5), ('fixed', 1e-3, None)])
def test_features_are_those_of_mmpretrains_swin(mmpretrain, policy, low, high):
    """At 224 px the last map is one window of 7: mmpretrain does not shift it, and neither does 'fit'."""
    from mmpretrain.models.backbones import SwinTransformer
    torch.manual_seed(0)
    depths, heads = (2, 2, 2, 2), (1, 2, 4, 8)
    theirs = SwinTransformer(dict(embed_dims=16, depths=list(depths), num_heads=list(heads)), img_size=224,
                             drop_path_rate=0., out_indices=(0, 1, 2, 3))
    with torch.no_grad():
        for weight in theirs.parameters():
            weight += 0.1 * torch.randn_like(weight)  # norms stay near 1, as trained ones
    ours = SwinPosTransformer(embed_dims=16, depths=depths, num_heads=heads, drop_path_rate=0., window_policy=policy)
    found = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not found.missing_keys
    theirs.eval()
    ours.eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        want, got = theirs(images), ours(images)
    assert isinstance(got, tuple) and len(got) == len(want) == 4
    errors = [(a - b).abs().max().item() for a, b in zip(want, got)]
    assert max(errors[:3]) <= 1e-5, 'the first three stages have several windows'
    assert low <= errors[3] and (high is None or errors[3] <= high), errors


def test_the_data():
    train, val = (DigitScansDataset(split) for split in ('train', 'val'))
    assert (len(train), len(val)) == (1442, 355)
    assert train[0]['img'].shape == (8, 8, 3) and {train[i]['gt_label'] for i in range(50)} == set(range(10))
    with pytest.raises(SettingError, match="'test'"):
        DigitScansDataset('test')


def test_the_nano_config_trains_and_is_tested(mmpretrain, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nano = str(FOLDER / 'swin-pos-nano_digits.py')
    few = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=8']
    few += [f'{split}_dataloader.{key}' for split in ('train', 'val', 'test')
            for key in ('num_workers=0', 'persistent_workers=False', 'dataset.indices=16')]
    assert load_tool('train.py').main([nano, '--work-dir', 'run', '--cfg-options', *few]) == 0
    checkpoint = torch.load('run/epoch_1.pth', map_location='cpu', weights_only=False)
    assert checkpoint['meta']['iter'] == 2
    test = load_tool('test.py').main
    assert test([nano, 'run/epoch_1.pth', '--work-dir', 'tested', '--show-dir', 'shown', '--cfg-options', *few]) == 0
    (scores, ) = (json.loads(path.read_text()) for path in Path('tested').glob('*/*.json'))
    assert 0 <= scores['accuracy/top1'] <= 100
    assert sorted(path.name for path in Path('tested').glob('*/shown/*')) == [f'{i:06d}.png' for i in range(16)]
    capsys.readouterr()
    assert test([nano, 'run/epoch_1.pth', '--tta', '--cfg-options', *few]) == 1
    assert 'tta_model and tta_pipeline in a config of mmpretrain' in capsys.readouterr().err
