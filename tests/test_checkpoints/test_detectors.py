"""Whole detectors through MMEngine: nothing is loaded unless the backbone fits, and nothing misleading is logged."""
from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from swin_pos_det.checkpoints import load_checkpoint_file, remap_backbone_keys
from tests.test_checkpoints.test_formats import MICRO, TABLE, detector_with, golden, micro

MICROSOFT_TABLE = 'layers.1.blocks.1.attn.relative_position_bias_table'


class Detector(BaseModel):
    """Its neck is registered before its backbone, its head after it."""

    def __init__(self, name='backbone', **settings):
        super().__init__()
        self.neck = nn.Linear(2, 2)
        self.add_module(name, micro(**settings))
        self.head = nn.Linear(2, 2)

    def forward(self, inputs, mode='tensor'):
        return inputs


def save(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / 'file.pth')
    return str(tmp_path / 'file.pth')


def detector_state(**settings):
    """Return weights of a detector that differ from what any new one starts with."""
    return OrderedDict((key, value + 1) for key, value in Detector(**settings).state_dict().items())


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(num_heads=(2, 4, 8)), r'\(169, 1\), the model \(169, 2\)'),
    (dict(depths=(2, 2, 4)), 'would stay random'),
    (dict(embed_dims=16, num_heads=(1, 2, 4)), r'\(8, 3, 4, 4\), the model \(16, 3, 4, 4\)'),
])
@pytest.mark.parametrize('strict', [False, True])
def test_a_load_that_raises_has_loaded_nothing(tmp_path, settings, message, strict):
    state = detector_state()
    file = save(dict(state_dict=state), tmp_path)
    target = Detector(**settings)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_checkpoint(target, file, strict=strict)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    fitting = Detector()
    load_checkpoint(fitting, file, strict=strict)
    assert all(torch.equal(value, state[key]) for key, value in fitting.state_dict().items())


def test_a_file_without_a_swin_loads_nothing_and_says_what_it_has(tmp_path):
    file = save({'neck.weight': torch.ones(2, 2), 'conv1.weight': torch.ones(3)}, tmp_path)
    target = Detector()
    before = target.neck.weight.clone()
    with pytest.raises(ValueError, match=r"nothing under 'backbone.'.*among the 2 keys.*'conv1.weight', 'neck.weight'"):
        load_checkpoint(target, file)
    assert torch.equal(target.neck.weight, before)


@pytest.mark.parametrize('name', ['swin_timm', 'swin_microsoft', 'swin_hf_classifier', 'swin_torchvision'])
def test_no_key_that_was_used_is_called_unexpected(tmp_path, capsys, name):
    target = detector_with(micro())
    load_checkpoint(target, save(golden(name)['checkpoint'], tmp_path))
    out = capsys.readouterr().out
    assert 'unexpected key' not in out
    assert 'missing keys in source state_dict: neck.weight, neck.bias' in out, 'which is true'
    assert any('head' in key or 'classifier' in key for key in target.backbone.load_report.unused)


def test_a_file_whose_prefix_is_a_part_of_the_detector(tmp_path):
    """SimMIM's and MoBY's backbones are called encoder; so are parts of detectors."""
    state = golden('swin_microsoft')['checkpoint']['model']
    file = save({'model': {**{f'encoder.{key}': value for key, value in state.items()},
                           'decoder.0.weight': torch.ones(1)}}, tmp_path)
    target = detector_with(micro())
    target.encoder = nn.Linear(2, 2)
    before = target.encoder.weight.clone()
    load_checkpoint(target, file)
    assert torch.equal(target.backbone.get_parameter(TABLE), state[MICROSOFT_TABLE])
    assert torch.equal(target.encoder.weight, before)
    assert 'decoder.0.weight' in target.backbone.load_report.unused


def test_two_backbones_find_one_file(tmp_path):
    target = detector_with(micro())
    target.second = micro(window_size=12)
    load_checkpoint(target, save(golden('swin_microsoft')['checkpoint'], tmp_path))
    want = golden('swin_microsoft')['checkpoint']['model'][MICROSOFT_TABLE]
    assert torch.equal(target.backbone.get_parameter(TABLE), want)
    assert target.second.get_parameter(TABLE).shape == (23 * 23, 2) and len(target.second.load_report.resampled) == 6


def test_a_second_backbone_takes_what_the_first_has(tmp_path):
    state = {f'backbone.{key}': value for key, value in golden('swin_microsoft')['checkpoint']['model'].items()}
    target = detector_with(micro())
    target.second = micro()
    load_checkpoint(target, save(state, tmp_path))
    for backbone in (target.backbone, target.second):
        assert torch.equal(backbone.get_parameter(TABLE), state[f'backbone.{MICROSOFT_TABLE}'])


def test_detectors_within_a_model_take_the_file_of_one(tmp_path):
    """As mmdet's semi-supervised ones do, which put the names of both before the keys themselves, but later."""
    state = detector_state()
    model = nn.Module()
    model.student, model.teacher = Detector(), Detector()
    load_checkpoint(model, save(dict(state_dict=state), tmp_path))
    for name, value in state.items():
        for part in ('student', 'teacher'):
            assert torch.equal(model.state_dict()[f'{part}.{name}'], value), f'{part}.{name}'


def test_wrapped_detectors(tmp_path):

    class Augmented(BaseTTAModel):

        def merge_preds(self, data_samples_list):
            return data_samples_list

    target = Augmented(Detector())
    load_checkpoint(target, save(golden('swin_microsoft')['checkpoint'], tmp_path))
    want = golden('swin_microsoft')['checkpoint']['model'][MICROSOFT_TABLE]
    assert torch.equal(target.module.backbone.get_parameter(TABLE), want)


