"""A detector exported once finds what mmdet's finds, at sizes not seen before; what cannot be exported is refused."""
from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from swin_pos_det.apis import predict
from swin_pos_det.checkpoints import UnwritableFileError
from swin_pos_det.deployment import detector_comparison as comparison
from swin_pos_det.deployment import detector_export as module
from swin_pos_det.deployment import detector_graph, operators
from swin_pos_det.deployment.detector_export import export_detector, to_half
from swin_pos_det.deployment.detector_graph import DetectorGraph
from swin_pos_det.deployment.onnx_detector import Detections, OnnxDetector
from swin_pos_det.deployment.onnx_wrapping import resize_text, wrap
from swin_pos_det.layers import POSITIONS
from tests.test_deployment.detectors import CLASSES, MODELS, SCHEMES, one_level, tiny_config, tiny_detector

needs_onnx = pytest.mark.skipif(not all(map(importlib.util.find_spec, ('onnx', 'onnxscript', 'onnxruntime'))),
                                reason='onnx, onnxscript and onnxruntime are not installed')


def outputs(graph, images, threshold):
    """Return the outputs for each image of a graph that is run in torch."""
    with torch.no_grad():
        found = dict(zip(graph.outputs, (value.numpy() for value in graph(images, torch.tensor([threshold])))))
    owner = found.pop('image_index', np.zeros(len(found['scores']), int))
    return [{name: value[owner == index] for name, value in found.items()} for index in range(len(images))]


class TestGraph:
    """The module that is traced, run in torch."""

    @pytest.mark.parametrize('settings', [
        {}, dict(backbone=dict(window_size=12, table_window_size=7)),
        dict(backbone=dict(window_size='global', table_window_size=7)),
        dict(backbone=dict(type='SwinPosTransformerV2')), dict(roi_head=dict(bbox_head=dict(reg_class_agnostic=True))),
        dict(rpn_head=dict(bbox_coder=dict(clip_border=False)), test_cfg=dict(rcnn=dict(max_per_img=-1))),
        dict(test_cfg=dict(rpn=dict(nms_pre=-1, min_bbox_size=12), rcnn=dict(nms=dict(class_agnostic=True)))),
        dict(roi_head=dict(mask_head=dict(class_agnostic=True))),
        dict(roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(aligned=False, sampling_ratio=2)))),
        dict(rpn_head=dict(loss_cls=dict(type='CrossEntropyLoss'))), dict(data_preprocessor=dict(pad_size_divisor=1)),
        dict(data_preprocessor=dict(bgr_to_rgb=False, rgb_to_bgr=True, pad_value=7)),
        dict(backbone=dict(padding='mask')),
        dict(backbone=dict(padding='mask'), data_preprocessor=dict(type='SwinPosDataPreprocessor')),
        dict(data_preprocessor=dict(mean=None, std=None))])
    def test_finds_what_mmdet_finds(self, settings):
        self.check(tiny_detector('mask_rcnn', **settings))

    @pytest.mark.parametrize('kind', sorted(set(MODELS) - {'mask_rcnn'}))
    def test_of_other_kinds_too(self, kind):
        self.check(tiny_detector(kind))

    @staticmethod
    def check(detector, images=2):
        graph = DetectorGraph(detector, images).eval()
        head = detector.roi_head if hasattr(detector, 'roi_head') else detector.bbox_head
        for height, width, threshold in ((97, 131, 0.3), (33, 190, 0.)):
            case = comparison.Case(height, width)
            picture = torch.cat([comparison._picture(case, torch.Generator().manual_seed(i)) for i in range(images)])
            head.test_cfg.score_thr = threshold
            want = comparison.predict_prepared(detector, picture)
            assert sum(map(len, want)) > 10
            for a, b in zip(want, outputs(graph, picture, threshold)):
                found = comparison.compare_images(case, a, b)
                assert found.equal and found.unpaired == 0, found
                # by falling score, as mmdet's
                np.testing.assert_allclose(a.scores.numpy(), b['scores'], rtol=0, atol=1e-5)

    def test_of_no_detection(self):
        for kind in ('cascade_mask_rcnn', 'atss'):
            graph = DetectorGraph(tiny_detector(kind)).eval()
            found, = outputs(graph, torch.zeros(1, 3, 40, 40), 1.)
            assert {name: value.shape[0] for name, value in found.items()} == dict.fromkeys(graph.outputs, 0)


