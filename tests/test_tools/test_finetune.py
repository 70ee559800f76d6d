"""finetune.py: from a folder to a report; the config it writes; its lines for mistakes."""
from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import re
import signal
from collections import OrderedDict
from pathlib import Path

import cv2
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop
from mmengine.visualization import Visualizer
from safetensors.torch import save_file

from swin_pos_det.checkpoints import load_checkpoint_file, read_weights
from swin_pos_det.cli import finetune_config
from swin_pos_det.cli.runner import check_data
from swin_pos_det.visualization.visualizer import SwinPosVisualizer
from tests.test_data import folders

from .conftest import ROOT, load_tool

GOLDEN = Path(__file__).parents[1] / 'golden'
SMALL = """
model = dict(
    backbone=dict(embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 4), strides=(4, 2, 2), out_indices=(0, 1, 2),
                  mlp_ratio=2),
    neck=dict(in_channels=[8, 16, 32], out_channels=16), rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=16){}),
    test_cfg=dict(rcnn=dict(score_thr=0., max_per_img=5)))
val_dataloader = dict(dataset=dict(pipeline={{{{_base_.test_pipeline}}}}))
"""
MASKS = (', mask_roi_extractor=dict(out_channels=16), '
         'mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16)')
OPTIONS = ['--cfg-options', *(f'{part}_dataloader.{key}' for part in ('train', 'val', 'test')
                              for key in ('num_workers=0', 'persistent_workers=False')),
           'default_hooks.logger.interval=1']


@pytest.fixture(scope='module')
def tool():
    return load_tool('finetune.py')


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    # MMEngine keeps a visualizer by its name for the life of the process, and so where it writes to.
    for kind in (Visualizer, DetLocalVisualizer, SwinPosVisualizer):
        monkeypatch.setattr(kind, '_instance_dict', OrderedDict())
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr('logging.raiseExceptions', False)
    monkeypatch.chdir(tmp_path)


def write_config(masks):
    """Write a tiny detector's config into the current folder; return its name."""
    base = ('mask-rcnn_swin-pos-nano-p4-w7_fpn_digits' if masks else 'faster-rcnn_swin-pos-nano-p4-w7_fpn_coco')
    Path('small.py').write_text(f"_base_ = '{ROOT}/configs/swin_pos/{base}.py'\n" + SMALL.format(MASKS if masks else
                                                                                              ''))
    return 'small.py'


def write_weights(name, path):
    """Write another library's checkpoint as a file of its own, as safetensors if it is to be called so."""
    checkpoint = load_checkpoint_file(GOLDEN / f'{name}.pth')['checkpoint']
    if path.endswith('.safetensors'):
        save_file({key: value.contiguous() for key, value in checkpoint.items()}, path)
    else:
        torch.save(checkpoint, path)
    return path


def assert_started_from(checkpoint, weights):
    """Assert that a detector's backbone has tables that a training of a few steps makes of those of a file."""
    state = load_checkpoint_file(checkpoint)['state_dict']
    given = read_weights(load_checkpoint_file(weights)).state_dict
    tables = [key for key in given if key.endswith('relative_position_bias_table')]
    assert len(tables) == 6 and min(float(given[key].std()) for key in tables) > 0.3
    assert max(float((state[f'backbone.{key}'] - given[key]).abs().max()) for key in tables) < 0.05


@pytest.mark.parametrize(('write', 'masks', 'weights'), [
    (folders.write_one_json, True, ('swin_hf5_saved', 'model.safetensors')),
    (folders.write_voc, False, ('swin_microsoft', 'swin.pth'))])
