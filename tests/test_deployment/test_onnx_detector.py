"""An exported detector in use: in a process without torch, by infer.py, and evaluated by test.py."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.registry import TRANSFORMS
from mmengine.config import Config

from swin_pos_det.apis import Slicing, predict, predict_files
from swin_pos_det.data import make_digits_on_photos
from swin_pos_det.deployment import OnnxDetector
from swin_pos_det.deployment.detector_comparison import pair_detections
from swin_pos_det.deployment.onnx_detector import Detections, paste_masks
from tests.test_deployment.detectors import CLASSES, tiny_config
from tests.test_tools.conftest import ROOT, load_tool

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

SERVER = """
import importlib.util, json, sys

class OnlyWhatAServerHas:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        spec = self.finder.find_spec(name, path, target)
        own = ('numpy', 'cv2', 'onnxruntime', 'flatbuffers', 'google', 'packaging', 'swin_pos_det')
        installed = spec is not None and 'site-packages' in str(spec.origin)
        return None if installed and name.partition('.')[0] not in own else spec

sys.meta_path[:] = map(OnlyWhatAServerHas, sys.meta_path)
import cv2, numpy
from swin_pos_det.deployment import OnnxDetector
detector = OnnxDetector(sys.argv[1], providers=['cpu'])
found = detector(cv2.imread(sys.argv[2])).pred_instances
names = ('torch', 'mmcv', 'mmdet', 'mmengine')
assert not any(importlib.util.find_spec(name) or name in sys.modules for name in names)
print(json.dumps(dict(classes=detector.classes, boxes=found.bboxes.tolist(), scores=found.scores.tolist(),
                      labels=found.labels.tolist(), shape=found.masks.shape, pixels=int(found.masks.sum()))))
"""


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Make some of the demo's images; return their paths."""
    root = make_digits_on_photos(tmp_path_factory.mktemp('data') / 'digits', 1, 6, progress=False)
    return sorted((root / 'val').iterdir())


def to_detections(instances):
    return Detections(*(instances[name].numpy() for name in ('bboxes', 'scores', 'labels', 'masks')))


def assert_same(want, got):
    """Every detection has its partner, and nearly every pixel of its mask."""
    pairs = pair_detections(want, got)
    assert len(pairs) == len(want) == len(got) > 0
    for a, b in pairs:
        assert abs(want.scores[a] - got.scores[b]) < 1e-5
        assert (want.masks[a] != got.masks[b]).mean() < 1e-3


class TestOnnxDetector:

    def test_finds_in_photos_what_torch_finds(self, exported, photos):
        detector, path, _ = exported
        onnx = OnnxDetector(path)
        assert onnx.classes == list(CLASSES)
        images = [cv2.imread(str(photo)) for photo in photos]
        images.append(np.ascontiguousarray(images[0][:, :41]))
        want = predict(detector, images)
        for image, a, b in zip(images, want, onnx.predict(images)):
            assert (a.ori_shape, a.img_shape) == (b.ori_shape, b.img_shape) and a.scale_factor == b.scale_factor
            assert b.pred_instances.masks.shape[1:] == image.shape[:2]
            assert_same(to_detections(a.pred_instances), b.pred_instances)

    def test_of_a_threshold(self, exported, photos):
        onnx = OnnxDetector(exported[1])
        image = cv2.imread(str(photos[0]))
        counts = [len(onnx(image, threshold).pred_instances) for threshold in (0., None, 0.6, 1.)]
        assert counts == sorted(counts, reverse=True) and counts[0] > counts[1] > counts[3] == 0
        assert onnx(image, 1.).pred_instances.masks.shape == (0, *image.shape[:2])
        with pytest.raises(ValueError, match=r'must be in \[0, 1\], got 2'):
            onnx(image, 2.)

    def test_resizes_as_mmcv_does(self, exported):
        onnx = OnnxDetector(exported[1])
        for scale, keep_ratio in (((1333, 800), True), ((256, 256), True), ((640, 480), False)):
            onnx.metadata.update(test_scale=list(scale), keep_ratio=keep_ratio)
            resize = Compose([TRANSFORMS.build(dict(type='mmdet.Resize', scale=scale, keep_ratio=keep_ratio))])
            for shape in ((480, 640), (427, 640), (333, 500), (97, 1201), (5, 7), (800, 1333)):
                image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
                want = resize(dict(img=image))['img']
                assert onnx.resized(shape) == want.shape[:2]
                assert (onnx._prepare(image, onnx.resized(shape)) == want.transpose(2, 0, 1)).all()

    def test_what_is_no_image_or_model(self, exported, tmp_path):
        onnx = OnnxDetector(exported[1])
        for wrong in (None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
            with pytest.raises(TypeError, match=r'an image is an array \(H, W, 3\), uint8, BGR; got '):
                onnx(wrong)
        with pytest.raises(ValueError, match='an image of 2000x1 pixels would be less than a pixel wide'):
            onnx(np.zeros((1, 2000, 3), np.uint8))
        with pytest.raises(FileNotFoundError, match='none.onnx does not exist'):
            OnnxDetector(tmp_path / 'none.onnx')
        (tmp_path / 'wrong.onnx').write_bytes(b'nonsense')
        with pytest.raises(ValueError, match=r'onnxruntime [\d.]+ cannot run .*wrong.onnx'):
            OnnxDetector(tmp_path / 'wrong.onnx')
        with pytest.raises(ValueError, match="no provider 'CUDAExecutionProvider' here; it has .*CPUExecutionProvider"):
            OnnxDetector(exported[1], ['cuda', 'cpu'])
        with pytest.raises(TypeError, match="must be a list of names, got 'cpu'"):
            OnnxDetector(exported[1], 'cpu')

    def test_another_model(self, tmp_path):
        import onnx
        from onnx import TensorProto, helper
        value = helper.make_tensor_value_info('x', TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node('Identity', ['x'], ['y'])], 'other', [value],
                                  [helper.make_tensor_value_info('y', TensorProto.FLOAT, [1])])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9),
                  tmp_path / 'other.onnx')
        with pytest.raises(ValueError, match='other.onnx is not a detector that .*export_detector.py wrote'):
            OnnxDetector(tmp_path / 'other.onnx')


