"""``configs/_base_/fast_training.py``: the losses of mmdet's own masks and optimizer, to the bit."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.structures import InstanceData

from swin_pos_det.cli.runner import build_runner
from swin_pos_det.data import CompactMasks, LoadCompactAnnotations
from swin_pos_det.data.coco_root import apply_coco_root
from swin_pos_det.data.digits.on_photos import make_digits_on_photos
from swin_pos_det.engine.compact_masks_hook import CompactMasksHook, load_compact_masks, mask_targets

ROOT = Path(__file__).parents[2]
FAST = ROOT / 'configs/_base_/fast_training.py'
NANO = ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'


@pytest.fixture(autouse=True)
def _short_logs(monkeypatch):
    # With each runner MMEngine asks compilers for their versions and formats the config four times: seconds.
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: ''))


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits')
    make_digits_on_photos(root, num_train=12, num_val=2, seed=0)
    return root


def fast_hooks(implementation: str) -> list:
    hooks = Config.fromfile(FAST).custom_hooks
    assert [hook.type for hook in hooks] == ['CompactMasksHook', 'VectorizedAssignersHook', 'VectorizedHeadsHook',
                                             'MergedOptimizerHook', 'DeferredScalarsHook', 'PinnedTransferHook']
    hooks[3]['implementation'] = implementation
    return hooks


class Losses(Hook):
    """Keeps what each step returns."""

    def __init__(self) -> None:
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        masks = data_batch['data_samples'][0].gt_instances.masks
        self.seen.append((type(masks), {name: float(value) for name, value in outputs.items()}))


def run(cfg: Config, work_dir: Path, iterations: int) -> list:
    cfg.merge_from_dict(dict(work_dir=str(work_dir), randomness=dict(seed=0), launcher='none', val_dataloader=None,
                             val_evaluator=None, val_cfg=None, test_dataloader=None, test_evaluator=None, test_cfg=None,
                             default_hooks=dict(checkpoint=None), load_from=None))
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations)
    cfg.visualizer.name = str(work_dir)
    runner, losses = build_runner(cfg), Losses()
    runner.register_hook(losses)
    runner.train()
    return losses.seen


def nano(digits: Path) -> Config:
    cfg = Config.fromfile(NANO)
    cfg.train_dataloader.dataset.update(data_root=str(digits), num_train=12, num_val=2, seed=0)
    cfg.train_dataloader.dataset.pipeline[2].scale = (128, 128)
    return cfg


def detector(name: str, digits: Path, folder: Path) -> Config:
    """Return one of mmdet's detectors with masks, on the digits."""
    (folder / 'detector.py').write_text(f"_base_ = 'mmdet::{name}'\n")
    cfg = Config.fromfile(folder / 'detector.py')
    cfg.train_dataloader = nano(digits).train_dataloader
    cfg.train_dataloader.batch_size = 1
    cfg.model.data_preprocessor.update(pad_mask=True, pad_size_divisor=32)
    cfg.model.backbone.init_cfg = None
    if cfg.model.backbone.type == 'ResNet':
        cfg.model.backbone.depth = 18
        cfg.model.get('neck', cfg.model.get('panoptic_head')).in_channels = [64, 128, 256, 512]
    if 'roi_head' in cfg.model:
        make_thin(cfg.model)
    if 'panoptic_head' in cfg.model:
        cfg.model.data_preprocessor.batch_augments = None  # it pads to 1024 x 1024
        cfg.model.panoptic_head.update(num_queries=10, transformer_decoder=dict(num_layers=1))
        cfg.model.train_cfg.num_points = 64
    return cfg


def make_thin(node: Any) -> None:
    """Leave an eighth of the channels behind the backbone, and few boxes."""
    few = dict(num=32, nms_pre=100, max_per_img=50, fc_out_channels=64)
    for key, value in node.items():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, dict) and key != 'backbone':
                make_thin(child)
        if key.endswith('channels') and value == 256:
            node[key] = 32
        elif key in few:
            node[key] = few[key]


def both(cfg: Config, tmp_path: Path, iterations: int, hooks: list) -> tuple[list, list]:
    cfg.custom_hooks = []
    plain = run(Config(cfg._cfg_dict.to_dict()), tmp_path / 'plain', iterations)
    cfg.custom_hooks = hooks
    fast = run(cfg, tmp_path / 'fast', iterations)
    assert {kind for kind, _ in plain} == {BitmapMasks}
    assert {kind for kind, _ in fast} == {CompactMasks}
    return [losses for _, losses in plain], [losses for _, losses in fast]


@pytest.mark.slow
def test_twenty_iterations_are_the_same(digits, tmp_path):
    plain, fast = both(nano(digits), tmp_path, 20, fast_hooks('foreach'))  # as on a GPU without a fused kernel
    assert plain == fast
    assert len({losses['loss'] for losses in plain}) == 20


