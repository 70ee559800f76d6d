"""Every snippet of docs/small_data.md: the config with each addition trains, and the commands run as they stand."""
from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import Image

from swin_pos_det.cli.runner import build_runner, check_data
from tests.test_tools.conftest import load_tool

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/small_data.md').read_text(encoding='utf-8')
BASE, *ADDITIONS = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
# tests/test_tools/test_finetune.py runs the command of the first section.
COMMANDS = [line for block in re.findall(r'```bash\n(.*?)```', PAGE, re.DOTALL) for line in block.splitlines()
            if 'boxes.py' in line]


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Write the page's folders, with 8 and 2 images of one grey cat and one white dog each, and no masks."""
    rng = np.random.default_rng(0)
    for split, images in (('train', 8), ('val', 2)):
        folder = tmp_path / f'data/pets/{split}'
        folder.mkdir(parents=True)
        for i in range(images):
            picture = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            picture[8:40, 8:36], picture[30:60, 40:62] = 128, 255
            Image.fromarray(picture).save(folder / f'{i}.jpg')
        (folder.parent / f'{split}.json').write_text(json.dumps(dict(
            images=[dict(id=i, file_name=f'{i}.jpg', height=64, width=64) for i in range(images)],
            categories=[dict(id=5, name='cat'), dict(id=9, name='dog')],
            annotations=[dict(id=2 * i + j + 1, image_id=i, category_id=category, bbox=box, area=box[2] * box[3],
                              iscrowd=0)
                         for i in range(images) for j, (category, box) in enumerate(
                             ((5, [8, 8, 28, 32]), (9, [40, 30, 22, 30])))])))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nano(text):
    """Return a snippet with the nano config, by its absolute place, in place of Swin-T's."""
    name = 'configs/swin_pos/faster-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py'
    assert name in text or '_base_' not in text
    return text.replace(name, str(ROOT / name).replace('swin-pos-t-p4-w7_fpn_1x', 'swin-pos-nano-p4-w7_fpn'))


def small(cfg, work_dir):
    """Set images of 64 px, no loader processes, and one epoch."""
    for dataset in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        for step in dataset.get('dataset', dataset).pipeline:
            if step.type == 'Resize':
                step.scale = (64, 64)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    return cfg


def read(text, path='boxes.py'):
    Path(path).write_text(text)
    return Config.fromfile(path)


def test_the_config_is_whole(pets):
    name = 'configs/swin_pos/faster-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py'
    cfg = read(BASE.replace(name, str(ROOT / name)))
    check_data(cfg, ['train', 'val', 'test'])
    assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file
    assert cfg.model.type == 'FasterRCNN' and cfg.model.roi_head.bbox_head.num_classes == 2


@pytest.mark.parametrize('index', range(len(ADDITIONS)))
def test_each_addition_trains(pets, index):
    addition = ADDITIONS[index]
    own = re.search(r'load_from = (\S+)', addition)
    if own:
        assert own[1].strip("'").startswith('https://')
        addition = "load_from = 'coco.pth'\n"
        base = small(Config.fromfile(ROOT / 'configs/swin_pos/faster-rcnn_swin-pos-nano-p4-w7_fpn_coco.py'), pets)
        torch.save(dict(state_dict=MODELS.build(base.model).state_dict()), 'coco.pth')
    read(nano(BASE))
    cfg = small(read("_base_ = 'boxes.py'\n" + addition, 'more.py'), pets / 'work')
    runner = build_runner(cfg)
    runner.train()
    assert {'CompactMasksHook', 'MergedOptimizerHook'} <= {type(hook).__name__ for hook in runner.hooks}
    assert runner.epoch == 1
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    if own:
        loaded = torch.load('coco.pth')['state_dict']['neck.fpn_convs.0.conv.weight']
        assert (runner.model.neck.fpn_convs[0].conv.weight - loaded).abs().max() < 0.1, 'started from them'
    if 'save_best' in addition:
        assert list((pets / 'work').glob('best_coco_bbox_mAP_epoch_*.pth'))
        assert any(type(hook).__name__ == 'EarlyStoppingHook' for hook in runner.hooks)
    if 'frozen_stages' in addition:
        stages = runner.model.backbone.stages
        frozen = [not any(parameter.requires_grad for parameter in stage.parameters()) for stage in stages]
        assert frozen == [True, True, False, False]
    if 'ClassBalanced' in addition:
        assert type(runner.train_dataloader.dataset).__name__ == 'ClassBalancedDataset'


def test_the_commands(pets, capsys):
    """Run them as written, except for small images and one epoch."""
    read(nano(BASE))
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.dataset.pipeline.2.scale=(64,64)']
    for part in ('train', 'val', 'test'):
        options += [f'{part}_dataloader.num_workers=0', f'{part}_dataloader.persistent_workers=False']
    options += [f'{part}_dataloader.dataset.pipeline.1.scale=(64,64)' for part in ('val', 'test')]
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        python, tool, *given = shlex.split(command.replace('epoch_12.pth', 'epoch_1.pth'))
        assert python == 'python'
        status = load_tool(tool.split('/', 1)[1]).main([*given, *options])
        assert status == 0, (command, capsys.readouterr().err)
    assert (pets / 'found/predictions.json').is_file() and (pets / 'work_dirs/scaled/epoch_1.pth').is_file()
