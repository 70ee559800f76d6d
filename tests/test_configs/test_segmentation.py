"""The configs for mmsegmentation build, and the nano one trains, resumes, keeps its best epoch and is tested."""
from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from swin_pos_det.data import DigitsOnPhotosSegDataset, LoadDigitsSegMap
from swin_pos_det.errors import SettingError
from swin_pos_det.models import SwinPosTransformer
from tests.test_checkpoints.test_formats import MICRO, golden, load
from tests.test_tools.conftest import load_tool

FOLDER = Path(__file__).parents[2] / 'configs' / 'segmentation'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
SIZES = {'t': (96, (2, 2, 6, 2)), 's': (96, (2, 2, 18, 2)), 'b': (128, (2, 2, 18, 2))}
# CYCLE and its places in data/digits/scenes.py: image 5 is empty, image 21 holds a heap of digits
FEW = dict(num_train=22, num_val=2)


@pytest.fixture(scope='module')
def mmseg():
    return pytest.importorskip('mmseg', reason="mmseg is not installed: pip install -e '.[segmentation]'")


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return str(tmp_path_factory.mktemp('data') / 'digits')


@pytest.fixture(autouse=True)
def _no_scope_from_elsewhere():
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


def test_the_readme_lists_every_config():
    assert set(re.findall(r'\]\(([\w-]+\.py)\)', (FOLDER / 'README.md').read_text())) == set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_builds(mmseg, name):
    from mmseg.registry import MODELS
    cfg = Config.fromfile(FOLDER / name)
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    backbone = model.backbone
    assert type(backbone) is SwinPosTransformer
    assert list(model.decode_head.in_channels) == backbone.num_features
    if 'nano' in name:
        return
    size = re.match(r'swin-pos-(\w)', name)[1]
    assert (backbone.num_features[0], tuple(len(stage.blocks) for stage in backbone.stages)) == SIZES[size]
    assert model.num_classes == 150 and cfg.train_cfg.max_iters == 160000
    assert cfg.model.backbone.init_cfg.checkpoint.startswith('https://')


def test_features_are_those_of_mmsegmentations_swin(mmseg):
    from mmseg.models.backbones import SwinTransformer
    settings = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.)
    theirs, ours = SwinTransformer(**settings), SwinPosTransformer(**settings)
    ours.load_state_dict(theirs.state_dict())
    theirs.eval()
    ours.eval()
    images = torch.randn(2, 3, 130, 171)
    with torch.no_grad():
        for got, want in zip(ours(images), theirs(images)):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', ['swin_timm', 'swin_microsoft', 'swin_torchvision', 'swin_hf_model', 'swin_mmpretrain',
                                  'swin_simmim'])
def test_pretrained_weights_load_by_init_cfg(mmseg, name, tmp_path):
    from mmseg.registry import MODELS
    checkpoint = golden(name)['checkpoint']
    want = load(checkpoint, 'load_state_dict', tmp_path).state_dict()
    model = MODELS.build(dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(type='mmdet.SwinPosTransformer', **MICRO,
                      init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))),
        decode_head=dict(type='mmseg.FCNHead', in_channels=32, in_index=2, channels=8, num_classes=2)))
    torch.save(checkpoint, tmp_path / 'file.pth')
    model.init_weights()
    got = model.backbone.state_dict()
    assert got.keys() == want.keys() and all(torch.equal(got[key], want[key]) for key in want)


def test_the_data(digits):
    data = DigitsOnPhotosSegDataset('train', data_root=digits, pipeline=[LoadDigitsSegMap()], **FEW)
    assert len(data) == 22 and len(DigitsOnPhotosSegDataset('val', data_root=digits, **FEW)) == 2
    maps = [data[index]['gt_seg_map'] for index in range(22)]
    assert all(one.dtype == np.uint8 and one.shape == cv2.imread(data[index]['img_path']).shape[:2]
               for index, one in enumerate(maps))
    assert [index for index, one in enumerate(maps) if not one.any()] == [5]
    assert all(set(np.unique(one)) == {0, 1} for index, one in enumerate(maps) if index != 5)
    annotations = json.loads(Path(digits, 'annotations/train.json').read_text())['annotations']
    areas = [sum(item['area'] for item in annotations if item['image_id'] == image + 1) for image in range(22)]
    assert [int(one.sum()) for one in maps] == areas, 'digits and heaps hide parts of one another'
    with pytest.raises(SettingError, match="'test'"):
        DigitsOnPhotosSegDataset('test')


def test_the_nano_config_trains_resumes_and_is_tested(mmseg, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nano = str(FOLDER / 'swin-pos-nano-p4-w7_upernet_digits.py')
    few = ['train_cfg.val_interval=1', 'train_dataloader.batch_size=2', 'train_dataloader.dataset.indices=4']
    few += [f'{split}_dataloader.{option}' for split in ('train', 'val', 'test')
            for option in ('num_workers=0', 'persistent_workers=False', f'dataset.data_root={digits}',
                           *(f'dataset.{key}={value}' for key, value in FEW.items()))]
    train, test = load_tool('train.py').main, load_tool('test.py').main
    assert train([nano, '--work-dir', 'run', '--cfg-options', *few, 'train_cfg.max_epochs=1']) == 0
    assert train([nano, '--work-dir', 'run', '--resume', '--cfg-options', *few, 'train_cfg.max_epochs=2']) == 0
    (last, ) = Path('run').glob('epoch_*.pth')
    (best, ) = Path('run').glob('best_mIoU_epoch_*.pth')
    meta = torch.load(last, map_location='cpu', weights_only=False)['meta']
    assert (last.name, meta['epoch'], meta['iter']) == ('epoch_2.pth', 2, 4)
    assert test([nano, str(best), '--work-dir', 'tested', '--show-dir', 'shown', '--cfg-options', *few]) == 0
    (scores, ) = (json.loads(path.read_text()) for path in Path('tested').glob('*/*.json'))
    logged = [json.loads(line) for path in Path('run').glob('*/vis_data/scalars.json')
              for line in path.read_text().splitlines()]
    assert scores['mIoU'] == max(one['mIoU'] for one in logged if 'mIoU' in one), 'that of the best epoch'
    shown = sorted(Path('tested').glob('*/shown/*'))
    assert [path.name for path in shown] == ['000000.jpg', '000001.jpg']
    picture, image = (cv2.imread(str(path)) for path in (shown[0], Path(digits, 'val/000000.jpg')))
    assert picture.shape[0] == image.shape[0]