def detections(boxes, scores, labels):
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels))


class TestComparison:

    def test_pairs_by_label_box_and_score(self):
        want = detections([[0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 8, 8]], [.9, .5, .4], [0, 1, 1])
        got = detections([[5, 5, 8, 8.001], [0, 0, 9, 9], [0, 0, 9, 9]], [.4, .5, .9], [1, 1, 0])
        assert comparison.pair_detections(want, got) == [(0, 2), (1, 1), (2, 0)]
        assert comparison.pair_detections(want, detections([], [], [])) == []
        assert comparison.pair_detections(want, detections([[0, 0, 9, 9.1]], [.9], [0])) == []

    @pytest.mark.parametrize('change', ['box', 'score', 'label', 'mask', 'missing', 'nan'])
    def test_a_difference_is_seen(self, change):
        boxes = torch.tensor([[2., 2, 10, 12], [20, 1, 30, 9]])
        want = InstanceData(bboxes=boxes, scores=torch.tensor([.9, .8]), labels=torch.tensor([0, 2]),
                            masks=torch.full((2, 20, 40), 127, dtype=torch.uint8) *
                            torch.stack([self.inside(box) for box in boxes]))
        got = dict(boxes=boxes.numpy().copy(), scores=np.array([.9, .8], np.float32), labels=np.array([0, 2]),
                   masks=np.full((2, 4, 4), .5, np.float32))
        case = comparison.Case(20, 40)
        same = comparison.compare_images(case, want, {name: value.copy() for name, value in got.items()})
        assert same[1:4] == (2, 0, 0)
        if change == 'missing':
            got = {name: value[:1] for name, value in got.items()}
        else:
            got[dict(box='boxes', score='scores', label='labels', mask='masks', nan='boxes')[change]][0] += dict(
                box=0.1, score=0.01, label=1, mask=0.1, nan=np.nan)[change]
        assert not comparison.compare_images(case, want, got).equal

    @staticmethod
    def inside(box):
        row, col = torch.arange(20)[:, None] + .5, torch.arange(40)[None] + .5
        return ((col > box[0]) & (col < box[2]) & (row > box[1]) & (row < box[3])).to(torch.uint8)