def test_from_a_folder_to_a_report(tool, train_tool, test_tool, tmp_path, monkeypatch, capsys, write, masks, weights):
    data, out = tmp_path / 'data', tmp_path / 'out'
    data.mkdir()
    write(data)
    before = {path: path.read_bytes() for path in data.rglob('*') if path.is_file()}
    start = write_weights(*weights)
    argv = ['data', '--out', 'out', '--config', write_config(masks), '--epochs', '2', '--weights', start, *OPTIONS]
    if masks:
        printed = kill_in_the_second_epoch(tool, argv)
        assert (out / 'run/epoch_1.pth').is_file() and not (out / 'run/metrics.json').exists()
        assert tool.main(argv) == 1
        assert 'continue it with --resume' in capsys.readouterr().err
        assert tool.main(['data', '--out', 'out', '--resume', *OPTIONS]) == 0
        assert (out / 'run/epoch_2.pth').is_file() and not (out / 'run/epoch_1.pth').exists()
        printed += capsys.readouterr().out
    else:
        assert tool.main(argv) == 0
        printed = capsys.readouterr().out
    assert {path: path.read_bytes() for path in data.rglob('*') if path.is_file()} == before
    for text in ('anchor scale', 'image size', 'box AP', 'balloon', 'nothing is wrong',
                 'boxes and masks' if masks else 'learns boxes'):
        assert text in printed
    assert ('mask AP' in printed) == masks
    best, = (out / 'run').glob(f'best_coco_{"segm" if masks else "bbox"}_mAP_epoch_*.pth')
    assert_started_from(best, start)
    metrics = json.loads((out / 'run/metrics.json').read_text())
    assert len(metrics['runs']) == (2 if masks else 1)
    assert metrics['checkpoint'] == str(best)
    assert {name.partition('_')[0] for name in metrics['final']} == ({'bbox', 'segm'} if masks else {'bbox'})
    assert list((out / 'run').glob('*/vis_data/vis_image/val_img_*.png'))
    for name in ('statistics.png', 'annotations.png', 'run/curves.png', 'run/predictions.png'):
        assert (out / name).stat().st_size > 1000, name

    cfg = Config.fromfile(out / 'config.py')
    assert [hook.type for hook in cfg.custom_hooks][-1] == 'EarlyStoppingHook' and len(cfg.custom_hooks) > 1
    for number, part in ((len(folders.PARTS['train']), 'train'), (len(folders.PARTS['val']), 'val')):
        found = json.loads((out / f'annotations/{part}.json').read_text())
        assert abs(len(found['images']) - number) <= 1
    steps = -(-len(json.loads((out / 'annotations/train.json').read_text())['images']) // 4)
    assert metrics['iterations'] == 2 * steps, 'no step of a resumed training is lost or counted twice'
    check_data(cfg, ['train', 'val', 'test'])
    if not masks:
        train_with_all_flags(train_tool, monkeypatch)
        train = capsys.readouterr().out
        assert test_tool.main(['out/config.py', 'again/epoch_1.pth', '--work-dir', 'tested', '--classwise', '--out',
                               'found.json', '--show-dir', 'shown', *OPTIONS]) == 0
        test = capsys.readouterr().out
        for printed in (train, test):
            assert re.search(r'coco/kite_precision: -?\d', printed)
        assert {path.name for path in Path('tested').glob('*/shown/*')} == {
            f'{index}.jpg' for index in folders.PARTS['val']}
        assert Path('found.json').is_file()


def kill_in_the_second_epoch(tool, argv):
    """Run the tool in another process, which is killed without a chance to clean up; return what it has printed."""
    def run():
        torch.set_num_threads(1)  # others do not survive the fork
        cv2.setNumThreads(0)
        run_epoch = EpochBasedTrainLoop.run_epoch
        EpochBasedTrainLoop.run_epoch = lambda loop: (os.kill(os.getpid(), signal.SIGKILL) if loop.epoch == 1 else
                                                      run_epoch(loop))
        with Path('printed.txt').open('w', buffering=1) as file, contextlib.redirect_stdout(file):
            tool.main(argv)

    child = multiprocessing.get_context('fork').Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    return Path('printed.txt').read_text()


def train_with_all_flags(train_tool, monkeypatch):
    """Train as on the command line; check what is logged where."""
    viewers = [name for name in ('tensorboard', 'wandb') if importlib.util.find_spec(name)]
    monkeypatch.setenv('WANDB_MODE', 'offline')
    assert train_tool.main(['out/config.py', '--work-dir', 'again', '--classwise', '--val-pictures', '2',
                            '--early-stop', '1', *(f'--{name}' for name in viewers), *OPTIONS, 'train_cfg.max_epochs=1',
                            'default_hooks.checkpoint.save_best=auto']) == 0
    assert Path('again/epoch_1.pth').is_file() and Path('again/best_coco_bbox_mAP_epoch_1.pth').is_file()
    pictures = sorted(path.name for path in Path('again').glob('*/vis_data/vis_image/*.png'))
    assert len(pictures) == 2 and pictures[0].startswith('val_000000_'), 'the first and the last image'
    if 'tensorboard' in viewers:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        event, = Path('again').glob('*/vis_data/events.out.tfevents.*')
        logged = EventAccumulator(str(event.parent))
        logged.Reload()
        tags = logged.Tags()
        assert {'loss', 'lr', 'coco/bbox_mAP', 'coco/kite_precision'} <= set(tags['scalars'])
        assert len(logged.Scalars('loss')) == 2 and len(tags['images']) == 2
    if 'wandb' in viewers:
        assert list(Path('again').glob('*/vis_data/wandb/offline-run-*/*.wandb'))


def test_a_folder_of_coco(tool, coco_root, capsys):
    """Some real images: the choices are explained, and a detector of masks is trained for an epoch."""
    for part, number in (('train', 8), ('val', 3)):
        content = json.loads((coco_root / f'annotations/instances_{part}2017.json').read_text())
        used = sorted({item['image_id'] for item in content['annotations']})[:number]
        content['images'] = [image for image in content['images'] if image['id'] in used]
        content['annotations'] = [item for item in content['annotations'] if item['image_id'] in used]
        for path in (Path('data/annotations'), Path(f'data/{part}2017')):
            path.mkdir(parents=True, exist_ok=True)
        Path(f'data/annotations/instances_{part}2017.json').write_text(json.dumps(content))
        for image in content['images']:
            Path(f'data/{part}2017', image['file_name']).symlink_to(coco_root / f'{part}2017' / image['file_name'])
    small = [f'{part}_dataloader.dataset.pipeline.1.scale=(96,96)' for part in ('val', 'test')]
    assert tool.main(['data', '--out', 'out', '--config', write_config(True), '--epochs', '1', '--batch-size',
                      '4', *OPTIONS, 'train_dataloader.dataset.pipeline.2.scales=[(96,96)]', *small]) == 0
    printed = ' '.join(capsys.readouterr().out.split())
    for line in (r'image size \d+ x \d+ px: \w+', r'anchor scale [\d.]+: \w+', 'learns boxes and masks', 'mask AP'):
        assert re.search(line, printed), line
    assert list(Path('out/run').glob('best_coco_segm_mAP_epoch_1.pth'))
    assert Path('out/run/predictions.png').is_file()


def change_json(change):
    """Return a function that changes the training's annotations."""

    def run(root):
        file = root / 'annotations/instances_train2017.json'
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return run


def dry_run(tool, capsys, *options):
    """Return the config that is written without a training, and what is printed."""
    status = tool.main(['data', '--out', 'out', '--dry-run', *options])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return Config.fromfile('out/config.py'), ' '.join(printed.out.split())


@pytest.mark.parametrize('masks', [True, False])
def test_the_default_config(tool, capsys, masks):
    folders.write_coco(Path('data'), masks=masks)
    cfg, printed = dry_run(tool, capsys)
    assert 'train it with: python tools/train.py' in printed
    assert cfg.model.type == ('MaskRCNN' if masks else 'FasterRCNN')
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.model.rpn_head.anchor_generator.type == 'AnchorGenerator'
    assert cfg.model.roi_head.get('mask_head', dict(num_classes=2))['num_classes'] == 2
    assert not Path('out/annotations').exists(), 'a COCO file without faults is used where it is'
    assert cfg.train_dataloader.dataset.ann_file == str(Path('data/annotations/instances_train2017.json').absolute())
    assert cfg.train_cfg.max_epochs == 100 and cfg.auto_scale_lr.enable
    assert cfg.param_scheduler[0].end < 2 * 100 and cfg.param_scheduler[1].milestones == [67, 92]
    text = Path('out/config.py').read_text()
    assert len(text.splitlines()) < 90 and max(map(len, text.splitlines())) < 200
    dry_run(tool, capsys)  # the same again is no conflict
    assert Path('out/config.py').read_text() == text
    Path('out/config.py').write_text(text + 'a = 1\n')
    assert tool.main(['data', '--out', 'out', '--dry-run']) == 1
    assert 'config.py is there, with other settings' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['cascade-mask-rcnn_swin-pos-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco',
                                  'retinanet_swin-pos-t-p4-w7_fpn_1x_coco',
                                  'mask-rcnn_swin-pos-b-p4-w7_fpn_rpn-2conv_4conv1fc_ln-all_amp-lsj-50e_coco'])
