"""Recorded attention is the model's own, and what is worked out from it equals what loops over pairs of tokens give."""
from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch

from swin_pos_det.analysis.position.attention_maps import (
    attended_from,
    attention_distance,
    record_attention,
    uniform_distance,
    visible_from,
)
from swin_pos_det.layers import window_partition
from swin_pos_det.models import SwinPosTransformer

from ...reference import bias_of_window

IMAGE = torch.randn(1, 3, 22, 30, generator=torch.Generator().manual_seed(0))  # 6 x 8 tokens of 4 pixels, then 3 x 4


def make_backbone(**settings):
    torch.manual_seed(0)
    shape = dict(embed_dims=16, depths=(2, 3), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), window_size=(3, 5))
    backbone = SwinPosTransformer(**{**shape, **settings})
    for name, parameter in backbone.named_parameters():
        if name.endswith(('relative_position_bias_table', 'qkv.weight')):
            torch.nn.init.normal_(parameter, std=0.5)
    return backbone


@pytest.fixture(scope='module')
def backbone():
    return make_backbone()


@pytest.fixture(scope='module')
def blocks(backbone):
    return record_attention(backbone, IMAGE)


def place(number, size):
    return divmod(number, size[1])


def pairs_of(block):
    """Yield (window, query slot, key slot) -> tokens, of every pair of slots that hold real tokens."""
    area = block.weights.shape[-1]
    token_at = {int(slot): token for token, slot in enumerate(block.plan.inverse)}
    for window in range(block.plan.num_windows):
        slots = [slot for slot in range(area) if window * area + slot in token_at]
        for query in slots:
            for key in slots:
                yield (window, query, key), token_at[window * area + query], token_at[window * area + key]


def test_every_block_is_recorded_in_order(backbone, blocks):
    assert [(b.stage, b.block) for b in blocks] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert [b.size for b in blocks] == [(6, 8)] * 2 + [(3, 4)] * 3
    assert [b.stride for b in blocks] == [(4, 4)] * 2 + [(8, 8)] * 3
    assert [b.weights.shape[1] for b in blocks] == [1, 1, 2, 2, 2]


def test_rows_sum_to_one(blocks):
    for block in blocks:
        assert block.weights.min() >= 0
        torch.testing.assert_close(block.weights.sum(-1), torch.ones(block.weights.shape[:-1]))


@pytest.mark.parametrize('padding', ['attend', 'mask'])
def test_weights_are_the_models_own(padding):
    backbone, seen = make_backbone(padding=padding), {}
    for i, stage in enumerate(backbone.stages):
        for j, block in enumerate(stage.blocks):
            block.register_forward_pre_hook(lambda module, args, where=(i, j): seen.__setitem__(
                where, (module.attn.w_msa, module.norm1(args[0]))))
    with pytest.warns(UserWarning, match='SwinPosDataPreprocessor') if padding == 'mask' else nullcontext():
        blocks = record_attention(backbone, IMAGE)
    masked = 0
    for block in blocks:
        layer, x = seen[block.stage, block.block]
        windows = window_partition(layer.qkv(x).flatten(0, 1), block.plan, pad_value=layer.qkv.bias)
        query, key, _ = windows.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        logits = logits + bias_of_window(layer.relative_position_bias_table, (3, 5))
        start = 0
        for group in block.plan.groups:
            if group.region is not None:
                masked += 1
                logits[start:start + group.count] += group.mask(torch.float32)
            start += group.count
        torch.testing.assert_close(block.weights, logits.softmax(-1), rtol=1e-5, atol=1e-6)
    assert masked >= 2, 'windows with and without a mask'


def test_recording_changes_nothing(backbone):
    with torch.no_grad():
        before = backbone.eval()(IMAGE)
        record_attention(backbone, IMAGE)
        after = backbone(IMAGE)
    assert all(torch.equal(one, other) for one, other in zip(before, after))
    assert not any(module._forward_pre_hooks for module in backbone.modules()), 'no hook is left behind'


def test_mean_distance_is_that_of_all_pairs(blocks):
    for block in blocks:
        heads = block.weights.shape[1]
        total, given = {}, {}
        for (window, query, key), from_token, to_token in pairs_of(block):
            distance = math.dist(place(from_token, block.size), place(to_token, block.size)) * block.stride[0]
            weight = block.weights[window, :, query, key]
            total[from_token] = total.get(from_token, 0) + weight * distance
            given[from_token] = given.get(from_token, 0) + weight
        assert len(total) == block.size[0] * block.size[1]
        want = sum(total[token] / given[token] for token in total) / len(total)
        assert want.shape == (heads, )
        torch.testing.assert_close(attention_distance(block), want, rtol=1e-4, atol=1e-4)


def test_uniform_distance():
    backbone = make_backbone(window_size=2, depths=(2, ), num_heads=(1, ), strides=(4, ), out_indices=(0, ))
    plain, shifted = record_attention(backbone, torch.randn(1, 3, 16, 16))
    assert float(uniform_distance(plain)) == pytest.approx(4 * (0 + 1 + 1 + math.sqrt(2)) / 4)
    # After the shift by one: 1 whole window, 4 halves of windows with 2 tokens each, twice, and 4 corners alone.
    want = 4 * (4 * (2 + math.sqrt(2)) / 4 + 8 * 0.5 + 4 * 0) / 16
    assert float(uniform_distance(shifted)) == pytest.approx(want)


def full_matrix(block, head=None):
    """Return (L, L) attention of a block between all tokens of the map."""
    length = block.size[0] * block.size[1]
    matrix = torch.zeros(length, length)
    for (window, query, key), from_token, to_token in pairs_of(block):
        weights = block.weights[window, :, query, key]
        matrix[from_token, to_token] = weights.mean() if head is None else weights[head]
    return matrix


@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('head', [None, 1])
def test_rollout_is_the_product_of_matrices(blocks, residual, head):
    pair = blocks[2:4]
    first, second = (full_matrix(block, head) for block in pair)
    if residual:
        first, second = ((matrix + torch.eye(len(matrix))) / 2 for matrix in (first, second))
    for token in (0, 5, 11):
        torch.testing.assert_close(attended_from(pair, token, residual, head).flatten(), (second @ first)[token])


def test_attention_sums_to_one_where_padding_is_hidden():
    backbone = make_backbone(padding='mask')
    with pytest.warns(UserWarning, match='SwinPosDataPreprocessor'):
        blocks = record_attention(backbone, IMAGE)
    for token in (0, 13, 47):
        assert float(attended_from(blocks[:2], token).sum()) == pytest.approx(1, abs=1e-5)


def test_visible_tokens_are_those_that_get_attention(blocks):
    for block in blocks:
        matrix = full_matrix(block)
        for token in range(len(matrix)):
            assert torch.equal(visible_from(block, token).flatten(), matrix[token] > 1e-30)


def test_mistakes(backbone, blocks):
    with pytest.raises(ValueError, match=r'one image, \(1, C, H, W\), got \(2, 3, 8, 8\)'):
        record_attention(backbone, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match='all of one stage'):
        attended_from(blocks[1:3], 0)
    with pytest.raises(ValueError, match='6 x 8 tokens has numbers 0 to 47, got 48'):
        attended_from(blocks[:2], 48)