@needs_onnx
class TestFile:

    def test_equals_the_detector_at_every_size(self, exported):
        detector, path, done = exported
        assert done.equal and done.path == path and len(done.comparisons) == 8
        assert sum(each.found for each in done.comparisons) > 80
        assert [each.found for each in done.comparisons][-1] == 0
        assert all(each.unpaired == 0 and each.box < 1e-3 and each.score < 1e-5 for each in done.comparisons)
        cases = [comparison.Case(1, 1), comparison.Case(7, 300, threshold=0.)]
        assert all(each.equal for each in comparison.compare_detector(detector, OnnxDetector(path), cases))

    def test_says_what_it_is(self, exported):
        import onnx
        _, path, _ = exported
        about = OnnxDetector(path).metadata
        versions = about.pop('versions')
        assert versions['swin-pos-det'] and versions['torch'].startswith(torch.__version__.split('+')[0])
        assert about == dict(
            detector='MaskRCNN', backbone='SwinPosTransformer', classes=list(CLASSES),
            palette=[[220, 20, 60], [119, 11, 32], [0, 0, 142]],
            test_scale=[96, 64], keep_ratio=True, batch_size=1, raw=False, score_threshold=0.3, iou_threshold=0.5,
            max_per_image=20, mask_threshold=0.5, masks_pasted=False)
        model = onnx.load(path)
        assert [value.name for value in model.graph.input] == ['image', 'score_threshold']
        assert [value.name for value in model.graph.output] == ['boxes', 'scores', 'labels', 'masks']
        assert b'site-packages' not in path.read_bytes() and str(Path(module.__file__).parent).encode() not in (
            path.read_bytes())

    def test_is_not_written_unless_it_is_equal(self, exported, tmp_path, monkeypatch):
        import onnx
        detector, path, _ = exported
        other = tiny_detector('mask_rcnn')
        with torch.no_grad():
            other.roi_head.bbox_head.fc_cls.bias[0] += 0.1
        monkeypatch.setattr(module, 'to_onnx', lambda *args: onnx.load(path))
        done = export_detector(other, tmp_path / 'model.onnx')
        assert not done.equal and not list(tmp_path.iterdir())
        assert export_detector(detector, tmp_path / 'model.onnx').equal
        assert [found.name for found in tmp_path.iterdir()] == ['model.onnx']
        if Path('/dev/full').exists():
            (tmp_path / 'full.onnx').symlink_to('/dev/full')
            with pytest.raises(UnwritableFileError, match='No space left'):
                export_detector(detector, tmp_path / 'full.onnx')


    @pytest.mark.parametrize(('raw', 'pasted'), [(True, False), (False, True), (True, True)])
    def test_resizes_and_pastes_in_the_graph(self, exported, raw, pasted):
        import onnx
        _, path, _ = exported
        plain = OnnxDetector(path)
        about = dict(plain.metadata, raw=raw, masks_pasted=pasted)
        model = module._described(wrap(onnx.load(path), about, raw, pasted), about)
        wrapped = OnnxDetector(model.SerializeToString())
        found = comparison.compare_wrapped(plain, wrapped)
        assert len(found) == 3 and all(each.equal and each.unpaired == 0 for each in found), found
        assert sum(each.found for each in found) > 10
        image = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8), (140, 90))
        want, got = plain(image, 0.5), wrapped(image, 0.5)
        assert got.ori_shape == (90, 140) and got.pred_instances.masks.shape == (len(got.pred_instances), 90, 140)
        pairs = comparison.pair_detections(want.pred_instances, got.pred_instances, 1.)
        assert len(pairs) >= 0.8 * len(want.pred_instances) > 0
        nothing = wrapped(image, 1.).pred_instances
        assert len(nothing) == 0 and nothing.masks.shape == (0, 90, 140)

    def test_in_half_precision_finds_nearly_the_same(self, exported):
        import onnx
        detector, path, _ = exported
        halved = to_half(onnx.load(path))
        kinds = {tensor.data_type for tensor in halved.graph.initializer if len(tensor.dims) > 1}
        assert onnx.TensorProto.FLOAT16 in kinds
        assert [value.type.tensor_type.elem_type for value in halved.graph.output][:2] == [onnx.TensorProto.FLOAT] * 2
        found = comparison.compare_detector(detector, OnnxDetector(halved.SerializeToString()), within=2.)
        count = sum(each.found for each in found)
        assert sum(each.unpaired for each in found) < 0.3 * count and count > 80
        assert not all(each.equal for each in found) and max(each.score for each in found) < 0.2