def test_masks_are_pasted_as_mmdet_does():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(40, 2, generator=generator) * 60 - 5
    boxes = torch.cat([low, low + torch.rand(40, 2, generator=generator) * 50], 1)
    boxes = boxes.clamp(min=0).minimum(torch.tensor([70., 50, 70, 50]))
    masks = torch.rand(40, 1, 28, 28, generator=generator)
    for threshold in (0.5, 0.2):
        got = paste_masks(masks[:, 0].numpy(), boxes.numpy(), (50, 70), threshold)
        for index in range(40):
            want = torch.zeros(50, 70, dtype=torch.bool)
            values, where = _do_paste_mask(masks[index][None], boxes[index][None], 50, 70)
            want[where] = values[0] >= threshold
            assert (want.numpy() != got[index]).sum() <= 1, index


def test_a_server_needs_neither_torch_nor_mmdet(exported, photos, tmp_path):
    """In a process that can import onnxruntime, numpy, OpenCV and this package, and nothing else."""
    detector, path, _ = exported
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    found = subprocess.run([sys.executable, '-c', SERVER, str(path), str(photos[0])], env=environment,
                           capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert found.returncode == 0, found.stderr
    about = json.loads(found.stdout)
    want = predict(detector, [photos[0]])[0].pred_instances
    assert about['classes'] == list(CLASSES) and about['labels'] == want.labels.tolist()
    np.testing.assert_allclose(about['boxes'], want.bboxes.numpy(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(about['scores'], want.scores.numpy(), rtol=0, atol=1e-5)
    assert about['shape'] == list(want.masks.shape)
    assert abs(about['pixels'] - int(want.masks.sum())) < 1e-3 * want.masks.numel()


def test_the_server_of_the_docs_answers(exported, photos, tmp_path, monkeypatch):
    page = (ROOT / 'docs/deployment.md').read_text(encoding='utf-8')
    text = next(block for block in re.findall(r'```python\n(.*?)```', page, re.S) if 'HTTPServer' in block)
    monkeypatch.chdir(tmp_path)
    Path('model.onnx').symlink_to(exported[1])
    names = {}
    text = text.replace('8000', '0').replace('HTTPServer((', 'server = HTTPServer((').replace('.serve_forever()', '')
    exec(text, names)
    with names['server'] as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f'http://127.0.0.1:{server.server_address[1]}'
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, photos[0].read_bytes(), timeout=60) as answer:
            found = json.loads(answer.read())
        thread.join(60)
    want = OnnxDetector(exported[1])(cv2.imread(str(photos[0])), 0.3).pred_instances
    assert [each['name'] for each in found] == [CLASSES[label] for label in want.labels] and len(found) > 0
    np.testing.assert_allclose([each['box'] for each in found], want.bboxes, rtol=0, atol=1e-3)


def test_infer_runs_a_file_without_a_config(exported, photos, tmp_path, monkeypatch, capsys):
    detector, path, _ = exported
    monkeypatch.chdir(tmp_path)
    tool = load_tool('infer.py')
    assert tool.main([str(path), *map(str, photos[:2]), '--out', 'found', '--window', '12']) == 0
    captured = capsys.readouterr()
    assert 'note: --window has no effect on an .onnx file' in captured.err
    report = predict_files(detector, photos[:2], 'torch', progress=False, pictures=False)
    got, want = (json.loads((tmp_path / name / 'predictions.json').read_text()) for name in ('found', 'torch'))
    assert got['images'] == want['images'] and got['categories'] == want['categories']
    assert len(got['annotations']) == len(want['annotations']) == report.detections > 3
    for a, b in zip(got['annotations'], want['annotations']):
        assert a['category_id'] == b['category_id'] and a['segmentation']['size'] == b['segmentation']['size']
        np.testing.assert_allclose(a['bbox'], b['bbox'], rtol=0, atol=1e-3)
    assert sorted(path.name for path in (tmp_path / 'found/vis').iterdir()) == [photo.name for photo in photos[:2]]
    settings = dict(batch_size=3, progress=False, pictures=False)
    assert tool.main([str(path), str(photos[0]), '--out', 'cut', '--no-pictures', '--slice', '48', '--batch-size', '3',
                      '--slice-overlap', '0.4']) == 0
    predict_files(detector, photos[:1], 'torch', slicing=Slicing(48, 0.4), **settings)
    got, want = (json.loads((tmp_path / name / 'predictions.json').read_text())['annotations']
                 for name in ('cut', 'torch'))
    assert [item['category_id'] for item in got] == [item['category_id'] for item in want] and len(got) > 3
    np.testing.assert_allclose([item['bbox'] for item in got], [item['bbox'] for item in want], rtol=0, atol=1e-3)
    with pytest.raises(SystemExit):
        tool.main([str(path), '--out', 'found'])
    assert 'the following arguments are required' in capsys.readouterr().err


def test_evaluation_gives_torchs_numbers(exported, photos, tmp_path, monkeypatch, capsys):
    """On a part of the demo's images, with two thirds of what torch finds as the truth."""
    detector, path, _ = exported
    monkeypatch.chdir(tmp_path)
    predict_files(detector, photos, 'torch', score_threshold=0., progress=False, pictures=False)
    truth = json.loads(Path('torch/predictions.json').read_text())
    truth['annotations'] = [note for note in truth['annotations'] if note['id'] % 3]
    Path('truth.json').write_text(json.dumps(truth))
    cfg: Config = tiny_config('mask_rcnn')
    cfg.merge_from_dict(dict(
        custom_imports=dict(imports=['swin_pos_det']), test_cfg=dict(type='TestLoop'),
        test_dataloader=dict(
            batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
                ann_file=str(tmp_path / 'truth.json'), data_prefix=dict(img=str(photos[0].parent)), test_mode=True)),
        test_evaluator=dict(type='CocoMetric', ann_file='truth.json', metric=['bbox', 'segm'])))
    cfg.dump('config.py')
    torch.save(dict(state_dict=detector.state_dict(), meta=dict(dataset_meta=dict(classes=CLASSES))), 'weights.pth')
    tool, found = load_tool('test.py'), {}
    for name in ('weights.pth', str(path)):
        work_dir = Path('runs', Path(name).stem)
        assert tool.main(['config.py', name, '--work-dir', str(work_dir)]) == 0
        found[name] = json.loads(next(work_dir.glob('*/*.json')).read_text())
    want, got = ({key: value for key, value in each.items() if 'mAP' in key} for each in found.values())
    assert want.keys() == got.keys() and len(want) == 12 and 0.2 < want['coco/bbox_mAP'] < 1
    assert all(abs(want[key] - got[key]) <= 1e-3 for key in want), (want, got)
    check_ap_in_float16(path, monkeypatch, capsys)


def check_ap_in_float16(path, monkeypatch, capsys):
    """Check what the tool says of float16, of four of the images."""
    import onnx

    from swin_pos_det.deployment import detector_export
    monkeypatch.setattr(detector_export, 'to_onnx', lambda *args: onnx.load(path))
    capsys.readouterr()
    arguments = ['config.py', 'weights.pth', '--out', 'half.onnx', '--fp16', '--ap-images', '4']
    assert load_tool('deployment/export_detector.py').main(arguments) == 0
    lines = re.findall(r'coco/(\w+)_mAP of 4 images: (\d\.\d+) in torch, (\d\.\d+) in float16', capsys.readouterr().out)
    assert [kind for kind, *_ in lines] == ['segm', 'bbox'], 'the main metric first'
    # Of all six images, with nothing found in two, it would be two thirds of that.
    assert all(0.2 < float(one) < 1 and abs(float(one) - float(other)) < 0.1 for _, one, other in lines), lines


def test_backends_that_do_not_fit(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cfg = tiny_config('mask_rcnn')
    cfg.dump('config.py')
    tool = load_tool('test.py')
    for arguments, message in ((['weights.pth', '--backend', 'onnxruntime'], '--backend onnxruntime cannot run'),
                               ([str(exported[1]), '--backend', 'torch'], '--backend torch cannot run'),
                               ([str(exported[1]), '--tta'], '--tta needs a checkpoint'),
                               (['none.onnx'], 'none.onnx does not exist')):
        assert tool.main(['config.py', *arguments]) == 1
        assert message in capsys.readouterr().err
