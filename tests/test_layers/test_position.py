"""Every position scheme against the slow reference, and the registry."""
from __future__ import annotations

import copy
import inspect
import math
import pickle
from dataclasses import dataclass
from typing import Any, Optional

import pytest
import torch
from torch import Tensor

from swin_pos_det.layers import (
    POSITIONS,
    PositionScheme,
    WindowAttention,
    build_position,
    register_position,
    window_plan,
    without_weight_decay,
)
from swin_pos_det.ops.position_bias import _cached_index
from tests.dtypes import LOW

SCHEMES = ['none', 'relative', 'relative_only', 'linear_cpb', 'log_cpb', 'rope_axial', 'rope_mixed',
           'relative+rope_mixed']


def randomised(**settings: Any) -> WindowAttention:
    """Return an attention module whose position parameters matter."""
    attention = WindowAttention(16, 2, **settings)
    for name, parameter in attention.named_parameters():
        if not name.startswith(('qkv.weight', 'proj.weight', 'rope')):
            torch.nn.init.normal_(parameter, std=.5)
    return attention


@pytest.mark.parametrize('scheme', ['rope_axial', 'rope_mixed'])
def test_rotations_tell_offsets_alone(scheme):
    """The logit of two tokens is that of two others as far apart."""
    attention = WindowAttention(16, 2, None, position=scheme)
    q, k = torch.randn(2, 16)[:, None, :].unflatten(2, (2, 8)).transpose(1, 2).expand(-1, -1, 35, -1).unsqueeze(1)
    q, k = attention.position.rotate(attention, q, k, (5, 7))
    logits = (q @ k.transpose(2, 3))[0].view(2, 5, 7, 5, 7)
    torch.testing.assert_close(logits[:, 1:, 2:, 1:, 2:], logits[:, :-1, :-2, :-1, :-2], rtol=0, atol=1e-5)
    assert (logits[:, 0, 0] - logits[:, 0, 0, 0, 0].view(2, 1, 1)).abs().max() > 0.1
    if scheme == 'rope_axial':
        up_or_left = [logits[:, 1, 1, row, col] for row, col in ((0, 1), (1, 0))]
        assert (up_or_left[0] - up_or_left[1]).abs().max() > 1e-3, 'axes are distinguished'


def test_log_coordinates():
    log, linear = build_position('log_cpb'), build_position('linear_cpb')
    like = torch.zeros(())
    torch.testing.assert_close(linear.coordinates(3, 3, like), torch.tensor([-1., -.5, 0., .5, 1.]))
    want = [math.log2(9) / 3, math.log2(5) / 3]
    torch.testing.assert_close(log.coordinates(3, 3, like), torch.tensor([-want[0], -want[1], 0., want[1], want[0]]))
    # The ranges that Swin V2's section 3.3 compares, for windows from 8 to 16.
    assert linear.coordinates(16, 8, like)[-1] == pytest.approx(15 / 7)
    assert log.coordinates(16, 8, like)[-1] / log.coordinates(8, 8, like)[-1] < 1.35
    assert log.coordinates(1, 1, like).tolist() == [0.]


@pytest.mark.parametrize('scheme', ['linear_cpb', 'log_cpb'])
def test_a_larger_window_continues_the_same_function(scheme):
    attention = randomised(table_window_size=(4, 4), position=scheme)
    small, large = attention.position_bias((3, 4)), attention.position_bias((8, 6))
    assert small.shape == (2, 12, 12) and small.min() > 0 and small.max() < 16
    inside = large.view(2, 8, 6, 8, 6)[:, :3, :4, :3, :4].reshape(2, 12, 12)
    torch.testing.assert_close(inside, small, rtol=0, atol=1e-5)


def test_the_pretrained_window_of_a_scheme_is_the_modules():
    plain = randomised(table_window_size=(4, 6), position='log_cpb')
    own = WindowAttention(16, 2, (9, 9), position=dict(type='log_cpb', pretrained_window_size=(4, 6)))
    own.load_state_dict(plain.state_dict())
    assert own.table_window_size == (4, 6)
    assert torch.equal(own.position_bias((5, 5)), plain.position_bias((5, 5)))
    assert WindowAttention(16, 2, (9, 9), position=dict(type='log_cpb', pretrained_window_size=0)
                           ).table_window_size == (9, 9)


