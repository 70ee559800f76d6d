"""A detector of a few thousand parameters, its data and its metric: for configs that the tools run in no time."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import Tensor
from torch.utils.data import Dataset

CONFIG = """
custom_imports = dict(imports=['swin_pos_det', 'tests.test_tools.toy'])
default_scope = 'mmdet'
model = dict(type='ToyDetector', backbone=dict(
    type='SwinPosTransformer', embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 4), strides=(4, 2, 2),
    out_indices=(0, 1, 2), mlp_ratio=2, drop_path_rate=0.))
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(type='ToyImages'),
    collate_fn=dict(type='default_collate'))
test_dataloader = train_dataloader
test_evaluator = dict(type='ToyMetric')
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=99)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0., weight_decay=0.))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
log_level = 'WARNING'
"""


@MODELS.register_module(force=True)
class ToyDetector(BaseModel):
    """A neck before a backbone, and a loss."""

    def __init__(self, backbone: dict, data_preprocessor: object = None) -> None:
        super().__init__(data_preprocessor)
        self.neck = torch.nn.Conv2d(32, 2, 1)
        self.backbone = MODELS.build(backbone)

    def forward(self, image: Tensor, mode: str = 'tensor') -> object:
        """Map (B, 3, H, W) images to the loss, or to what the metric averages."""
        out = self.neck(self.backbone(image)[-1])
        return dict(loss=F.mse_loss(out, torch.ones_like(out))) if mode == 'loss' else [out]


@DATASETS.register_module(force=True)
class ToyImages(Dataset):
    """Two images."""

    metainfo: dict = {}

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        return dict(image=torch.full((3, 40, 48), float(index)) + torch.arange(48.) / 48)


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    """The mean of the model's outputs: it depends on every parameter."""

    def process(self, data_batch: object, data_samples: list) -> None:
        self.results += [out.mean().item() for out in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return dict(mean=sum(results) / len(results))
