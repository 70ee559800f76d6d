"""Loading: formats, windows, and that nothing stays random."""
from __future__ import annotations

import re
from collections import OrderedDict
from typing import Dict

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones.swin import swin_converter
from mmengine.runner.checkpoint import get_state_dict, load_checkpoint, load_state_dict, save_checkpoint, weights_to_cpu
from torch import Tensor, nn
from torch.nn.utils import prune

from swin_pos_det.checkpoints.weights import TABLE_WINDOWS
from swin_pos_det.layers import resample_table
from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO, randomise


def micro(**settings) -> SwinPosTransformer:
    return SwinPosTransformer(**dict(MICRO, **settings))


def microsoft_state_dict(window: int = 7) -> Dict[str, Tensor]:
    """Return random weights under the Swin authors' names, with their classifier and index buffers."""
    state = OrderedDict()
    state['patch_embed.proj.weight'] = torch.randn(16, 3, 4, 4)
    for key in ('patch_embed.proj.bias', 'patch_embed.norm.weight', 'patch_embed.norm.bias'):
        state[key] = torch.randn(16)
    for stage, (dims, heads) in enumerate(((16, 2), (32, 4), (64, 8))):
        for block in range(2):
            name = f'layers.{stage}.blocks.{block}'
            state[f'{name}.attn.relative_position_bias_table'] = torch.randn((2 * window - 1)**2, heads)
            state[f'{name}.attn.relative_position_index'] = torch.zeros(window**2, window**2, dtype=torch.long)
            if block:
                state[f'{name}.attn_mask'] = torch.zeros(64, window**2, window**2)
            for key, shape in (('norm1', ()), ('norm2', ()), ('attn.qkv', (3, 1)), ('attn.proj', (1, 1)),
                               ('mlp.fc1', (4, 1)), ('mlp.fc2', (1, 4))):
                out, into = shape or (1, 0)
                state[f'{name}.{key}.weight'] = torch.randn(out * dims, into * dims) if into else torch.randn(dims)
                state[f'{name}.{key}.bias'] = torch.randn(out * dims)
        if stage < 2:
            state[f'layers.{stage}.downsample.reduction.weight'] = torch.randn(2 * dims, 4 * dims)
            state[f'layers.{stage}.downsample.norm.weight'] = torch.randn(4 * dims)
            state[f'layers.{stage}.downsample.norm.bias'] = torch.randn(4 * dims)
    state['norm.weight'], state['norm.bias'] = torch.randn(64), torch.randn(64)
    state['head.weight'], state['head.bias'] = torch.randn(1000, 64), torch.randn(1000)
    return state


@pytest.fixture
def microsoft_file(tmp_path):
    path = tmp_path / 'swin.pth'
    torch.save(dict(model=microsoft_state_dict()), path)
    return str(path)


def test_microsoft_weights_load_as_mmdets_converter_loads_them(microsoft_file):
    model = micro(init_cfg=dict(type='Pretrained', checkpoint=microsoft_file), convert_weights=True)
    model.init_weights()
    want = swin_converter(torch.load(microsoft_file, weights_only=True)['model'])
    for name, parameter in model.named_parameters():
        if not re.match(r'norm\d', name):
            assert torch.equal(parameter, want[f'backbone.{name}']), name


def test_patch_merging_of_microsoft_weights_computes_their_formula(microsoft_file):
    state = microsoft_state_dict()
    model = micro()
    model.load_state_dict(state, strict=False)
    x = torch.randn(1, 6 * 4, 16)
    maps = x.view(1, 6, 4, 16)
    merged = torch.cat([maps[:, r::2, c::2] for c in (0, 1) for r in (0, 1)], -1).view(1, -1, 64)
    normed = F.layer_norm(merged, (64, ), state['layers.0.downsample.norm.weight'],
                          state['layers.0.downsample.norm.bias'])
    want = F.linear(normed, state['layers.0.downsample.reduction.weight'])
    got, size = model.stages[0].downsample(x, (6, 4))
    assert size == (3, 2)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize(('window', 'table'), [(12, None), (12, 7), (5, None), ((7, 14), None)])
