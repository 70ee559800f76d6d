"""Sweeping windows and scales."""
from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint

from swin_pos_det.analysis.studies.window_sweep import plot_sweep, scale_resize, sweep
from swin_pos_det.data.digits.on_photos import make_digits_on_photos
from swin_pos_det.models import SwinPosTransformer

CONFIG = Path(__file__).parents[3] / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'


def test_scale_resize():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1333, 800), keep_ratio=True)]
    assert scale_resize(pipeline, 0.5) == 1
    assert pipeline[1] == dict(type='Resize', scale=(666, 400), keep_ratio=True)
    assert scale_resize(pipeline[:1], 2.) == 0


def test_the_heat_map_is_drawn(tmp_path):
    rows = [dict(window=str(w), scale=s, bbox_mAP=w / 20 * s, segm_mAP=.5, ms_per_image=10. * w)
            for s in (.5, 1.) for w in (5, 7)]
    plot_sweep(rows[:3], tmp_path / 'new/sweep.png', 'three of four cells')
    picture = plt.imread(tmp_path / 'new/sweep.png')
    assert picture.shape[0] > 100 and picture.shape[1] > 3 * picture.shape[0] and picture.std() > 0.1


@pytest.mark.slow
def test_sweeps_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    data = tmp_path / 'digits'
    make_digits_on_photos(data, 2, 3)
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(dict(
        work_dir=str(tmp_path / 'run'),
        test_dataloader=dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=str(data))),
        val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=str(data))),
        train_dataloader=dict(dataset=dict(data_root=str(data))),
        model=dict(test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(max_per_img=5)))))
    init_default_scope('mmdet')
    checkpoint = str(tmp_path / 'model.pth')
    save_checkpoint(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), checkpoint)
    out = tmp_path / 'sweep.json'

    sizes, windows = [], []
    forward = SwinPosTransformer.forward

    def spy(self, x):
        sizes.append(x.shape[-2:])
        windows.append(self.window_size[0])
        return forward(self, x)

    monkeypatch.setattr(SwinPosTransformer, 'forward', spy)

    first = sweep(cfg, checkpoint, [7, (4, 9)], [0.5], out)
    assert [(row['window'], row['scale']) for row in first] == [('7', 0.5), ('(4, 9)', 0.5)]
    assert all({'bbox_mAP', 'segm_mAP'} <= row.keys() and row['ms_per_image'] > 0 for row in first)

    rows = sweep(cfg, checkpoint, [7, (4, 9)], [0.5, 1.], out)
    assert rows[:2] == first, 'what was measured is kept, to the digit of its time'
    assert [max(size) for size in sizes] == [128] * 6 + [256] * 6, 'each cell at its own scale: 3 images, 4 cells'
    assert len(rows) == 4 and json.loads(out.read_text())['rows'] == rows

    windows.clear()
    sweep(cfg, checkpoint, [5, None, 'global'], [0.5, 1.], tmp_path / 'native.json')
    assert windows[::3] == [(5, 5), (7, 7), 'global'] * 2, "'native' is the config's, whatever came before it"

    with pytest.raises(ValueError, match="is of another sweep: its policy is None, now 'fit'"):
        sweep(cfg, checkpoint, [7], [1.], out, policy='fit')
    with pytest.raises(ValueError, match="its options is {}, now {.model.backbone.padding.: .mask.}"):
        sweep(cfg, checkpoint, [7], [1.], out, options={'model.backbone.padding': 'mask'})
    for damaged in (out.read_text()[:-9], '[]', '{"rows": [{"window": "7"}]}'):
        out.write_text(damaged)
        with pytest.raises(ValueError, match='sweep.json is damaged, or not of a sweep; delete it, or choose another'):
            sweep(cfg, checkpoint, [7], [1.], out)
        assert out.read_text() == damaged