SIZED = dict(type='SwinPosDataPreprocessor')
FILES = {
    "mmdet's backbone": ('faster_rcnn', 1, dict(backbone=dict(type='SwinTransformer'))),
    'cascade, windows larger than the table\'s': ('cascade_mask_rcnn', 1, dict(
        backbone=dict(window_size=12, table_window_size=7))),
    'every position scheme': ('retinanet', 1, dict(data_preprocessor=SIZED, backbone=dict(
        _delete_=True, type='SumOfBackbones', embed_dims=8, depths=(1, ), num_heads=(2, ), strides=(4, ),
        mlp_ratio=2, out_indices=(0, ), drop_path_rate=0., window_size=5, table_window_size=7,
        pretrain_img_size=32, paddings=('attend', 'mask')))),
    'two images, Swin V2, hidden padding': ('atss', 2, dict(
        backbone=dict(type='SwinPosTransformerV2', padding='mask'), data_preprocessor=SIZED)),
}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize('name', FILES)
@pytest.mark.filterwarnings('ignore:pretrain_img_size:UserWarning', 'ignore:padding=.mask:UserWarning')
def test_files_of_other_kinds(tmp_path, name):
    kind, images, settings = FILES[name]
    detector = one_level(kind, **settings)
    done = export_detector(detector, tmp_path / 'model.onnx', images)
    assert done.equal and sum(each.found for each in done.comparisons) > 50, done.comparisons
    exported = OnnxDetector(tmp_path / 'model.onnx')
    assert exported.batch_size == images and exported.metadata['backbone'] == type(detector.backbone).__name__
    generator = np.random.default_rng(0)
    photos = [cv2.resize(generator.integers(0, 256, (9, 9, 3), np.uint8), size)
              for size in ((120, 90), (120, 90), (120, 90), (70, 99))]
    for want, got in zip(predict(detector, photos), exported.predict(photos)):
        want = Detections(*(want.pred_instances[name].numpy() for name in ('bboxes', 'scores', 'labels')))
        assert len(want) == len(got.pred_instances) == len(comparison.pair_detections(want, got.pred_instances)) > 0


def test_no_position_scheme_is_left_out():
    assert {name for schemes in SCHEMES.values() for scheme in schemes for name in scheme.split('+')} == set(POSITIONS)


@needs_onnx
def test_ties_differ_only_in_what_is_kept(exported):
    """In an image of one colour hundreds of candidates have the same score: torch's choice depends on rounding too."""
    detector, path, _ = exported
    black = torch.zeros(1, 3, 160, 160)
    want, = comparison.predict_prepared(detector, black)
    got, = OnnxDetector(path).run(list(black.numpy()))
    got = Detections(got['boxes'], got['scores'], got['labels'])
    assert np.diff(np.sort(want.scores.numpy())).min() < 1e-6 > np.diff(np.sort(got.scores)).min()
    keep_all = dict(iou_threshold=1.)
    everything = tiny_detector('mask_rcnn', test_cfg=dict(
        rpn=dict(nms_pre=-1, max_per_img=-1, nms=keep_all), rcnn=dict(max_per_img=-1, score_thr=0., nms=keep_all)))
    everything.roi_head.mask_head = None
    candidates, = comparison.predict_prepared(everything, black)
    candidates = Detections(*(candidates[name].numpy() for name in ('bboxes', 'scores', 'labels')))
    pairs = comparison.pair_detections(got, candidates)
    assert len(pairs) == len(got) > 5 and len(candidates) > 10000
    assert max(abs(got.scores[a] - candidates.scores[b]) for a, b in pairs) < 1e-5


@pytest.mark.parametrize('kind', ['mask_rcnn', 'retinanet'])
def test_the_comparison_has_no_candidate_and_many(kind, monkeypatch):
    plain, counts = detector_graph.suppress, []

    def counting(found, groups, cfg, threshold, images):
        counts.append(int((found.score > threshold).sum()))
        return plain(found, groups, cfg, threshold, images)

    monkeypatch.setattr(detector_graph, 'suppress', counting)
    graph, found = DetectorGraph(tiny_detector(kind)).eval(), []
    for case in comparison.CASES:
        picture = comparison._picture(case, torch.Generator().manual_seed(0))
        outputs(graph, picture, 0.3 if case.threshold is None else case.threshold)
        found.append(counts[-1])
    assert 0 in found and max(found) > 100 and len(found) == 8, found


@pytest.mark.parametrize(('kind', 'settings', 'message'), [
    ('mask_rcnn', dict(batch_size=2, raw=True), 'resized in the graph come one by one, got batch_size=2'),
    ('faster_rcnn', dict(pasted=True), 'FasterRCNN has no masks to paste')])