def test_other_models_are_left_alone(tmp_path):
    other = nn.Sequential(nn.Linear(2, 2))
    state = OrderedDict({'0.weight': torch.ones(2, 2), 'more': torch.ones(1)})
    assert remap_backbone_keys(other, state) is state
    load_checkpoint(other, save(state, tmp_path))
    assert torch.equal(other[0].weight, torch.ones(2, 2))
    settings = {key: value for key, value in MICRO.items() if key != 'drop_path_rate'}
    theirs = SwinTransformer(**settings, convert_weights=True, init_cfg=ConfigDict(
        type='Pretrained', checkpoint=save(golden('swin_microsoft')['checkpoint'], tmp_path)))
    theirs.init_weights()
    want = golden('swin_microsoft')['checkpoint']['model'][MICROSOFT_TABLE]
    assert torch.equal(theirs.get_parameter(TABLE), want), "mmdet's own Swin reads the file as before"


@pytest.mark.parametrize('extra', ['model_ema', 'state_dict_ema', 'ema', 'teacher'])
def test_models_of_others_take_the_entry_that_they_always_took(tmp_path, extra):
    """mmdet's own Swin reads 'model' from a file that has averaged weights too."""
    plain = golden('swin_microsoft')['checkpoint']['model']
    better = {key: torch.zeros_like(value) for key, value in plain.items()}
    file = save({'model': plain, extra: better}, tmp_path)
    settings = {key: value for key, value in MICRO.items() if key != 'drop_path_rate'}
    theirs = SwinTransformer(**settings, convert_weights=True, init_cfg=ConfigDict(type='Pretrained', checkpoint=file))
    theirs.init_weights()
    assert torch.equal(theirs.get_parameter(TABLE), plain[MICROSOFT_TABLE])
    own = micro(init_cfg=dict(type='Pretrained', checkpoint=file))
    own.init_weights()
    assert own.get_parameter(TABLE).abs().sum() == 0, 'this one takes the averaged weights'


# load_from with files without 'state_dict', and with averaged weights

def averaged(plain, better, layout):
    return {'timm': {'state_dict': plain, 'state_dict_ema': better, 'arch': 'swin'},
            'yolox': {'model': plain, 'ema': {'module': better, 'updates': 3}},
            'torchvision': {'model': plain, 'model_ema': {**{f'module.{k}': v for k, v in better.items()},
                                                          'n_averaged': torch.tensor(7)}},
            'plain': {'model': better}, 'bare': better}[layout]


@pytest.mark.parametrize('layout', ['timm', 'yolox', 'torchvision', 'plain', 'bare'])
@pytest.mark.parametrize('whole', [True, False], ids=['detector', 'backbone'])
def test_load_from_takes_what_init_cfg_takes(tmp_path, layout, whole):
    better = detector_state() if whole else golden('swin_timm')['checkpoint']
    plain = {key: torch.zeros_like(value) for key, value in better.items()}
    file = save(averaged(plain, better, layout), tmp_path)
    detector = Detector()
    load_checkpoint(detector, file)
    alone = micro(init_cfg=dict(type='Pretrained', checkpoint=file))
    alone.init_weights()
    assert all(torch.equal(value, alone.state_dict()[key]) for key, value in detector.backbone.state_dict().items()
               if not key.startswith('norm') or whole)
    assert alone.get_parameter(TABLE).abs().sum() > 0
    if whole:
        assert torch.equal(detector.neck.weight, better['neck.weight']), 'all of one model, not parts of two'


def test_mmengines_training_checkpoints_stay_as_they_are(tmp_path):
    """In a checkpoint to resume from, the plain weights belong to the optimizer's averages."""
    state = detector_state()
    checkpoint = dict(meta={}, message_hub={}, optimizer={}, state_dict=state, state_dict_ema=detector_state())
    found = CheckpointLoader.load_checkpoint(save(checkpoint, tmp_path), map_location='cpu')
    assert list(found) == list(checkpoint) and found['state_dict'] is not found['state_dict_ema']


@pytest.mark.parametrize('layout', ['timm', 'yolox', 'torchvision', 'plain', 'bare'])
def test_an_ema_hook_starts_from_files_without_a_state_dict(tmp_path, layout):
    better = golden('swin_timm')['checkpoint']
    plain = {key: torch.zeros_like(value) for key, value in better.items()}
    file = save(averaged(plain, better, layout), tmp_path)

    hook = EMAHook()
    runner = SimpleNamespace(model=Detector(), _resume=False, _hooks=[hook])
    hook.before_run(runner)
    checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu')
    Runner.call_hook(runner, 'after_load_checkpoint', checkpoint=checkpoint)
    want = better[MICROSOFT_TABLE]
    assert torch.equal(hook.ema_model.module.backbone.get_parameter(TABLE), want)
    assert not torch.equal(runner.model.backbone.get_parameter(TABLE), want), 'which the runner loads afterwards'


def test_a_file_is_read_once_and_shared(tmp_path):
    file = save(golden('swin_microsoft')['checkpoint'], tmp_path)
    assert set(load_checkpoint_file(file)) == {'model'}, 'the tools see what is in the file'
    found = CheckpointLoader.load_checkpoint(file, map_location='cpu')
    assert set(found) == {'model'}, 'and so does MMEngine, for models of others'
    for key, value in found['model'].items():
        found['model'][key] = torch.full_like(value, .5) if value.is_floating_point() else value
    target = Detector()
    mmengine_checkpoint._load_checkpoint_to_model(target, found)
    assert (target.backbone.get_parameter(TABLE) == .5).all()
