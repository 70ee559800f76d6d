"""padding='mask' with the data preprocessors of mmpretrain and mmsegmentation: contract 6."""
from __future__ import annotations

import sys

import pytest
import torch
from mmdet.registry import MODELS

from swin_pos_det.errors import MissingPackageError, SettingError
from swin_pos_det.models import SwinPosTransformer, ValidAveragePooling, data_preprocessor, valid_sizes
from tests.models import MICRO, randomise

SIZES = [(61, 90), (37, 120), (90, 33)]
NORMALISE = dict(mean=[110., 120., 130.], std=[50., 55., 60.])


@pytest.fixture(scope='module')
def images():
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]


def masking() -> SwinPosTransformer:
    model = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., padding='mask'))
    randomise(model)
    return model.eval()


def check_features(model, batch, alone):
    """Compare the features of each image in a batch with those that it has alone."""
    with torch.no_grad():
        outs = model(batch)
        for index, single in enumerate(alone):
            for got, want in zip(outs, model(single)):
                height, width = want.shape[2:]
                torch.testing.assert_close(got[index, :, :height, :width], want[0], rtol=0, atol=1e-5)
                assert not got[index, :, height:].any() and not got[index, :, :, width:].any()


@pytest.mark.parametrize('settings', [dict(), dict(pad_size_divisor=32, to_rgb=True)], ids=str)
def test_mmpretrains(images, settings):
    pytest.importorskip('mmpretrain')
    made = MODELS.build(dict(type='SwinPosClsDataPreprocessor', **NORMALISE, **settings))
    batch = made(dict(inputs=images))['inputs']
    assert valid_sizes(batch) == SIZES
    check_features(masking(), batch, [made(dict(inputs=[image]))['inputs'] for image in images])
    stacked = made(dict(inputs=torch.stack([images[0], images[0]])))['inputs']  # as default_collate gives them
    assert valid_sizes(stacked) == [SIZES[0]] * 2


def test_a_classifiers_scores_are_the_same_alone_and_in_any_batch(images):
    mmpretrain = pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample
    torch.manual_seed(0)
    model = mmpretrain.registry.MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(type='mmdet.SwinPosClsDataPreprocessor', pad_size_divisor=32, **NORMALISE),
        backbone=dict(type='mmdet.SwinPosTransformer', **dict(MICRO, out_indices=(2, ), padding='mask')),
        neck=dict(type='mmdet.ValidAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=MICRO['embed_dims'] * 4)))
    randomise(model)
    model.eval()

    def scores(chosen):
        found = model.test_step(dict(inputs=chosen, data_samples=[DataSample() for _ in chosen]))
        return torch.stack([sample.pred_score for sample in found])

    together = scores(images)
    torch.testing.assert_close(together, torch.cat([scores([image]) for image in images]), rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-3
    model.neck = mmpretrain.registry.MODELS.build(dict(type='mmpretrain.GlobalAveragePooling'))
    assert (scores(images) - together).abs().max() > 1e-3, "mmpretrain's own average counts the padding"


def test_average_pooling():
    maps = torch.rand(2, 3, 4, 5) + 1
    maps[1, :, 2:] = 0
    (pooled, ) = ValidAveragePooling()((maps, ))
    torch.testing.assert_close(pooled, torch.stack([maps[0].mean((1, 2)), maps[1, :, :2].mean((1, 2))]))
    assert not ValidAveragePooling()((torch.zeros(1, 3, 4, 5), ))[0].any()


def test_mixed_images_must_have_one_size(images):
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample
    made = MODELS.build(dict(type='SwinPosClsDataPreprocessor', num_classes=3,
                             batch_augments=dict(augments=[dict(type='mmpretrain.Mixup', alpha=0.8)])))
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    with pytest.raises(SettingError, match=r'batch augments mix: .*\(37, 120\).*batch_augments'):
        made(dict(inputs=images, data_samples=samples), True)
    same = made(dict(inputs=[images[0]] * 3, data_samples=samples), True)['inputs']
    assert valid_sizes(same) == [SIZES[0]] * 3


@pytest.mark.parametrize('settings', [dict(size=(128, 160)), dict(size_divisor=32)], ids=str)
def test_mmsegmentations_in_training(images, settings):
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    def batch_of(chosen):
        samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *image.shape[1:], dtype=torch.long)))
                   for image in chosen]
        return made(dict(inputs=list(chosen), data_samples=samples), True)['inputs']

    made = MODELS.build(dict(type='SwinPosSegDataPreProcessor', bgr_to_rgb=True, **NORMALISE, **settings))
    batch = batch_of(images)
    assert batch.shape[2:] == (128, 160) if 'size' in settings else (96, 128)
    assert valid_sizes(batch) == SIZES
    check_features(masking(), batch, [batch_of([image]) for image in images])


def test_mmsegmentations_in_testing(images):
    """It tests images of one size together, and pads them if test_cfg says so."""
    pytest.importorskip('mmseg')
    from mmseg.structures import SegDataSample
    padding = MODELS.build(dict(type='SwinPosSegDataPreProcessor', test_cfg=dict(size_divisor=32), **NORMALISE))
    plain = MODELS.build(dict(type='SwinPosSegDataPreProcessor', **NORMALISE))
    batch, alone = (made(dict(inputs=[images[0]], data_samples=[SegDataSample()]))['inputs']
                    for made in (padding, plain))
    assert batch.shape[2:] == (64, 96) and alone.shape[2:] == SIZES[0]
    assert valid_sizes(batch) == valid_sizes(alone) == [SIZES[0]]
    check_features(masking(), batch, [alone])


@pytest.mark.parametrize(('kind', 'library', 'extra'), [
    ('SwinPosClsDataPreprocessor', 'mmpretrain', 'classification'),
    ('SwinPosSegDataPreProcessor', 'mmseg', 'segmentation')])
def test_a_missing_library_is_named(kind, library, extra, monkeypatch):
    for module in (library, f'{library}.models'):
        monkeypatch.setitem(sys.modules, module, None)
    data_preprocessor._passing_sizes.cache_clear()
    with pytest.raises(MissingPackageError, match=rf'{library}.*: pip install .*\[{extra}\]'):
        MODELS.build(dict(type=kind))
