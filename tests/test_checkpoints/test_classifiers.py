"""The head and the final norm of a pretrained classifier, from each library."""
from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from swin_pos_det.checkpoints import CheckpointError, check_heads, load_checkpoint_file, remap_backbone_keys
from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2

from .test_formats import MICRO, image

GOLDEN = Path(__file__).parents[1] / 'golden'
CLASSES = 5
V1 = ['timm', 'timm_old', 'microsoft', 'hf_classifier', 'torchvision', 'mmpretrain']
V2 = ['timm', 'microsoft', 'hf_classifier', 'torchvision', 'mmpretrain']


class Classifier(nn.Module):
    """The parts of mmpretrain's ``ImageClassifier``, by its names."""

    def __init__(self, backbone: nn.Module, classes: int = CLASSES) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Module()
        self.head.fc = nn.Linear(backbone.num_features[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head.fc(self.backbone(images)[-1].mean((2, 3)))


def classifier(version=1, windows=None, **settings):
    kind = SwinPosTransformer if version == 1 else SwinPosTransformerV2
    window = dict(window_size=6, pretrained_window_sizes=windows) if version == 2 else {}
    return Classifier(kind(**{**MICRO, 'out_indices': (2, ), **window}), **settings).eval()


def weights_of(name):
    """Return a golden file's content and the weight and bias of its head and final norm, by the ends of their names."""
    found = load_checkpoint_file(GOLDEN / f'{name}.pth')
    inner = found['checkpoint']
    inner = inner.get('state_dict', inner.get('model', inner))
    ends = {'head': ('head.fc.', 'head.', 'classifier.'), 'norm': ('layernorm.', 'backbone.norm2.', 'norm.')}
    own = {}
    for part, names in ends.items():
        for kind in ('weight', 'bias'):
            own[f'{part}.{kind}'] = next(inner[key] for name in names for key in inner
                                         if key in (name + kind, f'swin.{name}{kind}', f'swinv2.{name}{kind}'))
    return found, own


@pytest.mark.parametrize('name', V1)
def test_logits_are_those_of_the_library(name, tmp_path):
    found, own = weights_of(f'swin_{name}')
    torch.save(found['checkpoint'], tmp_path / 'file.pth')
    model = classifier()
    load_checkpoint(model, str(tmp_path / 'file.pth'), strict=False)
    last = found['features'][-1].mean((2, 3)) * own['norm.weight'] + own['norm.bias']
    with torch.no_grad():
        got = model(image())
    torch.testing.assert_close(got, F.linear(last, own['head.weight'], own['head.bias']), rtol=0, atol=1e-5)
    assert got.std() > 0.1
    inner = found['checkpoint']
    check_heads(classifier(), inner.get('state_dict', inner.get('model', inner)), name)


@pytest.mark.parametrize('name', V2)
def test_a_swin_v2_too(name, tmp_path):
    found, own = weights_of(f'swinv2_{name}')
    torch.save(found['checkpoint'], tmp_path / 'file.pth')
    model = classifier(2, 6 if name == 'torchvision' else [4, 4, 3])
    load_checkpoint(model, str(tmp_path / 'file.pth'), strict=False)
    for got, part in ((model.head.fc, 'head'), (model.backbone.norm2, 'norm')):
        assert torch.equal(got.weight, own[f'{part}.weight']) and torch.equal(got.bias, own[f'{part}.bias'])


@pytest.mark.parametrize('name', ['timm', 'hf_classifier'])
def test_a_head_of_other_classes_stays_as_it_was(name, tmp_path):
    found, own = weights_of(f'swin_{name}')
    torch.save(found['checkpoint'], tmp_path / 'file.pth')
    model = classifier(classes=3)
    before = model.head.fc.weight.clone()
    load_checkpoint(model, str(tmp_path / 'file.pth'), strict=False)
    assert torch.equal(model.head.fc.weight, before)
    assert torch.equal(model.backbone.norm2.weight, own['norm.weight'])
    with pytest.raises(CheckpointError, match='is not of this config'):
        check_heads(model, found['checkpoint'], name)


def test_a_detector_gets_neither():
    found, _ = weights_of('swin_microsoft')
    detector = nn.Module()
    detector.backbone = SwinPosTransformer(**MICRO)
    placed = remap_backbone_keys(detector, OrderedDict(found['checkpoint']['model']))
    detector.load_state_dict(placed, strict=False)
    assert torch.equal(detector.backbone.norm2.weight, torch.ones(32))