def test_parameters_have_the_original_names():
    own = {'qkv.weight', 'qkv.bias', 'proj.weight', 'proj.bias'}
    for scheme, names in {
            'none': set(), 'absolute': set(), 'rope_axial': set(), 'peg': set(),
            'relative': {'relative_position_bias_table'}, 'relative_only': {'relative_position_bias_table'},
            'log_cpb': {'cpb_mlp.0.weight', 'cpb_mlp.0.bias', 'cpb_mlp.2.weight'}, 'rope_mixed': {'rope_freqs'}
    }.items():
        attention = WindowAttention(16, 2, (3, 3), position=scheme)
        assert set(dict(attention.named_parameters())) - own == names == set(attention.state_dict()) - own
    second = WindowAttention(16, 2, (3, 3), position='log_cpb', attention='cosine', key_bias=False)
    assert {name: tuple(p.shape) for name, p in second.named_parameters()} == {
        'logit_scale': (2, 1, 1), 'q_bias': (16, ), 'v_bias': (16, ), 'cpb_mlp.0.weight': (512, 2),
        'cpb_mlp.0.bias': (512, ), 'cpb_mlp.2.weight': (2, 512), 'qkv.weight': (48, 16), 'proj.weight': (16, 16),
        'proj.bias': (16, )}
    assert set(without_weight_decay()) >= {'relative_position_bias_table', 'absolute_pos_embed', 'cpb_mlp',
                                           'logit_scale', 'rope_freqs'}
    assert 'peg' not in without_weight_decay()


def test_mixed_frequencies_start_as_axial_ones_turned():
    attention = WindowAttention(16, 2, None, position='rope_mixed')
    want = [10**(-t / 2) for t in range(2)]
    length = attention.rope_freqs.detach().norm(dim=0)  # of the vector (f_x, f_y)
    torch.testing.assert_close(length, torch.tensor([want + want] * 2))
    first, second = attention.rope_freqs.detach().view(2, 2, 2, 2).unbind(2)  # the two axes
    torch.testing.assert_close((first * second).sum(0), torch.zeros(2, 2), rtol=0, atol=1e-6)
    assert not torch.allclose(attention.rope_freqs[:, 0], attention.rope_freqs[:, 1]), 'heads differ'


@pytest.mark.parametrize('scheme', SCHEMES)
def test_double_precision_copies_and_pickles(scheme):
    attention = randomised(table_window_size=(3, 3), position=scheme).double()
    x, plan = torch.randn(1, 35, 16, dtype=torch.float64), window_plan(1, (5, 7), (4, 4), (2, 2), torch.device('cpu'))
    want = attention(x, plan)
    assert want.dtype == torch.float64
    for clone in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):
        assert torch.equal(clone(x, plan), want) and clone.position == attention.position
    moved = x + 1e-12 * torch.randn_like(x)  # a detour through float32 would swallow it
    assert 0 < (attention(moved, plan) - want).abs().max() < 1e-9


# AMP