def test_other_detectors(tool, capsys, name):
    folders.write_one_json(Path('data'))
    cfg, _ = dry_run(tool, capsys, '--config', name, '--epochs', '7', '--batch-size', '3')
    check_data(cfg, ['train', 'val', 'test'])
    assert cfg.train_cfg.max_epochs == 7 and cfg.train_dataloader.batch_size == 3
    heads = cfg.model.get('roi_head', cfg.model).bbox_head
    assert {head.num_classes for head in (heads if isinstance(heads, list) else [heads])} == {2}
    assert Config.fromfile(f'{ROOT}/configs/swin_pos/{name}.py').model.backbone == cfg.model.backbone


def test_hooks_that_replace_pipelines_go(tool, capsys):
    folders.write_one_json(Path('data'))
    cfg, _ = dry_run(tool, capsys, '--config', 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook', 'EarlyStoppingHook']


def test_ids_of_coco_stay(tool, capsys):
    folders.write_coco(Path('data'))
    change_json(lambda content: [item.update(id=item['id'] + 900100) for item in content['annotations']])(Path('data'))
    cfg, _ = dry_run(tool, capsys)
    assert cfg.train_dataloader.dataset.ann_file == str(Path('data/annotations/instances_train2017.json').absolute())


def test_weights(tool, capsys):
    folders.write_yolo(Path('data'))
    config = write_config(False)
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict()), 'detector.pth')
    torch.save(dict(model=model.backbone.state_dict()), 'backbone.pth')
    cfg, _ = dry_run(tool, capsys, '--config', config, '--weights', 'detector.pth')
    assert cfg.load_from == str(Path('detector.pth').absolute())
    Path('out/config.py').unlink()
    cfg, _ = dry_run(tool, capsys, '--config', config, '--weights', 'backbone.pth')
    assert cfg.load_from is None
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=str(Path('backbone.pth').absolute()))
    Path('out/config.py').unlink()
    assert dry_run(tool, capsys, '--weights', 'https://a/b.pth')[0].load_from == 'https://a/b.pth'