def test_tables_of_another_window_are_resampled_as_microsoft_does(microsoft_file, window, table):
    model = micro(
        window_size=window, table_window_size=table, init_cfg=dict(type='Pretrained', checkpoint=microsoft_file))
    model.init_weights()
    pretrained = microsoft_key = None
    for name, module in model.named_modules():
        if not hasattr(module, 'table_window_size'):
            continue
        microsoft_key = name.replace('stages', 'layers').replace('.w_msa', '') + '.relative_position_bias_table'
        pretrained = torch.load(microsoft_file, weights_only=True)['model'][microsoft_key]
        grid = module.table_window_size
        if grid != (7, 7):
            pictures = pretrained.permute(1, 0).view(1, -1, 13, 13)
            size = (2 * grid[0] - 1, 2 * grid[1] - 1)
            pretrained = F.interpolate(pictures, size=size, mode='bicubic').flatten(2)[0].permute(1, 0)
        torch.testing.assert_close(module.relative_position_bias_table.data, pretrained, rtol=0, atol=1e-6)
    assert microsoft_key


@pytest.mark.parametrize('loader', ['torch', 'mmengine'])
def test_a_detector_loads_through_the_same_hook(loader):
    source, target = nn.Module(), nn.Module()
    source.backbone, target.backbone = micro(window_size=5), micro(window_size=(3, 4))
    source.neck, target.neck = nn.Linear(2, 2), nn.Linear(2, 2)
    randomise(source)
    state = source.state_dict()
    if loader == 'torch':
        target.load_state_dict(state, strict=True)
    else:
        load_state_dict(target, state, strict=True)
    assert torch.equal(target.neck.weight, source.neck.weight)
    assert torch.equal(target.backbone.patch_embed.norm.weight, source.backbone.patch_embed.norm.weight)
    table = target.backbone.stages[0].blocks[0].attn.w_msa.relative_position_bias_table
    assert table.shape == (35, 2) and (table != 0).any()
    assert set(state) == set(source.state_dict()), 'the caller\'s state dict is left alone'


@pytest.mark.parametrize('embedding_shape', [(1, 64, 16), (1, 16, 8, 8)])
def test_absolute_embeddings_are_resampled(embedding_shape):
    source = micro(use_abs_pos_embed=True, pretrain_img_size=32)
    randomise(source)
    state = source.state_dict()
    grid = source.absolute_pos_embed.detach().view(1, 8, 8, 16).permute(0, 3, 1, 2)
    state['absolute_pos_embed'] = grid if len(embedding_shape) == 4 else grid.flatten(2).transpose(1, 2)
    target = micro(use_abs_pos_embed=True, pretrain_img_size=(48, 64))
    target.load_state_dict(state, strict=True)
    want = F.interpolate(grid, size=(12, 16), mode='bicubic', align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(target.absolute_pos_embed.data, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(num_heads=(4, 4, 8)), r'\(169, 2\), the model \(169, 4\) for window \(7, 7\)'),
    (dict(embed_dims=32, num_heads=(2, 4, 8)), r'patch_embed.projection.weight: .*\(16, 3, 4, 4\), .*\(32, 3, 4, 4\)'),
    (dict(patch_size=2, strides=(2, 2, 2)), r'\(16, 3, 4, 4\), the model \(16, 3, 2, 2\).* patch_size=\(4, 4\)'),
    (dict(depths=(2, 4, 2)), r'no weights for 26 of .* such as stages.1.blocks.2.norm1.weight: .* depths=\(2, 2, 2\)'),
    (dict(depths=(2, 1, 2)), r': 13, such as stages.1.blocks.1.* be left out.* depths=\(2, 2, 2\)'),
    (dict(use_abs_pos_embed=True), 'no weights for 1 of .* absolute_pos_embed'),
])
@pytest.mark.parametrize('path', ['load_state_dict', 'mmengine'])
def test_what_cannot_be_used_raises_on_every_path(tmp_path, changes, message, path):
    source, target = nn.Module(), nn.Module()
    source.backbone, target.backbone = micro(), micro(**changes)
    torch.save(dict(state_dict=source.state_dict(), meta={}), tmp_path / 'model.pth')
    load = dict(load_state_dict=lambda: target.load_state_dict(source.state_dict(), strict=False),
                mmengine=lambda: load_checkpoint(target, str(tmp_path / 'model.pth'), strict=False))[path]
    with pytest.raises(ValueError, match=message):
        load()