def test_settings_that_do_not_fit(tmp_path, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        export_detector(tiny_detector(kind), tmp_path / 'model.onnx', **settings)


@needs_onnx
@pytest.mark.parametrize(('scale', 'keep_ratio'), [((1333, 800), True), ((256, 256), True), ((640, 480), False)])
def test_resizing_in_the_graph_is_opencvs_to_one_level(exported, scale, keep_ratio):
    import onnx
    import onnxruntime
    about = dict(test_scale=list(scale), keep_ratio=keep_ratio)
    session = onnxruntime.InferenceSession(onnx.parser.parse_model(resize_text(about)).SerializeToString())
    plain = OnnxDetector(exported[1])
    plain.metadata.update(about)
    for shape in ((480, 640), (427, 640), (333, 500), (97, 1201), (5, 7)):
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        size = plain.resized(shape)
        got, own_size, factor = session.run(None, {'image': image})
        assert np.abs(got[0] - plain._prepare(image, size)).max() <= 1 and tuple(own_size) == shape
        np.testing.assert_allclose(factor, [size[1] / shape[1], size[0] / shape[0]] * 2, rtol=1e-6)


@needs_onnx
def test_the_tool_reports_and_refuses(exported, tmp_path, monkeypatch, capsys):
    import onnx
    detector, path, _ = exported
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'tools' / 'deployment'))
    sys.modules.pop('export_detector', None)
    tool = importlib.import_module('export_detector')
    monkeypatch.chdir(tmp_path)
    tiny_config('mask_rcnn').dump('config.py')
    torch.save(dict(state_dict=detector.state_dict(), meta=dict(dataset_meta=dict(classes=CLASSES))), 'good.pth')
    state = dict(detector.state_dict())
    state['roi_head.bbox_head.fc_cls.bias'] = state['roi_head.bbox_head.fc_cls.bias'] + torch.tensor([.1, 0, 0, 0])
    torch.save(dict(state_dict=state), 'other.pth')
    monkeypatch.setattr(module, 'to_onnx', lambda *args: onnx.load(path))
    assert tool.main(['config.py', 'good.pth', '--out', 'model.onnx']) == 0
    text = capsys.readouterr().out
    assert re.search('480x352 . noise  . 0 ', text) and 'model.onnx (' in text and Path('model.onnx').is_file()
    assert tool.main(['config.py', 'other.pth', '--out', 'other.onnx']) == 1
    assert 'does not equal the one in torch; other.onnx was not written' in capsys.readouterr().err
    assert not Path('other.onnx').exists()
    assert tool.main(['config.py', 'good.pth', '--out', 'half.onnx', '--fp16']) == 0
    captured = capsys.readouterr()
    assert 'largest differences of float16' in captured.out and 'note: the AP was not measured: ' in captured.err
    with pytest.raises(SystemExit):
        tool.main(['config.py', 'good.pth', '--out', 'model.pt2'])
    assert "'model.pt2' must end in .onnx" in capsys.readouterr().err


def test_another_ending(tmp_path):
    with pytest.raises(ValueError, match="must end in .onnx, got 'model.pth'"):
        export_detector(tiny_detector('retinanet'), tmp_path / 'model.pth')


def test_operators_are_those_of_mmcv():
    """Their order, and what is kept, at and below the thresholds."""
    boxes = torch.tensor([[0., 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 9]])
    scores = torch.tensor([.5, .9, .7, .2])
    found = [operators.nms(boxes, scores, torch.tensor([threshold]), 0.5, limit).tolist()
             for threshold, limit in ((.2, 9), (.2, 1), (.5, 9), (.9, 9), (-1, 9))]
    assert found == [[1, 2], [1], [1, 2], [], [1, 2]]
    values, places = operators.best(torch.tensor([.1, .3, .3, .2]), 3)
    assert places.tolist() == [1, 2, 3] and len(operators.best(values, 9)[0]) == 3