@pytest.mark.slow
def test_a_fused_optimizer_changes_losses_by_rounding(digits, tmp_path):
    """The settings of the file: torch's fused AdamW rounds otherwise, and then single boxes are sampled otherwise."""
    plain, fast = both(nano(digits), tmp_path, 6, fast_hooks('auto'))
    assert plain[0] == fast[0], 'before the first step'
    assert [losses['loss'] for losses in fast] == pytest.approx([losses['loss'] for losses in plain], rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize('model', ['ours', 'resnet'])
def test_twenty_iterations_on_coco_are_the_same(model, coco_root, digits, tmp_path):
    """On real images and masks, with this backbone and with mmdet's ResNet Mask R-CNN and its SGD."""
    cfg = nano(digits) if model == 'ours' else detector('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', digits, tmp_path)
    real = Config.fromfile(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py')
    for part in ('bbox_head', 'mask_head'):
        cfg.model.roi_head[part].num_classes = 80
    cfg.train_dataloader = real.train_dataloader
    resize, = (step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'Resize')
    resize.scale = (224, 160)
    cfg.optim_wrapper.clip_grad = dict(max_norm=1.)
    apply_coco_root(cfg, str(coco_root))
    plain, fast = both(cfg, tmp_path, 20, fast_hooks('default'))
    assert plain == fast
    assert len({losses['loss'] for losses in plain}) == 20


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'solov2/solov2_r50_fpn_1x_coco.py',
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'htc/htc-without-semantic_r50_fpn_1x_coco.py',
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
])
def test_other_detectors_with_masks(name, digits, tmp_path):
    plain, fast = both(detector(name, digits, tmp_path), tmp_path, 1, fast_hooks('default'))
    assert plain == fast


def test_workers_that_were_started_before_load_compact_masks_too(digits, tmp_path):
    cfg = nano(digits)
    cfg.merge_from_dict(dict(work_dir=str(tmp_path), launcher='none', default_hooks=dict(checkpoint=None)))
    cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
    cfg.visualizer.name = str(tmp_path)
    runner = build_runner(cfg)
    runner._train_loop = loop = runner.build_train_loop(cfg.train_cfg)
    assert isinstance(next(loop.dataloader_iterator)['data_samples'][0].gt_instances.masks, BitmapMasks)
    CompactMasksHook().before_train(runner)
    batch = next(loop.dataloader_iterator)
    assert isinstance(batch['data_samples'][0].gt_instances.masks, CompactMasks)


def test_targets_are_those_of_fcn_mask_head():
    torch.manual_seed(0)
    head = FCNMaskHead(num_classes=2)
    masks = (torch.rand(3, 40, 50) > 0.4).numpy().astype('uint8')
    boxes = torch.tensor([[-3., 2, 20, 30], [10, 5, 60, 44], [3, 3, 9, 8], [0, 0, 50, 40]])
    cfg = Config(dict(mask_size=14))

    def targets(kind: type, assigned: list, soft: bool) -> torch.Tensor:
        sampled = InstanceData(pos_priors=boxes[:len(assigned)], pos_assigned_gt_inds=torch.tensor(assigned).long())
        instances = InstanceData(masks=kind(masks, 40, 50))
        cfg.soft_mask_target = soft
        return mask_targets(head.get_targets, [sampled, sampled], [instances, instances], cfg)

    for soft in (False, True):
        expected = targets(BitmapMasks, [0, 2, 1, 0], soft)
        assert expected.shape == (8, 14, 14)
        assert torch.equal(targets(CompactMasks, [0, 2, 1, 0], soft), expected)
        assert targets(CompactMasks, [], soft).shape == (0, 14, 14)


def test_pipelines_are_found_inside_others():
    class Holder:
        def __init__(self, **members) -> None:
            self.__dict__.update(members)

    polygons = LoadAnnotations(with_mask=True, poly2mask=False)
    inner = Holder(transforms=[LoadAnnotations(with_mask=True), LoadAnnotations(with_mask=False), polygons])
    dataset = Holder(datasets=[Holder(pipeline=Holder(transforms=[inner])), Holder(dataset=Holder(pipeline=Holder(
        transforms=[LoadAnnotations(with_mask=True, with_label=False)])))])
    assert load_compact_masks(dataset) == 2
    assert [type(transform) for transform in inner.transforms] == [LoadCompactAnnotations, LoadAnnotations,
                                                                   LoadAnnotations]
    replaced = dataset.datasets[1].dataset.pipeline.transforms[0]
    assert (type(replaced), replaced.with_label, replaced.with_mask) == (LoadCompactAnnotations, False, True)
    assert load_compact_masks(dataset) == 0
