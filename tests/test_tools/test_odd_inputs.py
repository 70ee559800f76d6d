"""Odd inputs of each kind through whole tools, in one process: all tell the same line, or give the same figure."""
from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

from tests.test_data import odd_inputs as odd
from tests.test_data.odd_inputs import HEIGHT, RLE, WIDTH, Scene

from .conftest import load_tool

EVALUATED = ('train', 'test', 'sweep')


@MODELS.register_module(force=True)
class PerfectDetector(BaseModel):
    """Finds in each image what was there before a row changed the annotations."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.backbone = torch.nn.Linear(1, 1)

    def forward(self, inputs: torch.Tensor, data_samples: list, mode: str = 'tensor') -> Any:
        if mode == 'loss':
            return dict(loss=self.backbone.weight.square().sum())
        truth = odd.annotations('v')
        names = [image['file_name'] for image in truth['images']]
        for sample in data_samples:
            number = names.index(Path(sample.img_path).name) + 1
            own = [item for item in truth['annotations'] if item['image_id'] == number]
            boxes = torch.tensor([item['bbox'] for item in own])
            boxes[:, 2:] += boxes[:, :2]
            masks = torch.zeros(len(own), HEIGHT, WIDTH, dtype=torch.bool)
            for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
                mask[top:bottom, left:right] = True
            sample.pred_instances = InstanceData(
                bboxes=boxes, masks=masks, scores=torch.linspace(.9, .8, len(own)),
                labels=torch.tensor([(item['category_id'] - 5) // 4 for item in own]))
        return data_samples


@dataclass(frozen=True)
class Row:
    """An odd input.

    Attributes:
        name: of the input.
        change: see :class:`tests.test_data.odd_inputs.Row`.
        lines: for each tool that it concerns a regular expression for its one line; or the AP that all give.
        classes: of the checkpoint.
        arguments: of eval_coco.py.
    """
    name: str
    change: Callable[[Scene], Any]
    lines: Any
    classes: tuple[str, ...] = ('cat', 'dog')
    arguments: tuple[str, ...] = field(default=())


def says(line: str, *more: str) -> dict[str, str]:
    """Expect the same line from training, test and sweep, and from others."""
    return dict.fromkeys((*EVALUATED, *more), line)


def all_val(**fields: Any) -> Callable[[Scene], None]:
    return odd.of('val', **fields)


def segm(number: int, segmentation: Any) -> Callable[[Scene], None]:
    return odd.both(odd.of('val', number, segmentation=segmentation),
                    lambda scene: scene.cfg.val_evaluator.update(metric=['bbox', 'segm']))


def number(section: str, new: Callable[[int], Any]) -> Callable[[Scene], None]:
    """Give the annotations or images of the evaluation other ids."""
    def change(scene: Scene) -> None:
        for item in scene.val[section]:
            item['id'] = new(item['id'])
        for item in scene.val['annotations'] if section == 'images' else ():
            item['image_id'] = new(item['image_id'])
    return change


def setting(**settings: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.cfg.val_evaluator.update(settings)


ROWS = [
    Row('nothing to learn', odd.of('train', area=0), dict(train='no object is left to learn: .* 24 of area 0')),
    Row('shares', odd.boxes('train', lambda box: [v / 100 for v in box]), dict(train='look like shares')),
    Row('a text for classes', odd.dataset('val', metainfo=dict(classes='cat')), says(r"write \('cat', \)")),
    Row('another order in val', odd.reverse('val'), dict(
        train="class 'cat' has label 0 in .*train.json and 1", test='label 0 in the checkpoint and 1',
        sweep='label 0 in the checkpoint and 1')),
    Row('a checkpoint of another order', lambda scene: None, dict.fromkeys(
        ('test', 'sweep', 'resume'), "class 'dog' has label 0 in the checkpoint"), classes=('dog', 'cat')),
    Row('only crowds', all_val(iscrowd=1), dict(
        says('nothing can be found: .* 24 crowd'), eval_coco='has no object to evaluate')),
    Row("another file's evaluator", setting(ann_file='none.json'), says('none.json, which does not exist')),
    Row("the training's evaluator", lambda scene: setting(ann_file=str(scene.root / 'train.json'))(scene), says(
        "image 1 is 'v0.jpg' here and 't0.jpg' there")),
    Row('two data sets, one evaluator', odd.concat, says('MultiDatasetsEvaluator')),
    Row('swapped size of masks', segm(1, dict(RLE, size=[WIDTH, HEIGHT])), says('they are swapped', 'eval_coco')),
    Row('masks that do not add up', segm(1, dict(RLE, counts=[5, 5])), says('add up to 10 pixels', 'eval_coco')),
    Row('100 is not counted', setting(proposal_nums=(1, 10, 50)), says(
        'three ascending numbers with 100', 'eval_coco'), arguments=('--max-dets', '1', '10', '50')),
    Row('a missing image', odd.image(Path.unlink, 'val'), says('1 of the 6 images of .*val.json are missing')),
    Row('a truncated image', odd.image(lambda path: path.write_bytes(path.read_bytes()[:-60]), 'val'),
        dict(says('it is truncated'), infer='cannot be read|not readable|is truncated|is damaged')),
    Row('an empty image', odd.image(lambda path: path.write_bytes(b''), 'val'),
        dict(says('1 of the 6 images of .* are empty'), infer='is empty|is no image')),
    Row('two images of one id', odd.item('val', 'images', id=1), says('images have the id 1', 'eval_coco')),
    Row('NaN in a box', odd.item('val', 'annotations', bbox=[float('nan'), 2, 3, 4]), says(
        'four finite numbers', 'eval_coco')),
    Row('no annotations', odd.without('val', 'annotations'), says('has no annotations', 'eval_coco')),
    Row('no categories', odd.without('val', 'categories'), says('has no categor', 'eval_coco')),
    Row('half a file', odd.text('val', lambda text: text[:99].encode()), says('is not JSON', 'eval_coco')),
    # Figures
    Row('annotation ids from 0', number('annotations', lambda i: i - 1), 1.),
    Row('annotation ids that are words', number('annotations', 'object {}'.format), 1.),
    Row('image ids that are text', number('images', str), 1.),
    Row('boxes outside', odd.boxes('val', lambda box: [box[0] + 500, *box[1:]], 6), 0.564),
]


@pytest.fixture(scope='module')
def tools():
    names = dict(train='train.py', test='test.py', sweep='analysis_tools/sweep_windows.py', infer='infer.py',
                 reproduce='reproduce.py', eval_coco='analysis_tools/eval_coco.py',
                 report='analysis_tools/report_run.py')
    return {name: load_tool(path) for name, path in names.items()}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr('logging.raiseExceptions', False)
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)


def write(row: Row, evaluator: str = 'pycocotools') -> None:
    """Write the scene, a config, a checkpoint, and results of a perfect detector."""
    scene = Scene(Path('scene').absolute())
    row.change(scene)
    scene.write_all()
    cfg = scene.cfg
    loads, resize = cfg.val_dataloader.dataset.get('pipeline') or cfg.val_dataloader.dataset.datasets[0].pipeline, dict(
        type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True)
    steps = [*deepcopy(loads), resize, dict(type='PackDetInputs')]
    for dataset in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset,
                    *cfg.val_dataloader.dataset.get('datasets', ())):
        if dataset.get('pipeline'):
            dataset.pipeline = deepcopy(steps)
    if evaluator != 'pycocotools':
        cfg.val_evaluator.update(type='SwinPosCocoMetric', evaluator=evaluator)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    cfg.update(
        model=dict(type='PerfectDetector', data_preprocessor=dict(type='DetDataPreprocessor')),
        custom_imports=dict(imports=['swin_pos_det']), test_dataloader=cfg.val_dataloader,
        test_evaluator=cfg.val_evaluator, train_cfg=dict(by_epoch=True, max_epochs=1, val_interval=1),
        val_cfg=dict(type='ValLoop'), test_cfg=dict(type='TestLoop'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), log_level='WARNING',
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook')))
    Config(ConfigDict(cfg)).dump(config_name())
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), optimizer={}, param_schedulers=[],
                    message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
                    meta=dict(dataset_meta=dict(classes=row.classes), epoch=0, iter=0, mmengine_version='0')),
               'start.pth')
    found = [dict(image_id=item['image_id'], category_id=item['category_id'], bbox=item['bbox'], score=.9,
                  segmentation=RLE)
             for item in odd.annotations('v')['annotations']]
    Path('found.json').write_text(json.dumps(found))


def config_name() -> str:
    """Return a name for each test: MMEngine keeps loggers by the config's name and the second."""
    return f'{Path.cwd().name}.py'


