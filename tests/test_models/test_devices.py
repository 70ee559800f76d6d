"""Requirements of a GPU on the code, tested without one: on the meta device, and on fake CUDA tensors.

Neither has data, so whatever would make the host wait for a GPU raises: ``.item()``, ``nonzero``, or a condition on a
tensor. The fake tensors take the code's CUDA branches, but backward passes on them need a driver: so backward runs on
the meta device.
"""
from __future__ import annotations

import copy
from collections import Counter
from contextlib import contextmanager, nullcontext
from typing import Any, Iterator, List, Set, Tuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

from swin_pos_det.layers import relative_bias
from swin_pos_det.models import SwinPosTransformer
from swin_pos_det.models.data_preprocessor import attach_valid_sizes
from swin_pos_det.ops import position_bias, runtime, windows
from tests.fake_cuda import CUDA, fake_cuda, fake_model, mode_of, without_device_guards
from tests.models import MICRO, randomise

SETTINGS = [
    dict(), dict(window_size=12, table_window_size=7), dict(window_size=[(7, 14), 'global', 7], table_window_size=7),
    dict(window_policy='fit'), dict(with_cp=True), dict(use_abs_pos_embed=True, pretrain_img_size=64),
    dict(window_size=12, table_window_size=7, resampling='geometric'), dict(position='log_cpb', attention='cosine'),
    dict(position='rope_mixed+relative')]


@pytest.fixture(autouse=True)
def _own_plans() -> Iterator[None]:
    # Each test finds out for itself what is made, and where.
    caches = [value for module in (windows, position_bias, relative_bias) for value in vars(module).values()
              if hasattr(value, 'cache_clear')]
    assert len(caches) >= 3
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def _checkpoints_on_meta() -> bool:
    x = torch.ones(2, device='meta', requires_grad=True)
    try:
        with Devices() as devices:
            checkpoint(torch.exp, x, use_reentrant=False).sum().backward()
    except AttributeError:  # torch 2.1 looks for torch.meta
        return False
    return devices.seen == {x.device}


# Operators that make the host wait for a GPU.
WAITING = {'_local_scalar_dense', 'item', 'is_nonzero', 'nonzero', 'masked_select', 'equal', 'unique_dim', '_unique2',
           'repeat_interleave', 'bincount', '_to_cpu'}


class Devices(TorchDispatchMode):
    """Notes the devices of all tensors that operators take and give, and the operators' names."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Set[torch.device] = set()
        self.names: Set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        self.seen.update(leaf.device for leaf in tree_flatten((args, kwargs, out))[0] if isinstance(leaf, Tensor))
        return out


class FromTheHost(TorchFunctionMode):
    """Notes what makes tensors of Python's numbers; on a GPU the host would wait until they are there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: List[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy):
            self.seen.append((func, args))
        return func(*args, **(kwargs or {}))