@pytest.mark.parametrize('state', ['another backbone', 'a stage is missing', 'a head alone'])
def test_no_backbone_stays_random_in_silence(tmp_path, state):
    target = nn.Module()
    target.backbone = micro()
    saved = {k: v for k, v in target.state_dict().items() if 'stages.1' not in k}
    if state == 'another backbone':
        saved = {'backbone.conv1.weight': torch.randn(8, 3, 7, 7)}
    elif state == 'a head alone':
        saved = {'head.fc.weight': torch.randn(5, 64)}
    torch.save(dict(state_dict=saved), tmp_path / 'model.pth')
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match='would stay random'):
        load_checkpoint(target, str(tmp_path / 'model.pth'), strict=False)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items()), 'nothing is loaded'


@pytest.mark.parametrize(('source', 'target'), [((7, 14), (14, 7)), ((5, 5), (2, 14)), ((2, 14), (7, 7))])
@pytest.mark.parametrize('path', ['load_state_dict', 'file', 'init_cfg'])
def test_grids_are_told_apart_even_with_equal_rows(tmp_path, source, target, path):
    trained = micro(window_size=source)
    randomise(trained)
    path_of_file = str(tmp_path / 'model.pth')
    if path == 'load_state_dict':
        model = micro(window_size=target)
        model.load_state_dict(trained.state_dict(), strict=True)
    elif path == 'file':
        model = micro(window_size=target)
        save_checkpoint(dict(state_dict=weights_to_cpu(get_state_dict(trained)), meta={}), path_of_file)
        load_checkpoint(model, path_of_file, strict=True)
    else:
        detector = nn.Module()
        detector.backbone = trained
        save_checkpoint(dict(state_dict=weights_to_cpu(get_state_dict(detector)), meta={}), path_of_file)
        model = micro(window_size=target, init_cfg=dict(type='Pretrained', checkpoint=path_of_file))
        model.init_weights()
    name = 'stages.0.blocks.1.attn.w_msa.relative_position_bias_table'
    want = resample_table(trained.get_parameter(name).detach(), source, target)
    torch.testing.assert_close(model.get_parameter(name).detach(), want, rtol=0, atol=1e-6)


def test_other_initialisers_and_pretrained_weights_in_a_list(microsoft_file):
    model = micro(init_cfg=[dict(type='Constant', layer='LayerNorm', val=3.),
                            dict(type='Pretrained', checkpoint=microsoft_file)])
    model.init_weights()
    want = torch.load(microsoft_file, weights_only=True)['model']['patch_embed.norm.weight']
    assert torch.equal(model.patch_embed.norm.weight, want), 'pretrained weights come last'
    assert (model.norm0.weight == 3).all()
    scratch = micro(init_cfg=dict(type='TruncNormal', layer='Linear', std=.5))
    scratch.init_weights()
    assert scratch.stages[0].blocks[0].attn.w_msa.qkv.weight.std() > 0.3
    assert scratch.stages[0].blocks[0].attn.w_msa.relative_position_bias_table.std() > 0.01


