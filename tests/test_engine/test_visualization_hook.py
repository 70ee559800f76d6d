"""--show-dir: a picture of every image, drawn with any number of classes and colours."""
from __future__ import annotations

import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import HOOKS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

from swin_pos_det.engine.visualization_hook import show_predictions, use_own_visualization
from swin_pos_det.errors import SettingError
from swin_pos_det.visualization import class_palette
from swin_pos_det.visualization.visualizer import SwinPosVisualizer

NUMBERS = itertools.count()  # MMEngine keeps one visualizer for each name


def visualizer(**settings):
    made = VISUALIZERS.build(dict(type='mmdet.SwinPosVisualizer', name=f'visualizer {next(NUMBERS)}', **settings))
    made.dataset_meta = dict(classes=[f'thing {index}' for index in range(300)], palette='random')
    return made


def sample(path, label=0, **more):
    found = InstanceData(bboxes=torch.tensor([[10., 30., 50., 60.]]), labels=torch.tensor([label]),
                         scores=torch.tensor([0.9]), **more)
    return DetDataSample(metainfo=dict(img_path=path), pred_instances=found)


@pytest.fixture
def images(tmp_path):
    """Return two images of one name, one of another, one of a file per channel."""
    paths = [str(tmp_path / 'data' / name) for name in ('a/1.png', 'b/1.png', 'b/2.bmp', 'b/3_red.png')]
    for path in paths:
        (tmp_path / 'data' / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(path, np.full((80, 80, 3), 128, np.uint8))
    return [*paths[:3], [paths[3]] * 4]


def test_images_of_one_name_are_both_kept(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SwinPosVisualizer.get_instance('hook').dataset_meta = dict(classes=('cat', ), palette=None)
    hook = HOOKS.build(dict(type='mmdet.SwinPosVisualizationHook', draw=True, test_out_dir='shown'))
    dataset = type('Images', (), dict(__len__=lambda self: 4, get_data_info=lambda self, i: dict(img_path=images[i])))()
    runner = SimpleNamespace(work_dir='work', timestamp='now', test_dataloader=SimpleNamespace(dataset=dataset))
    hook.before_test(runner)
    for start in (0, 2):
        hook.after_test_iter(runner, start, {}, [sample(path) for path in images[start:start + 2]])
    folder = tmp_path / 'work/now/shown'
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())
    assert written == ['a/1.png', 'b/1.png', 'b/2.bmp', 'b/3_red.png']
    picture = cv2.imread(str(folder / 'a/1.png'))
    assert len(picture) == 80 and (picture != 128).any()


@pytest.mark.parametrize('number, drawn', [(1, [0]), (2, [0, 3]), (9, [0, 1, 2, 3])])
def test_the_same_images_are_drawn_at_each_validation(images, tmp_path, number, drawn):
    made = SwinPosVisualizer.get_instance(f'validation {number}', vis_backends=[dict(type='LocalVisBackend')],
                                          save_dir=str(tmp_path))
    made.dataset_meta = dict(classes=('cat', ), palette=None)
    hook = HOOKS.build(dict(type='mmdet.SwinPosVisualizationHook', draw=True, val_images=number))
    hook._visualizer = made
    runner = SimpleNamespace(val_dataloader=[None] * 4)
    for runner.iter in (10, 27):
        hook.before_val(runner)
        for batch, path in enumerate(images):
            hook.after_val_iter(runner, batch, {}, [sample(path)])
    names = ['val_000000_1', 'val_000001_1', 'val_000002_2', 'val_000003_3_red']
    assert sorted(path.name for path in (tmp_path / 'vis_data/vis_image').iterdir()) == sorted(
        f'{names[batch]}_{step}.png' for batch in drawn for step in (10, 27))


def test_any_number_of_classes_and_odd_palettes():
    image = np.full((80, 80, 3), 128, np.uint8)
    for palette, color in ((None, class_palette(300)[299]), ('random', class_palette(300)[299]),
                           ([(1, 2, 3)], class_palette(300, [(1, 2, 3)])[299])):
        made = visualizer()
        made.dataset_meta['palette'] = palette
        made.add_datasample('one', image, sample('x', label=299), draw_gt=False)
        assert tuple(made.get_image()[45, 10]) == color
    made.dataset_meta['palette'] = 'coco'
    made.add_datasample('one', image, sample('x', label=0), draw_gt=False)
    assert tuple(made.get_image()[45, 10]) == (220, 20, 60), "COCO's person"


def test_the_settings_of_mmdets_visualizer():
    made = visualizer(bbox_color=(1, 2, 3), mask_color='green', text_color=(7, 7, 7), line_width=5, alpha=1.)
    mask = torch.zeros(1, 80, 80, dtype=torch.bool)
    mask[:, 40:50, 20:40] = True
    made.add_datasample('one', np.full((80, 80, 3), 128, np.uint8), sample('x', masks=mask), draw_gt=False)
    picture = made.get_image()
    assert (picture[55, 9:12] == (1, 2, 3)).all()
    assert picture[45, 30].tolist() == [0, 255, 0]
    assert (picture == 7).all(2).any()


def test_annotations_stand_beside_predictions():
    both = sample('x')
    both.gt_instances = InstanceData(bboxes=HorizontalBoxes([[10., 30., 50., 60.]]), labels=torch.tensor([1]))
    made = visualizer()
    made.add_datasample('one', np.full((80, 80, 3), 128, np.uint8), both)
    assert made.get_image().shape == (80, 160, 3)
    assert tuple(made.get_image()[45, 10]) == class_palette(2)[1]


def test_boxes_that_stand_for_none_and_names_of_ones_own():
    mask = torch.zeros(1, 80, 80, dtype=torch.bool)
    mask[:, 30:60, 10:50] = True
    found = InstanceData(bboxes=torch.zeros(1, 4), labels=torch.tensor([0]), masks=mask, label_names=['own'])
    made = visualizer()
    made.add_datasample('one', np.full((80, 80, 3), 128, np.uint8), DetDataSample(gt_instances=found), draw_pred=False)
    assert (made.get_image()[:3, :3] == 128).all(), 'no box in the corner'
    assert (made.get_image()[45, 30] != 128).any()


def test_panoptic_results_of_many_classes():
    ids = torch.full((1, 80, 80), 300)
    ids[:, 20:60, 20:60] = 250
    made = visualizer()
    made.add_datasample('one', np.full((80, 80, 3), 128, np.uint8),
                        DetDataSample(pred_panoptic_seg=PixelData(sem_seg=ids)), draw_gt=False)
    assert (made.get_image()[25, 25] != 128).any()


def test_configs_of_mmdet_get_them():
    cfg = Config(dict(visualizer=dict(type='mmdet.DetLocalVisualizer', name='v', alpha=0.3),
                      default_hooks=dict(visualization=dict(type='DetVisualizationHook', draw=True))))
    use_own_visualization(cfg)
    assert cfg.visualizer == dict(type='mmdet.SwinPosVisualizer', name='v', alpha=0.3)
    assert cfg.default_hooks.visualization == dict(type='mmdet.SwinPosVisualizationHook', draw=True)
    other = Config(dict(visualizer=dict(type='Mine'),
                        default_hooks=dict(visualization=dict(type='TrackVisualizationHook'))))
    before = other.to_dict()
    use_own_visualization(other)
    assert other.to_dict() == before


@pytest.mark.parametrize(('given', 'want'), [
    (dict(type='DetVisualizationHook'), dict(type='mmdet.SwinPosVisualizationHook')),
    (dict(type='mmseg.SegVisualizationHook', interval=5), dict(type='mmdet.SwinPosSegVisualizationHook', interval=5)),
    (dict(type='VisualizationHook', enable=False, interval=9, resize=64),
     dict(type='mmdet.SwinPosClsVisualizationHook', draw_args=dict(resize=64))),
    (dict(type='TrackVisualizationHook'), dict(type='TrackVisualizationHook')),
], ids=lambda value: value['type'])
def test_a_librarys_hook_draws_every_image(given, want):
    cfg = Config(dict(default_hooks=dict(visualization=given)))
    show_predictions(cfg, False, 'shown', 2.)
    assert cfg.default_hooks.visualization == dict(want, draw=True, test_out_dir='shown')


def test_a_config_without_a_hook_is_refused():
    for hooks in (None, dict(), dict(visualization=None)):
        with pytest.raises(SettingError, match='SegVisualizationHook'):
            show_predictions(Config(dict(default_hooks=hooks)), True, None, 2.)


def test_images_without_files_are_named_by_number(tmp_path, monkeypatch):
    """mmpretrain's visualizer, by a stand-in, and a data set that holds its images in memory."""
    monkeypatch.chdir(tmp_path)
    calls = []
    SwinPosVisualizer.get_instance('numbers')
    hook = HOOKS.build(dict(type='mmdet.SwinPosClsVisualizationHook', draw=True, test_out_dir='shown',
                            draw_args=dict(resize=64)))
    hook._visualizer = SimpleNamespace(visualize_cls=lambda *args, **settings: calls.append((*args, settings)))
    dataset = type('Scans', (), dict(__len__=lambda self: 2, get_data_info=lambda self, i: dict(sample_idx=i)))()
    runner = SimpleNamespace(work_dir='work', timestamp='now', test_dataloader=SimpleNamespace(dataset=dataset))
    hook.before_test(runner)
    blue = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    blue[:, 0] = 255
    samples = [DetDataSample(metainfo=dict(sample_idx=index)) for index in range(2)]
    hook.after_test_iter(runner, 0, dict(inputs=blue), samples)
    assert [settings['out_file'] for *_, settings in calls] == [f'work/now/shown/{i:06d}.png' for i in range(2)]
    image, sample, settings = calls[1]
    assert (image.shape, image[0, 0].tolist(), sample, settings['resize']) == ((4, 5, 3), [0, 0, 255], samples[1], 64)
    hook.test_out_dir, samples[0] = None, DetDataSample()
    with pytest.raises(SettingError, match='sample_idx'):
        hook.after_test_iter(runner, 0, dict(inputs=blue), samples[:1])