def command(tool: str, row: Row) -> tuple[str, list[str]]:
    config = config_name()
    arguments = dict(
        train=[config, '--work-dir', 'run'], resume=[config, '--work-dir', 'run', '--resume', 'start.pth'],
        test=[config, 'start.pth', '--work-dir', 'test', '--out', 'results.json'],
        sweep=[config, 'start.pth', '--work-dir', 'sweep'],
        infer=[config, 'start.pth', 'scene/val/v1.jpg', '--out', 'out'],
        eval_coco=['found.json', 'scene/val.json', *row.arguments])
    return 'train' if tool == 'resume' else tool, arguments[tool]


@pytest.mark.parametrize('row', [row for row in ROWS if isinstance(row.lines, dict)], ids=lambda row: row.name)
def test_one_line_in_every_tool(row, tools, capsys):
    write(row)
    for name, line in row.lines.items():
        tool, arguments = command(name, row)
        capsys.readouterr()
        assert tools[tool].main(arguments) == 1, name
        err = capsys.readouterr().err
        errors = [text for text in err.splitlines() if text.startswith('error: ')]
        assert len(errors) == 1 and re.search(line, errors[0]), (name, err)
        assert 'Traceback' not in err


@pytest.mark.parametrize('evaluator', ['pycocotools', 'faster'])
@pytest.mark.parametrize('row', [row for row in ROWS if not isinstance(row.lines, dict)], ids=lambda row: row.name)
def test_one_figure_in_every_tool(row, evaluator, tools, capsys):
    if evaluator == 'faster':
        pytest.importorskip('faster_coco_eval')
    write(row, evaluator)
    for name in EVALUATED:
        tool, arguments = command(name, row)
        assert tools[tool].main(arguments) == 0, capsys.readouterr().err
    assert tools['eval_coco'].main(['results.json', 'scene/val.json', '--metric', 'bbox', '--evaluator', evaluator,
                                    '--out', 'ap.json']) == 0
    assert tools['report'].main(['run', '--num-images', '0']) == 0
    figures = dict(
        train=json.loads(next(Path('run').glob('*/vis_data/scalars.json')).read_text().splitlines()[-1])[
            'coco/bbox_mAP'],
        test=json.loads(next(Path('test').glob('*/*.json')).read_text())['coco/bbox_mAP'],
        sweep=json.loads(Path('sweep/sweep.json').read_text())['rows'][0]['bbox_mAP'],
        eval_coco=json.loads(Path('ap.json').read_text())['bbox']['stats']['AP'],
        report=json.loads(Path('run/metrics.json').read_text())['final']['bbox_mAP'])
    assert figures == pytest.approx(dict.fromkeys(figures, row.lines), abs=6e-4)


METAFILE = """
Models:
  - Name: odd
    Config: {config}
    Metadata: {{Training Data: Cats and dogs}}
    Results: [{{Metrics: {{box AP: {ap}}}, Record: odd.md, Setup: none}}]
"""


@pytest.mark.parametrize('arguments', [('--train', ), ('--checkpoint', 'start.pth')], ids=['resumes', 'evaluates'])
def test_reproduce_makes_the_same_checks(arguments, tools, capsys):
    row, = [row for row in ROWS if 'resume' in (row.lines if isinstance(row.lines, dict) else ())]
    write(row)
    Path('metafile.yml').write_text(METAFILE.format(config=config_name(), ap=100))
    Path('index.yml').write_text('Import: [metafile.yml]')
    Path('run').mkdir()
    Path('run/epoch_0.pth').write_bytes(Path('start.pth').read_bytes())
    Path('run/last_checkpoint').write_text('run/epoch_0.pth')
    assert tools['reproduce'].main(['odd', '--index', 'index.yml', '--work-dir', 'run', *arguments]) == 1
    assert re.search(row.lines['test'], capsys.readouterr().err)
