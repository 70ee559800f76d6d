"""What is drawn is the layer's own bias, and the pictures are there and not empty."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from swin_pos_det.analysis.position.attention_maps import (
    attention_distance,
    measure_distances,
    record_attention,
    uniform_distance,
)
from swin_pos_det.analysis.position.attention_plots import block_pairs, plot_attention, plot_attention_distance
from swin_pos_det.analysis.position.bias_plots import (
    bias_grid,
    plot_absolute,
    plot_bias,
    plot_bias_at_windows,
    resampled_grid,
    rotation_grid,
)
from swin_pos_det.layers import WindowAttention
from swin_pos_det.models import SwinPosTransformer


def make_layer(window=(3, 4), position='relative', **settings):
    layer = WindowAttention(16, 2, window, position=position, **settings)
    if position == 'relative':
        layer.relative_position_bias_table.data.normal_(generator=torch.Generator().manual_seed(0))
    return layer


def check_picture(path, wider_than=200):
    picture = np.asarray(Image.open(path).convert('L'), dtype=float)
    assert picture.shape[1] > wider_than and picture.std() > 5 and picture.max() == 255
    return picture


@pytest.mark.parametrize('window', [(3, 4), (5, 2)])
@pytest.mark.parametrize('position', ['relative', 'log_cpb', 'relative+linear_cpb'])
def test_grid_is_the_bias_of_each_pair(window, position):
    if position == 'relative+linear_cpb':
        position = ['relative', 'linear_cpb']
    layer = make_layer(position=position)
    grid, bias = bias_grid(layer, window), layer.position_bias(window)
    assert grid.shape == (2, 2 * window[0] - 1, 2 * window[1] - 1)
    tokens = [(row, col) for row in range(window[0]) for col in range(window[1])]
    for q, (query_row, query_col) in enumerate(tokens):
        for k, (key_row, key_col) in enumerate(tokens):
            shown = grid[:, window[0] - 1 + key_row - query_row, window[1] - 1 + key_col - query_col]
            assert torch.equal(shown, bias[:, q, k])


@pytest.mark.parametrize('mode', ['bicubic', 'geometric', 'bilinear', 'nearest'])
def test_resampled_grid_is_what_the_layer_does(mode):
    layer = make_layer(resampling=mode)
    got = resampled_grid(bias_grid(layer, (3, 4)), (3, 4), (6, 5), mode)
    torch.testing.assert_close(got, bias_grid(layer, (6, 5)))


def test_rotation_is_the_mean_cosine_of_its_angles():
    layer = make_layer(position='rope_axial')
    grid = rotation_grid(layer, (3, 4))
    frequencies = [100**(-t / 2) for t in range(2)]  # 8 channels of a head: 2 pairs for each axis
    for down in range(-2, 3):
        for right in range(-3, 4):
            want = np.mean([np.cos(f * right) for f in frequencies] + [np.cos(f * down) for f in frequencies])
            assert grid[:, 2 + down, 3 + right].tolist() == pytest.approx([want] * 2, abs=1e-5)


def test_schemes_without_a_bias_or_a_rotation():
    assert bias_grid(make_layer(position='none'), (3, 4)) is None
    assert bias_grid(make_layer(position='rope_mixed'), (3, 4)) is None
    assert all(rotation_grid(make_layer(position=name), (3, 4)) is None for name in ('none', 'relative',
                                                                                     'relative_only'))


@pytest.fixture(scope='module')
def blocks():
    torch.manual_seed(0)
    backbone = SwinPosTransformer(embed_dims=16, depths=(3, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1),
                                  window_size=4)
    return [record_attention(backbone, torch.randn(1, 3, *size)) for size in ((40, 60), (32, 32))]


def test_distances_are_averaged_over_images(blocks):
    got = measure_distances(iter(blocks))
    assert [(block.stage, block.block) for block in got] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    one, two = (image[3] for image in blocks)
    torch.testing.assert_close(got[3].heads, (attention_distance(one) + attention_distance(two)) / 2)
    assert got[3].uniform == pytest.approx(float(uniform_distance(one) + uniform_distance(two)) / 2)


def test_pairs_are_the_last_plain_and_shifted_blocks(blocks):
    assert [[(b.stage, b.block) for b in pair] for pair in block_pairs(blocks[0])] == [[(0, 0), (0, 1)], [(1, 0)]]


def test_pictures_of_biases(tmp_path):
    layer = make_layer((7, 7))
    grid = bias_grid(layer, (7, 7))
    plot_bias([('few', grid[:1]), ('more', grid)], tmp_path / 'new/bias.png', 'title', max_heads=2)
    check_picture(tmp_path / 'new/bias.png')
    named = {'learned': grid, 'bicubic': resampled_grid(grid, (7, 7), (12, 12), 'bicubic')}
    plot_bias_at_windows([('layer', named)] * 2, tmp_path / 'windows.png', 'title')
    one, two = (check_picture(tmp_path / name) for name in ('new/bias.png', 'windows.png'))
    assert one.shape != two.shape


def test_places_far_apart_differ_in_the_picture_of_an_embedding(tmp_path):
    ramp = torch.linspace(0, 3, 12)
    embedding = torch.stack([ramp.cos(), ramp.sin()], -1)[None]
    plot_absolute(embedding, (3, 4), tmp_path / 'absolute.png', 'title', side=2)
    colours = np.asarray(Image.open(tmp_path / 'absolute.png').convert('RGB'), dtype=int)
    assert ((colours[..., 0] - colours[..., 2]) > 80).any() and ((colours[..., 2] - colours[..., 0]) > 80).any()


def test_colours_are_centred_on_zero(tmp_path):
    grid = torch.zeros(1, 5, 5)
    grid[0, 0, 0] = 1.
    plot_bias([('layer', grid)], tmp_path / 'bias.png')
    colours = np.asarray(Image.open(tmp_path / 'bias.png').convert('RGB')).reshape(-1, 3).astype(int)
    reds = (colours[:, 0] - colours[:, 2] > 80).mean()
    near_white = (colours.min(1) > 240).mean()
    assert 0.002 < reds < 0.2 and near_white > 0.5, 'zero is white although no entry is negative'


def test_pictures_of_attention(blocks, tmp_path):
    plot_attention_distance(measure_distances(blocks), tmp_path / 'distance.png', 'title')
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    plot_attention(image, blocks[0], (59.5, 39.5), tmp_path / 'corner.png')
    plot_attention(image, blocks[0], (10, 10), tmp_path / 'inside.png')
    check_picture(tmp_path / 'distance.png')
    one, two = (check_picture(tmp_path / name) for name in ('corner.png', 'inside.png'))
    assert one.shape != two.shape or np.abs(one - two).max() > 50, 'another point is another picture'


@pytest.mark.parametrize('point', [(60, 10), (-1, 10), (10, 40.)])
def test_a_point_outside_is_named(blocks, tmp_path, point):
    with pytest.raises(ValueError, match='is not in the image of 60 x 40 pixels'):
        plot_attention(np.zeros((40, 60, 3), np.uint8), blocks[0], point, tmp_path / 'a.png')
