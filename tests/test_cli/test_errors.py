"""Errors in a config are reported in one line; bugs are not."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from torch.optim import SGD

from swin_pos_det.cli.errors import closest, user_errors
from swin_pos_det.errors import UserError


@MODELS.register_module(force=True)
class Particular(nn.Module):
    """Refuses its settings in several ways, or has a bug."""

    def __init__(self, size: int = 1, how: str = '', *, kind: str = 'size') -> None:
        super().__init__()
        if how == 'value':
            raise ValueError(f'size must be 1, got {size}')
        if how == 'keyword':
            nn.Linear(1, 1, foo=1)
        if how == 'attribute':
            self.size = self.foo
        if how == 'key':
            dict(size=size)['color']
        if how == 'shape':
            torch.ones(2) + torch.ones(3)
        if how == 'package':
            import no_such_package  # noqa: F401
        if how == 'file':
            Path('no_such_file').read_bytes()
        self.size = dict(size=size)[kind] + 1


@MODELS.register_module(force=True)
class Demanding(Particular):
    """Needs two settings, and has the others of its base."""

    def __init__(self, depth: int, *, width: int, **kwargs: object) -> None:
        super().__init__(**kwargs)


def told(**settings):
    with pytest.raises(UserError) as error, user_errors():
        MODELS.build(settings)
    return str(error.value)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(type='Particula'), "there is no model called 'Particula' (did you mean 'Particular'?). If it is yours, the "
                             "config must import its module: custom_imports = dict(imports=['my_module'])"),
    (dict(type='XYZ'), "there is no model called 'XYZ'. If it is yours"),
    (dict(type='Particular', sise=2), "Particular has no setting 'sise' (did you mean 'size'?)"),
    (dict(type='SwinPosTransformer', window_sise=2), "SwinPosTransformer has no setting 'window_sise' (did you mean "
                                                     "'window_size'?)"),
    (dict(type='SwinPosTransformerV2', window_sise=2), "SwinPosTransformerV2 has no setting 'window_sise' (did you "
                                                       "mean 'window_size'?)"),
    (dict(type='Particular', size=2, how='value'), 'the settings of Particular are refused: size must be 1, got 2'),
    (dict(type='Particular', size='2'), 'the settings of Particular are refused: can only concatenate str'),
    (dict(type='Particular', kind='color'), "the settings of Particular are refused: KeyError: 'color'"),
    (dict(type='Particular', how='package'), "a package is missing: No module named 'no_such_package'"),
    (dict(type='Particular', how='file'), 'the settings of Particular are refused: [Errno 2] No such file'),
    (dict(type='Demanding', depth=1), "Demanding needs the setting 'width'"),
    (dict(type='Demanding', sise=1), "Demanding needs the setting 'depth', 'width'"),
    (dict(type='Demanding', depth=1, width=1, sise=1), "Demanding has no setting 'sise' (did you mean 'size'?)"),
    (dict(type='FPN', in_channels=3, out_channels=8, num_outs=4), 'the settings of FPN are refused: an assertion fails '
                                                                  'with in_channels=3, out_channels=8, num_outs=4'),
    (dict(size=1), 'a part of the config has no valid type: `cfg` or `default_args` must contain the key "type"'),
    (dict(type=3), 'a part of the config has no valid type: type must be a str or valid type, but got'),
])
def test_what_building_refuses(settings, message):
    found = told(**settings)
    assert found.startswith(message)
    assert found.endswith('(--traceback shows where)')


@pytest.mark.parametrize(('how', 'error'), [
    ('key', KeyError), ('keyword', TypeError), ('attribute', AttributeError), ('shape', RuntimeError)])
def test_bugs_of_a_part_that_is_built_pass(how, error):
    with pytest.raises(error, match='color|foo|size of tensor'), user_errors():
        MODELS.build(dict(type='Particular', how=how))


def test_bugs_of_this_package_pass(monkeypatch):
    """The package raises its own classes for errors that a user can fix."""
    own = {'__name__': 'swin_pos_det.models.part'}
    exec('def part(size): assert size == 1', own)
    monkeypatch.setitem(MODELS.module_dict, 'Own', own['part'])
    with pytest.raises(AssertionError), user_errors():
        MODELS.build(dict(type='Own', size=2))


def test_messages_of_key_errors():
    """mmcv raises some for a name that it does not know."""
    assert "the settings of ConvModule are refused: Cannot find" in told(
        type='ConvModule', in_channels=1, out_channels=1, kernel_size=1, norm_cfg=dict(type='NoSuchNorm'))


def test_this_packages_own_words_come_first():
    assert told(type='SwinPosTransformer', window_size=-1) == 'window_size must be at least 1 on each side, got -1'


def test_a_schedule_that_is_none():
    optimizer = SGD([nn.Parameter(nn.Linear(1, 1).weight)], lr=1.)
    for settings, message in ((dict(type='CosineAnnealingLR', T_max=2, end=0), 'CosineAnnealingLR are refused: end sh'),
                              (dict(type='CosineAnealingLR'), "called 'CosineAnealingLR' (did you mean 'Cosine")):
        with pytest.raises(UserError) as error, user_errors():
            PARAM_SCHEDULERS.build(dict(settings, convert_to_iter_based=True), default_args=dict(
                optimizer=optimizer, epoch_length=4))
        assert message in str(error.value)


@pytest.mark.parametrize('error', [KeyError('a'), ValueError('b'), TypeError('c'), AssertionError(), RuntimeError('d')])
def test_bugs_pass(error):
    with pytest.raises(type(error)) as found, user_errors():
        raise error
    assert found.value is error


def test_closest():
    assert closest('windw_size', ['window_size', 'depths', 7]) == " (did you mean 'window_size'?)"
    assert closest('abc', ['window_size']) == ''