@pytest.mark.parametrize('dtype', LOW)
@pytest.mark.parametrize('scheme', SCHEMES)
def test_close_under_autocast(scheme, dtype):
    attention = WindowAttention(16, 2, (3, 3), position=scheme)
    x, plan = torch.randn(2, 35, 16), window_plan(2, (5, 7), (4, 4), (2, 2), torch.device('cpu'))
    want = attention(x, plan)
    with torch.autocast('cpu', dtype=dtype):
        got = attention(x, plan)
    got.float().square().sum().backward()
    assert (got.float() - want).abs().mean() < 0.02 * want.abs().mean()
    assert all(p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.parametrize('dtype', LOW)
def test_cosine_attention_is_finite_where_half_precision_overflows(dtype):
    """Long queries and keys, keys of zero (hidden or padded tokens have them without a key bias), a huge scale."""
    attention = WindowAttention(16, 2, (3, 3), position='log_cpb', attention='cosine', key_bias=False)
    with torch.no_grad():
        attention.qkv.weight[:32].normal_(std=300.)
        attention.logit_scale.fill_(50.)  # e^50, where logits may be 100 at most
        attention.cpb_mlp[2].weight.mul_(1e4)
    x = torch.randn(2, 35, 16)
    x[0, :9] = 0
    plan = window_plan(2, (5, 7), (4, 4), (2, 2), x.device)

    # The same in half precision throughout: what diverges.
    q, k = torch.nn.functional.linear(x, attention.qkv.weight[:32]).to(dtype).chunk(2, dim=-1)
    naive = torch.nn.functional.normalize(k, dim=-1)
    if dtype == torch.float16:
        assert (q @ k.transpose(1, 2)).isinf().any() and naive.isnan().any()
        assert attention.logit_scale.to(dtype).exp().isinf().any()

    with torch.autocast('cpu', dtype=dtype):
        out = attention(x, plan)
        loss = out.float().square().sum()
    loss.backward()
    assert out.isfinite().all()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert (attention.logit_scale.grad == 0).all(), 'clamped'
    torch.testing.assert_close(out.float(), attention(x, plan), rtol=0, atol=0.1)


def test_the_clamp_is_at_100():
    attention = WindowAttention(16, 2, None, position='none', attention='cosine')
    q, k = torch.randn(2, 3, 4, 2, 8)
    for value, want in ((math.log(10), 10.), (0., 1.), (math.log(99), 99.), (7., 100.)):
        torch.nn.init.constant_(attention.logit_scale, value)
        long, unit = attention._directions(q, k)
        torch.testing.assert_close(long.norm(dim=-1), torch.full((3, 4, 2), want))
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(3, 4, 2))


# Graphs

class _OnAMap(torch.nn.Module):
    """Attention in windows of 4 over maps (B, 16, H, W) of any size."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.attention = randomised(table_window_size=(3, 3), **settings)

    def forward(self, maps: Tensor) -> Tensor:
        size = tuple(maps.shape[2:])
        plan = window_plan(maps.shape[0], size, (4, 4), (2, 2), maps.device)
        return self.attention(maps.flatten(2).transpose(1, 2), plan).transpose(1, 2).unflatten(2, size)


TRACED = {'log_cpb': dict(attention='cosine', key_bias=False), 'relative+rope_mixed': {}, 'rope_axial+linear_cpb': {}}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(getattr(torch.export, 'Dim', None), 'DYNAMIC'), reason='needs torch 2.6')
@pytest.mark.parametrize('scheme', TRACED)
def test_one_graph_serves_every_size(scheme):
    """Exported, and compiled without breaks, with the map's height and width as symbols."""
    torch._dynamo.reset()
    _cached_index.cache_clear()  # tracing must not leave stand-ins for tensors in it
    model = _OnAMap(position=scheme, **TRACED[scheme]).eval()
    maps = [torch.randn(2, 16, 9, 11), torch.randn(2, 16, 14, 7)]
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        exported = torch.export.export(model, (maps[0], ), dynamic_shapes=(any_size, ), strict=False).module()
        compiled = torch.compile(model, backend='eager', fullgraph=True, dynamic=True)
        for run in (exported, compiled):
            for each in maps:
                torch.testing.assert_close(run(each), model(each), rtol=0, atol=1e-5)


