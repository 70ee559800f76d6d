"""The page of a training: what it shows is right, and it needs nothing else."""
from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from pycocotools import mask as rle

from swin_pos_det.analysis.runs import evaluation
from swin_pos_det.analysis.runs.evaluation import evaluate_run
from swin_pos_det.cli.run_report import report_run
from swin_pos_det.errors import SettingError

# Escaped in the page, or it would be a tag.
CLASSES = ('cat & <b>', 'dog')
SIZE = (60, 80)
BOXES = [[5, 5, 20, 20], [40, 10, 30, 30], [10, 35, 15, 15]]
VOID = ('meta', 'img', 'br')


class Page(HTMLParser):
    """The elements of a page, which must be balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ''
        self.feed(text)
        assert not self.open
        self.text = ' '.join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f'{data} ' if self.open and self.open[-1] != 'style' else ''

    def images(self):
        """Return the description and the content of each."""
        found = [(attrs['alt'], attrs['src']) for tag, attrs in self.elements if tag == 'img']
        return [(alt, base64.b64decode(re.fullmatch(r'data:image/(svg\+xml|jpeg);base64,(.*)', source)[2]))
                for alt, source in found]


def make_run(folder, masks, **dataset):
    """Write a work dir, and detections that get worse from image to image; return both."""
    (folder / 'images').mkdir(parents=True)
    images, annotations, results = [], [], []
    for number in range(5):
        cv2.imwrite(str(folder / f'images/{number}.png'), np.full((*SIZE, 3), 40 * number, np.uint8))
        images.append(dict(id=number, file_name=f'{number}.png', height=SIZE[0], width=SIZE[1]))
        for place, (x, y, w, h) in enumerate(BOXES):
            corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            item = dict(image_id=number, category_id=7 + place % 2, bbox=[x, y, w, h])
            shape = dict(segmentation=corners) if masks else {}
            annotations.append(dict(item, **shape, id=len(annotations) + 1, area=w * h, iscrowd=0))
            code = rle.frPyObjects(corners, *SIZE)[0]
            shape = dict(segmentation=dict(size=code['size'], counts=code['counts'].decode())) if masks else {}
            if place < 3 - number:  # image 0: all found, 1: one missed, 2: two, 3 and 4: all
                results.append(dict(item, **shape, score=0.9 - 0.1 * number))
        if number == 4:  # another class, and a place where nothing is
            results += [dict(results[0], image_id=4, category_id=8, score=0.8),
                        dict(results[0], image_id=4, bbox=[60, 45, 12, 12], score=0.7)]
    (folder / 'truth.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=[
        dict(id=7 + index, name=name) for index, name in enumerate(CLASSES)])))
    (folder / 'results.json').write_text(json.dumps(results))
    run = folder / 'run/20260101_000000/vis_data'
    run.mkdir(parents=True)
    run.joinpath('scalars.json').write_text('\n'.join(map(json.dumps, [
        dict(loss=2., loss_cls=1., lr=0.1, time=0.5, iter=10), dict(loss=1., loss_cls=0.5, lr=0.1, time=0.5, iter=20),
        {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'step': 20}])))
    Config(dict(default_scope='mmdet', val_dataloader=dict(
        batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(dict(
            type='CocoDataset', ann_file=str(folder / 'truth.json'), data_prefix=dict(img=str(folder / 'images')),
            metainfo=dict(classes=CLASSES), test_mode=True, pipeline=[
                dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]), **dataset)))).dump(run / 'config.py')
    run.parents[1].joinpath('my <model>.py').write_text('')
    return folder / 'run', folder / 'results.json'


@pytest.fixture(scope='module', params=[True, False], ids=['masks', 'boxes'])
def run(request, tmp_path_factory):
    return (*make_run(tmp_path_factory.mktemp('run'), request.param), request.param)


def test_numbers(run):
    work_dir, results, masks = run
    found = evaluate_run(work_dir / '20260101_000000/vis_data/config.py', None, results)
    assert [score.iou_type for score in found.scores] == (['bbox', 'segm'] if masks else ['bbox'])
    assert [(each.correct, each.missed, each.false) for each in found.images] == [
        (3, 0, 0), (2, 1, 0), (1, 2, 0), (0, 3, 0), (0, 3, 2)]
    assert found.images[1].f1 == pytest.approx(0.8) and found.images[3].f1 == 0
    assert found.matrix.counts.tolist() == [[4, 1, 5], [0, 2, 3], [1, 0, 0]]
    assert found.palette is None, "the two classes do not get COCO's first two colours, both red"


def test_the_page(run, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '250')  # the table would shorten a long path
    work_dir, results, masks = run
    report_run(work_dir, num_images=3, html=True, results=results)
    assert 'report.html' in capsys.readouterr().out.replace('\n', '')
    text = (work_dir / 'report.html').read_text(encoding='utf-8')
    page = Page(text)
    assert len(text) < 3e6
    assert not {'script', 'link', 'iframe', 'b><b'} & {tag for tag, _ in page.elements}
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import|https?://', re.sub(r'base64,[^"]*', '', text))
    images = dict(page.images())
    drawn = [name.removeprefix('ground truth and detections of ') for name in images if name.startswith('ground')]
    assert drawn == ['4.png', '0.png', '1.png'], 'the worst, then the best ones'
    for name, content in images.items():
        assert b'<svg' in content[:1000] or cv2.imdecode(np.frombuffer(content, np.uint8), 1).shape[1] > 600, name
    assert {'losses and AP over the iterations', 'precision over recall', 'confusion matrix'} <= set(images)
    for words in ('my <model>', 'Box AP', 'By class', 'cat & <b>', '3 of 3 found', '3 missed 2 false', 'dog',
                  '6 found with their class, 9 missed , 2 false', 'Best images', 'training time', 'box AP50'):
        assert words in page.text, words
    assert ('Mask AP' in page.text) == masks
    score = evaluate_run(work_dir / '20260101_000000/vis_data/config.py', None, results).scores[0]
    assert f'{100 * score.stats["AP"]:.1f}' in page.text and f'{100 * score.per_class[1]["AP"]:.1f}' in page.text


def test_the_detector_is_run_without_results(tmp_path, monkeypatch):
    class Finder(torch.nn.Module):
        """Finds the first object of each image."""

        def test_step(self, data):
            for sample in data['data_samples']:
                sample.pred_instances = InstanceData(bboxes=torch.tensor([[5., 5., 25., 25.]]),
                                                     labels=torch.tensor([0]), scores=torch.tensor([0.8]))
            return data['data_samples']

    work_dir, _ = make_run(tmp_path, True, indices=3)
    monkeypatch.setattr(evaluation, 'init_detector', lambda cfg, checkpoint: Finder())
    found = evaluate_run(work_dir / '20260101_000000/vis_data/config.py', 'weights.pth')
    assert list(found.paths) == [0, 1, 2] and len(found.results) == 3, 'the images of the data set alone'
    assert found.results[0] == dict(image_id=0, category_id=7, bbox=[5., 5., 20., 20.], score=pytest.approx(0.8))
    assert found.scores[0].stats['AP50'] == pytest.approx(0.5 * 51 / 101, abs=0.01)


def test_without_an_evaluation_the_page_says_why(tmp_path):
    work_dir, results = make_run(tmp_path, False)
    report_run(work_dir, html=True)
    page = Page((work_dir / 'report.html').read_text(encoding='utf-8'))
    assert 'not evaluated for this page: there is no checkpoint.' in page.text
    assert '25.0 box AP 50.0 box AP50' in page.text, 'those of the log'
    config = work_dir / '20260101_000000/vis_data/config.py'
    cfg = Config.fromfile(config)
    plain = cfg.val_dataloader
    for loader, reason in ((None, 'no val_dataloader'), (dict(plain, dataset=dict(
            type='RepeatDataset', times=1, dataset=plain.dataset)), 'RepeatDataset, have no COCO')):
        cfg.val_dataloader = loader
        cfg.dump(tmp_path / 'other.py')
        with pytest.raises(SettingError, match=reason):
            evaluate_run(tmp_path / 'other.py', 'weights.pth', results)