@pytest.mark.parametrize('name', sorted(path.stem for path in GOLDEN.glob('swin*.pth')))
def test_weights_of_every_library(tmp_path, name):
    """A classifier's or a backbone's file, of V1 and V2, is found to be one, and is loaded whole."""
    path = write_weights(name, str(tmp_path / 'weights.pth'))
    found = finetune_config._weights(path)
    assert found == dict(init_cfg=dict(type='Pretrained', checkpoint=path))
    v2 = name.startswith('swinv2')
    backbone = MODELS.build(dict(
        type='SwinPosTransformerV2' if v2 else 'SwinPosTransformer', embed_dims=8, depths=(2, 2, 2),
        num_heads=(1, 2, 4), strides=(4, 2, 2), out_indices=(0, 1, 2), window_size=6 if v2 else 7, mlp_ratio=2,
        **(dict(pretrained_window_sizes=[4, 4, 3]) if name in ('swinv2_microsoft', 'swinv2_mmpretrain') else {}),
        use_abs_pos_embed=name == 'swin_microsoft_det', **found))
    backbone.init_weights()
    given = read_weights(load_checkpoint_file(path)).state_dict
    state = backbone.state_dict()
    same = [key for key in state if key in given and 'relative_position' not in key and 'absolute' not in key]
    assert len(same) > 50 and all(torch.equal(state[key], given[key]) for key in same)