@pytest.mark.parametrize('scheme', ['log_cpb', 'relative+rope_mixed'])
def test_onnx_computes_the_same(scheme, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    model = _OnAMap(position=scheme, **TRACED[scheme]).eval()
    maps = torch.randn(2, 16, 9, 11)
    with torch.no_grad():
        torch.onnx.export(model, (maps, ), str(tmp_path / 'attention.onnx'), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(tmp_path / 'attention.onnx'))
        got, = session.run(None, {session.get_inputs()[0].name: maps.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), model(maps), rtol=0, atol=1e-5)


# The registry

def test_a_scheme_of_ones_own():
    """The example in PositionScheme's docstring does what it says."""
    code = inspect.cleandoc(PositionScheme.__doc__).split('.. code-block:: python\n')[1].split('and set')[0]
    assert len(code.strip().splitlines()) <= 30
    scope = dict(register_position=register_position, dataclass=dataclass, PositionScheme=PositionScheme, torch=torch,
                 nn=torch.nn)
    from swin_pos_det.layers import gather_bias
    scope['gather_bias'] = gather_bias
    try:
        exec(inspect.cleandoc(code), scope)
        attention = WindowAttention(16, 2, None, position=dict(type='distance', start=0.2))
        bias = attention.position_bias((2, 3))
        torch.testing.assert_close(bias[1, 0], -0.2 * torch.tensor([0, 1, 2, 1, 2**.5, 5**.5]))
        bias.sum().backward()
        assert (attention.slope.grad < 0).all() and 'slope' in without_weight_decay()
        assert 'distance' in POSITIONS and build_position('distance+rope_axial').parameters == ('slope', )
        with pytest.raises(ValueError, match="'distance' takes|position 'distance' takes start, got end"):
            build_position(dict(type='distance', end=1))
    finally:
        POSITIONS.pop('distance', None)


class _Stranger(PositionScheme):
    pass


@pytest.mark.parametrize(('act', 'error', 'message'), [
    (lambda: build_position('rotary'), ValueError, r"must be one of \['absolute', .*'rope_mixed'\], .* got 'rotary'"),
    (lambda: build_position('relative+rotary'), ValueError, "got 'rotary'"),
    (lambda: build_position(dict(type='rope_axial', base=3)), ValueError, "'rope_axial' takes theta, got base"),
    (lambda: build_position(dict(type='none', x=3)), ValueError, "'none' takes no settings, got x"),
    (lambda: build_position(dict(theta=3)), TypeError, "position takes a name such as 'relative'"),
    (lambda: build_position(3), TypeError, 'got 3'),
    (lambda: build_position([]), TypeError, r'got \[\]'),
    (lambda: build_position(dict(type='rope_axial', theta=1)), ValueError, 'theta, .* got 1'),
    (lambda: build_position(dict(type='log_cpb', pretrained_window_size=-7)), ValueError, 'got -7'),
    (lambda: build_position(dict(type='log_cpb', pretrained_window_size=[8, 8, 8, 4])), ValueError, 'one per stage'),
    (lambda: build_position('relative+relative_only'), ValueError, 'relative and relative_only do not combine'),
    (lambda: build_position('log_cpb+linear_cpb'), ValueError, 'would share parameters'),
    (lambda: build_position('rope_axial+rope_axial'), ValueError, 'do not combine'),
    (lambda: build_position('relative_only+rope_axial'), ValueError, "'rope_axial' acts on queries and keys"),
    (lambda: WindowAttention(12, 2, None, position='rope_axial'), ValueError, 'multiple of 4 channels, got 6'),
    (lambda: WindowAttention(16, 2, (3, 3), attention='sine'), ValueError, "attention must be one of .* got 'sine'"),
    (lambda: WindowAttention(16, 2, (3, 3), attention='cosine', qk_scale=.3), ValueError, 'remove qk_scale=0.3'),
    (lambda: WindowAttention(16, 2, (3, 3), attention='cosine', position='relative_only'), ValueError,
     'leaves out the appearance term'),
    (lambda: register_position('relative')(_Stranger), ValueError, 'it is the name of Relative'),
    (lambda: register_position('a+b')(_Stranger), ValueError, 'joins schemes'),
    (lambda: register_position('a')(int), TypeError, 'subclass of PositionScheme'),
])
def test_impossible_settings_are_named(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_forms_of_the_setting():
    both = build_position([dict(type='relative'), dict(type='rope_mixed', theta=20.)])
    assert both.name == 'relative+rope_mixed' and both.schemes[1].theta == 20
    assert both.uses == ('table_window_size', 'resampling')
    assert build_position('absolute+relative').absolute and not build_position('relative').absolute
    assert build_position(both) is both and build_position('log_cpb') == build_position(dict(type='log_cpb'))
    scheme: Optional[PositionScheme] = build_position('peg')
    assert scheme.conditional and scheme.bias(torch.nn.Module(), (2, 2)) is None
