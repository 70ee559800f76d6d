"""Which window a map gets."""
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swin_pos_det.layers import WindowRule, image_scale
from swin_pos_det.layers.window_policy import fit_window, scale_window


@pytest.mark.parametrize(('length', 'nominal', 'want'), [
    (25, 7, 7),    # 6 -> 30, 7 -> 28, 8 -> 32
    (24, 7, 8),    # 6 and 8 pad nothing: the larger
    (30, 7, 6),
    (8, 7, 8),     # one window
    (5, 7, 5),     # a map smaller than the window
    (1, 7, 1),
    (9, 7, 6),     # 12 tokens instead of 14
    (200, 7, 8),   # 1333 x 800 images: stage 1
    (50, 12, 10),
    (17, 1, 1),
    (84, 7, 7),
])
def test_fit_examples(length, nominal, want):
    assert fit_window(length, nominal) == want


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 400), st.integers(1, 32))
def test_fit_never_pads_more_than_fixed_and_stays_near(length, nominal):
    side = fit_window(length, nominal)
    assert -(-length // side) * side <= -(-length // nominal) * nominal
    if side != length:
        assert 0.75 * nominal <= side <= 1.25 * nominal
    else:
        assert side <= 1.25 * nominal


@pytest.mark.parametrize(('nominal', 'scale', 'want'), [(7, 1., 7), (7, 2., 14), (7, .5, 4), (7, .1, 4), (7, 9., 14),
                                                        (7, 1.0075, 7), (1, .5, 1), (12, 1.5, 18)])
def test_scale_examples(nominal, scale, want):
    assert scale_window(nominal, scale) == want


@pytest.mark.parametrize(('image', 'scale'), [
    ((800, 1333), 1.), ((800, 1066), 1.), ((1333, 800), 1.), ((416, 1333), 1.), ((400, 533), .5), ((1600, 2666), 2.)])
def test_scale_is_what_a_keep_ratio_resize_did(image, scale):
    assert image_scale(image, (1333, 800)) == pytest.approx(scale)


def test_shift_follows_the_window():
    fixed, fit = WindowRule((7, 7)), WindowRule((7, 7), 'fit')
    assert fixed.window((5, 40), 2.) == (7, 7)
    assert fixed.shift((5, 40), (7, 7)) == (3, 3), 'mmdet shifts a single window too'
    assert fit.window((5, 40)) == (5, 8)
    assert fit.shift((5, 40), (5, 8)) == (0, 4), 'one window has no neighbour to meet'


def test_scale_keeps_within_the_map():
    rule = WindowRule((7, 7), 'scale')
    assert rule.window((10, 40), 2.) == (10, 14)
    assert rule.shift((10, 40), (10, 14)) == (0, 7)


@pytest.mark.parametrize('policy', ['fixed', 'fit', 'scale'])
def test_global_is_one_unshifted_window(policy):
    rule = WindowRule('global', policy)
    assert rule.window((13, 9), 2.) == (13, 9)
    assert rule.shift((13, 9), (13, 9)) == (0, 0)