@pytest.mark.parametrize('broken', ['a stage is missing', 'nothing fits', 'wrong prefix'])
def test_a_pretrained_file_that_leaves_weights_random_raises(tmp_path, broken):
    state = microsoft_state_dict()
    prefix = None
    if broken == 'a stage is missing':
        state = {k: v for k, v in state.items() if not k.startswith('layers.1')}
    elif broken == 'nothing fits':
        state = {'conv1.weight': torch.zeros(1)}
    else:
        prefix = 'encoder'
    path = tmp_path / 'broken.pth'
    torch.save(dict(model=state), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **({} if prefix is None else dict(prefix=prefix)))
    with pytest.raises(ValueError, match='stay random|no keys that start with|nothing that .* could load'):
        micro(init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize('wrap', ['detector', 'ddp', 'bare'])
def test_mmdet_checkpoints_load_from_init_cfg(tmp_path, wrap):
    source = micro()
    randomise(source)
    state = source.state_dict()
    prefix = dict(detector='backbone.', ddp='module.backbone.', bare='')[wrap]
    path = tmp_path / 'detector.pth'
    torch.save(dict(state_dict={f'{prefix}{k}': v for k, v in state.items()}, meta={}), path)
    model = micro(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class LowRank(nn.Module):
    """A linear layer with something learned beside it, as LoRA wraps one."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.adapter = nn.Linear(base.in_features, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.adapter(x)


def _wrap_qkv(model: SwinPosTransformer) -> None:
    for stage in model.stages:
        for block in stage.blocks:
            block.attn.w_msa.qkv = LowRank(block.attn.w_msa.qkv)


def _wrap_blocks(model: SwinPosTransformer) -> None:
    wrappers = pytest.importorskip('torch.distributed.algorithms._checkpoint.checkpoint_wrapper')
    wrappers.apply_activation_checkpointing(model, check_fn=lambda module: type(module).__name__ == 'SwinBlock')


CHANGES = {
    'a buffer': lambda model: model.stages[0].blocks[0].register_buffer('scale', torch.ones(2)),
    'pruned': lambda model: prune.l1_unstructured(model.stages[0].blocks[0].ffn.layers[1], 'weight', .5),
    'pruned qkv': lambda model: prune.l1_unstructured(model.stages[0].blocks[0].attn.w_msa.qkv, 'weight', .5),
    'low rank': _wrap_qkv,
    'wrapped': _wrap_blocks,
}


@pytest.mark.parametrize('how', ['torch', 'mmengine'])
@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_backbone_takes_what_it_saved(change, how):
    saved, model = micro(), micro()
    for each in (saved, model):
        CHANGES[change](each)
    randomise(saved)
    (model.load_state_dict if how == 'torch' else lambda state: load_state_dict(model, state))(saved.state_dict())
    for name, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_wrapped_block_takes_a_plain_checkpoint():
    plain, model = micro(window_size=5), micro()
    _wrap_blocks(model)
    model.load_state_dict(plain.state_dict())
    key = 'stages.0.blocks.0.attn.w_msa.qkv.weight'
    assert torch.equal(model.state_dict()[key], plain.state_dict()[key])
    assert any('resampled' in line for line in model.load_report.lines())


def test_what_replaces_a_module_does_not_keep_the_rest_from_being_saved():
    model = micro()
    model.stages[0].blocks[0].ffn = nn.Linear(1, 1)
    model.stages[1].blocks[0].attn = nn.Identity()
    assert len(model.state_dict()._metadata[''][TABLE_WINDOWS]) == 3


def test_a_part_of_what_is_loaded_already():
    model = micro()
    name = 'stages.0.blocks.0.attn.w_msa.qkv.weight'
    adapters = {name: torch.zeros_like(model.state_dict()[name])}
    with pytest.raises(ValueError, match='would stay random'):
        model.load_state_dict(adapters, strict=False)
    model.load_state_dict(micro().state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    missing = model.load_state_dict(adapters, strict=False).missing_keys
    assert len(missing) == len(before) - 1 and not model.stages[0].blocks[0].attn.w_msa.qkv.weight.any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name not in adapters)
    with pytest.raises(RuntimeError, match='Missing key'):
        model.load_state_dict(adapters)
    with pytest.raises(ValueError, match='would stay random'):  # MMEngine's way, which is not strict by default
        load_state_dict(model, adapters)


def test_a_guessed_window_is_said():
    taken = micro(window_size=(3, 6))
    taken.load_state_dict(dict(micro(window_size=(6, 3)).state_dict()))
    assert any('does not say of which window its tables are, so (3, 6) is assumed' in line
               for line in taken.load_report.lines())
    square = micro()
    square.load_state_dict(dict(micro().state_dict()))
    assert not square.load_report.notes


def test_from_scratch_draws_every_table():
    model = micro()
    model.init_weights()
    assert model.is_init
    for name, parameter in model.named_parameters():
        if name.endswith('table'):
            assert 0.01 < parameter.std() < 0.03, name