def test_repairs_go_into_a_copy(tool, capsys):
    folders.write_coco(Path('data'))
    change_json(lambda content: content['annotations'][0].pop('iscrowd'))(Path('data'))
    change_json(lambda content: content['annotations'][1].pop('segmentation'))(Path('data'))
    cfg, printed = dry_run(tool, capsys)
    assert 'instances_train2017.json: 1 annotations got iscrowd 0' in printed
    assert '1 of 18 objects have no mask, so boxes alone are learned' in printed
    assert cfg.model.type == 'FasterRCNN'
    file = Path('out/annotations/train.json').absolute()
    assert cfg.train_dataloader.dataset.ann_file == str(file)
    content = json.loads(file.read_text())
    assert content['annotations'][0]['iscrowd'] == 0 and 'segmentation' not in content['annotations'][0]
    file.write_text(json.dumps({**content, 'info': 'mine'}))
    assert tool.main(['data', '--out', 'out', '--dry-run']) == 1
    assert 'train.json is there, with other annotations' in capsys.readouterr().err
    assert json.loads(file.read_text())['info'] == 'mine'


@pytest.mark.parametrize(('change', 'options', 'says'), [
    (lambda root: None, ['--config', 'nope'], 'there is no config nope'),
    (lambda root: None, ['--weights', 'nope.pth'], 'there is no file nope.pth'),
    (lambda root: None, ['--resume'], 'to resume'),
    (lambda root: None, ['--out', 'data/out'], 'is inside data'),
    (lambda root: None, ['--config', 'mmdet::nope.py'], 'cannot build on the config mmdet::nope.py'),
    (lambda root: None, ['--config', __file__], 'cannot build on the config'),
    (change_json(lambda content: content['annotations'].append(5)), [], 'annotation 12 is a int'),
    (lambda root: None, ['--config', 'mask2former_swin-pos-t-p4-w7-224_8xb2-lsj-50e_coco'], 'no head of'),
    (lambda root: (root / 'train2017/0.jpg').unlink(), [], '1 of the 8 images'),
    (change_json(lambda content: [item.update(bbox=[0.1, 0.1, 0.5, 0.5]) for item in content['annotations']]), [],
     'its boxes look like shares of the image'),
    (change_json(lambda content: content['categories'][0].update(name='bird')), [], "objects of the class 'balloon'"),
])
def test_mistakes_are_one_line(tool, capsys, change, options, says):
    folders.write_coco(Path('data'))
    change(Path('data'))
    assert tool.main(['data', '--out', 'out', '--dry-run', *options]) == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and says in line
    assert not Path('out/config.py').exists() and not Path('out/annotations/train.json').exists()


def test_masks_for_a_detector_of_masks(tool, capsys):
    folders.write_yolo(Path('data'))
    assert tool.main(['data', '--out', 'out', '--config', 'mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco']) == 1
    assert 'choose a detector of boxes, such as --config faster-rcnn' in capsys.readouterr().err


def test_a_folder_of_nothing(tool, capsys):
    Path('data').mkdir()
    assert tool.main(['data', '--out', 'out']) == 1
    assert 'is none of the known layouts' in capsys.readouterr().err and not Path('out').exists()
