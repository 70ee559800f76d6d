"""Several processes compute the gradients that one computes on the whole batch; where they do not, it is known why."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm

from tests.test_engine import jobs

# Of the largest gradient. The first runs in float64, but on the CPU attention's backward pass recomputes its scores in
# float32 (layers/softmax_attention.py), which rounds with the batch; it was 1e-15 before that. ATSS too, and mmdet
# keeps what it divides losses by in float32 (half a unit of its last place is 6e-8). Mask R-CNN is float32 throughout.
TOLERANCE = {'mean': 1e-14, 'ATSS': 6e-8, 'Mask R-CNN': 2e-6}


def mask_rcnn():
    """Return mask R-CNN's heads, thin, that take every anchor and every proposal: nothing is drawn."""
    cfg = Config.fromfile(jobs.ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py').model
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.rpn_head.anchor_generator.strides = [4, 8, 16, 32]
    for extractor in (cfg.roi_head.bbox_roi_extractor, cfg.roi_head.mask_roi_extractor):
        extractor.out_channels = 16
        extractor.featmap_strides = [4, 8, 16]
    cfg.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16)
    cfg.roi_head.mask_head.update(in_channels=16, conv_out_channels=16)
    cfg.train_cfg.rpn.sampler.update(num=10**6, pos_fraction=1.)
    cfg.train_cfg.rcnn.sampler.update(num=10**6, pos_fraction=1.)
    cfg.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    return {key: cfg[key] for key in ('type', 'rpn_head', 'roi_head', 'train_cfg', 'test_cfg')}


@pytest.fixture(scope='module')
def heads():
    return {'mean': dict(type='MeanLoss'), 'ATSS': jobs.ATSS, 'Mask R-CNN': mask_rcnn(),
            'Mask R-CNN, copies': mask_rcnn()}


@pytest.fixture(scope='module')
def gradients(tmp_path_factory, heads):
    """Return {ranks: {detector: {parameter: gradient}}}."""
    folder = tmp_path_factory.mktemp('gradients')
    for ranks in (2, 4):
        assert jobs.launch(folder / 'log', jobs.parallel_gradients, folder, heads, ranks=ranks) == [0], (
            (folder / 'log').read_text()[-3000:])
    return {ranks: torch.load(Path(folder) / f'gradients_{ranks}.pth') for ranks in (2, 4)}


def largest(gradients):
    return max(gradient.abs().max().item() for gradient in gradients.values())


def difference(one, other):
    """Return the largest difference, in units of the largest gradient."""
    assert set(one) == set(other)
    return max((one[name] - other[name]).abs().max().item() for name in one) / largest(other)


@pytest.mark.slow
@pytest.mark.parametrize('ranks', [2, 4])
@pytest.mark.parametrize('name', ['mean', 'ATSS', 'Mask R-CNN, copies'])
def test_equal_those_of_one_process_with_the_whole_batch(gradients, heads, ranks, name):
    """A mean over equal parts does. ATSS divides by the mean over processes of its counts; Mask R-CNN by each one's
    own, which are the same if all have as many."""
    whole = jobs.backward(jobs.build_micro(heads[name]), jobs.micro_batch(copies='copies' in name))
    assert largest(whole) > 0.01
    assert difference(gradients[ranks][name], whole) < TOLERANCE[name.split(',')[0]]


@pytest.mark.slow
@pytest.mark.parametrize('ranks', [2, 4])
def test_are_the_mean_of_what_each_process_has_alone(gradients, heads, ranks):
    """In general Mask R-CNN's are this, and not the whole batch's: its losses are means over each process's own."""
    model, batch = jobs.build_micro(heads['Mask R-CNN']), jobs.micro_batch()
    alone = [jobs.backward(model, jobs.share(batch, rank, ranks)) for rank in range(ranks)]
    whole = jobs.backward(model, batch)
    mean = {name: sum(gradients_[name] for gradients_ in alone) / ranks for name in whole}
    assert difference(gradients[ranks]['Mask R-CNN'], mean) < TOLERANCE['Mask R-CNN']
    assert difference(mean, whole) > 1e-3, 'the images were chosen so that their counts differ'


def test_nothing_needs_batch_norm_across_processes():
    for head in (jobs.ATSS, mask_rcnn()):
        assert not [module for module in jobs.build_micro(head).modules() if isinstance(module, _BatchNorm)]