class Masks(TorchFunctionMode):
    """Notes queries and additive masks of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: List[tuple] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen.append((args[0], kwargs['attn_mask']))
        return func(*args, **kwargs)


POLICIES = [
    dict(padding='mask'), dict(padding='mask', window_policy='fit'), dict(window_policy='scale', reference_size=64),
    dict(padding='mask', window_size='global', table_window_size=7), dict(position='peg', padding='mask'),
    dict(position='linear_cpb', attention='cosine', norm_order='res-post', key_bias=False, padding='mask')]


@fake_cuda
@pytest.mark.parametrize('valid', [None, [(61, 90), (50, 40)]], ids=['whole', 'padded'])
@pytest.mark.parametrize('settings', [*SETTINGS, *POLICIES], ids=str)
def test_a_forward_on_cuda_stays_there_and_never_waits(settings, valid):
    """From the first forward on, which makes the plans."""
    model = fake_model(**settings)
    with without_device_guards(), mode_of(model), torch.no_grad():
        images = torch.empty(2, 3, 61, 90, device=CUDA)
        if valid:
            attach_valid_sizes(images, valid)
        if settings.get('resampling') == 'geometric':
            model(images)  # its matrices are worked out on the CPU, once
        with Devices() as devices, FromTheHost() as host:
            outs = model(images)
    assert devices.seen == {CUDA} == {out.device for out in outs}
    assert not host.seen
    assert not devices.names & WAITING


@pytest.mark.parametrize(('settings', 'valid'), [
    *((settings, None) for settings in SETTINGS), (dict(padding='mask'), None),
    (dict(padding='mask'), [(61, 90), (50, 40)])], ids=str)
def test_forward_and_backward_need_no_data_and_no_other_device(settings, valid):
    model = SwinPosTransformer(**dict(MICRO, **settings)).to('meta')
    images = torch.empty(2, 3, 61, 90, device='meta')
    if valid:
        attach_valid_sizes(images, valid)
    if 'resampling' in settings:
        model(images)  # its matrices are worked out on the CPU, once
    if settings.get('with_cp') and not _checkpoints_on_meta():
        pytest.skip("this torch's own checkpointing needs a device with data")
    with Devices() as devices, FromTheHost() as host:
        sum(out.sum() for out in model(images)).backward()
    assert devices.seen == {torch.device('meta')}
    assert not host.seen
    assert all(p.grad.device.type == 'meta' and p.grad.shape == p.shape for p in model.parameters())


def test_what_would_make_the_host_wait_raises():
    """The guard of this file itself."""
    tensor = torch.ones(3, device='meta')
    for wait in (lambda: tensor.sum().item(), tensor.nonzero, lambda: bool(tensor.any()), lambda: tensor[tensor > 0]):
        with pytest.raises((RuntimeError, NotImplementedError), match='(?i)meta|data'):
            wait()
    with Devices() as devices:
        tensor + torch.ones((), device='cpu')
    assert {device.type for device in devices.seen} == {'meta', 'cpu'}


@fake_cuda
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('window', [7, 12])
def test_the_bias_is_aligned_for_the_memory_efficient_kernels(window, dtype):
    """They read rows of 16 bytes: each row of the (N, N) bias must start at a multiple of that."""
    model = fake_model(dtype, window_size=window)
    with without_device_guards(), mode_of(model), torch.no_grad(), Masks() as masks:
        model(torch.empty(1, 3, 120, 200, device=CUDA, dtype=dtype))
    assert masks.seen
    for query, mask in masks.seen:
        assert mask.dtype == query.dtype == dtype and mask.device == query.device == CUDA
        assert mask.stride(-1) == 1
        assert all(stride * mask.element_size() % 16 == 0 for stride in mask.stride()[:-1])
        assert mask.shape[-2:] == (window**2, window**2)


@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_a_real_forward_finds_nothing_of_a_fake_one(settings):
    model = SwinPosTransformer(**dict(MICRO, **settings)).eval()
    image = torch.randn(1, 3, 221, 221)
    for gradients in (True, False):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.set_grad_enabled(gradients):
            assert all(isinstance(out, FakeTensor) for out in model(mode.from_tensor(image)))
        assert not any(isinstance(out, FakeTensor) for out in model(image))


def test_caches_follow_the_model():
    model = SwinPosTransformer(**MICRO).eval()
    randomise(model)
    image = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        first = model(image)
        meta = copy.deepcopy(model).to('meta')
        assert {out.device.type for out in meta(image.to('meta'))} == {'meta'}
        assert all(torch.equal(a, b) for a, b in zip(model(image), first)), 'plans of another device are not used'
        double = model.double()(image.double())
        assert all(out.dtype == torch.float64 for out in double)
        for got, want in zip(double, first):
            torch.testing.assert_close(got.float(), want, rtol=0, atol=1e-4)
        model.to_empty(device='meta')
        assert {out.device.type for out in model(image.to('meta').double())} == {'meta'}


class Attention(TorchFunctionMode):
    """Takes attention as one operator: on fake tensors torch would write it out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class Kernels(TorchDispatchMode):
    """Counts the operators that launch a kernel, by name."""

    VIEWS = {'view', '_unsafe_view', 'transpose', 't', 'permute', 'expand', 'slice', 'unsqueeze', 'select', 'split',
             'split_with_sizes', 'unbind', 'detach', 'alias', 'device', 'empty', 'empty_like', 'new_empty'}

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += name not in self.VIEWS
        return func(*args, **(kwargs or {}))


@contextmanager
def autocast_on_fake_cuda(dtype: torch.dtype) -> Iterator[None]:
    """Enter autocast, which torch.autocast refuses without a GPU."""
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', dtype)
    try:
        with runtime.without_autocast_cache():
            yield
    finally:
        torch.set_autocast_enabled('cuda', False)


def kernels(dtype: torch.dtype, autocast: bool, size: Tuple[int, int] = (61, 90), **settings: Any) -> Counter[str]:
    """Count the kernels of a forward on CUDA after the first, in half precision by autocast or by half weights."""
    model = fake_model(torch.float32 if autocast else dtype, **settings).eval()
    images = torch.float32 if autocast else dtype
    with without_device_guards(), mode_of(model), torch.no_grad(), Attention():
        images = torch.empty(2, 3, *size, device=CUDA, dtype=images)
        with autocast_on_fake_cuda(dtype) if autocast else nullcontext():
            model(images)
            with Kernels() as seen:
                model(images)
    return seen.counts


@fake_cuda
@pytest.mark.parametrize(('settings', 'share'), [
    (dict(), 0.), (dict(attention='cosine', norm_order='res-post'), 0.6)], ids=['V1', 'V2'])
def test_half_weights_need_few_of_autocasts_casts(settings, share):
    """None in Swin; in Swin V2 the lengths of queries and keys are computed in float32."""
    autocast, half = (kernels(torch.float16, by_autocast, **settings) for by_autocast in (True, False))
    assert half['_to_copy'] <= share * autocast['_to_copy']
    assert autocast['_to_copy'] > 80
    assert half.total() - half['_to_copy'] == autocast.total() - autocast['_to_copy']
