"""README and docs: links lead somewhere, commands parse and run, snippets train."""
from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config

from swin_pos_det.apis import init_detector
from swin_pos_det.cli.main import run_cli
from tests.test_apis import odd_images
from tests.test_cli import odd_settings
from tests.test_configs.tiny import shrink_model
from tests.test_data import odd_inputs
from tests.test_evaluation import odd_results
from tests.test_tools.conftest import load_tool

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'configs').rglob('*.md'),
                *(path for path in (ROOT / 'docs').rglob('*.md'))])
GUIDES = [page for page in PAGES if page.parent in (ROOT, ROOT / 'docs')]
CONFIG_PAGES = [page for page in PAGES if (ROOT / 'configs') in page.parents]
# Fenced blocks: (language, text).
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.S | re.M)
# Commands of other programs, which no test runs.
FOREIGN = ('pip', 'mim', 'source', 'export', 'git', 'docker')


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


@pytest.mark.parametrize('page', PAGES, ids=title)
def test_links_lead_somewhere(page):
    text = FENCE.sub('', page.read_text())
    targets = [target for target in re.findall(r'\]\(([^)\s]+)\)', text) if '://' not in target]
    missing = [target for target in targets if not (page.parent / target.split('#')[0]).exists()]
    assert missing == []


def test_the_readme_is_one_page():
    assert len((ROOT / 'README.md').read_text().split()) <= 1000


def commands(page: Path) -> list[str]:
    """Return the lines of the shell blocks, without variables before them, comments and continuations."""
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines()
    stripped = [re.sub(r'^(\w+=\S+ )+', '', line.split('  #')[0].strip()) for line in lines]
    return [line for line in stripped if line and not line.startswith('#')]


@pytest.mark.parametrize(('page', 'command'),
                         [(page, command) for page in (*GUIDES, *CONFIG_PAGES) for command in commands(page)],
                         ids=lambda value: value if isinstance(value, str) else title(value))
def test_commands_parse(page, command):
    program, *arguments = shlex.split(command)
    if program in FOREIGN:
        return
    if program == 'make':
        targets = re.findall(r'^(\w+):', (ROOT / 'Makefile').read_text(), re.M)
        assert {word for word in arguments if '=' not in word} <= set(targets)
    elif program.startswith('tools/'):
        assert (ROOT / program).is_file()
    else:
        assert program == 'python', command
        while arguments[0].startswith('-') and arguments[0] != '-m':
            arguments = arguments[1:]
        if arguments[0] == '-m':
            module = ROOT.joinpath(*arguments[1].split('.'))
            assert arguments[1] in ('pytest', 'venv') or module.with_suffix('.py').is_file() or module.is_dir()
            return
        parser = load_tool(arguments[0].removeprefix('tools/')).get_parser()
        if '--help' not in arguments:
            parser.parse_args(arguments[1:])  # SystemExit(2) fails the test


# --- commands that run ---

# Commands that the test below does not run: how they start, and what runs in their place or why nothing does.
NOT_RUN = {
    r'(pip|mim) install': 'installs packages',
    r'docker': 'needs a Docker daemon: docs/install.md says how the image was checked',
    r'source|export': 'changes the shell alone',
    r'make': 'sets the environment up, or runs this suite',
    r'python -m pytest': 'is a part of this suite',
    r'python tools/train.py configs/swin_pos|python tools/test.py configs/swin_pos':
        'needs COCO and days of a GPU: tests/test_configs/test_runs.py runs every config on a few images',
    r'python tools/train.py configs/position|python tools/train.py CONFIG':
        'needs COCO and days of a GPU: tests/test_configs/test_position_configs.py builds them',
    r'python tools/(train|test).py configs/classification':
        'takes a minute and needs mmpretrain: tests/test_configs/test_classification.py trains and tests it',
    r'python tools/(train|test).py configs/segmentation':
        'takes a minute and needs mmseg: tests/test_configs/test_segmentation.py trains and tests it',
    r'python tools/finetune.py data/pets|python tools/train.py work_dirs/pets/config.py':
        'downloads weights: tests/test_tools/test_finetune.py trains a small detector',
    r'python tools/\w+.py boxes.py': 'tests/test_configs/test_small_data.py runs all commands of its page',
    r'tools/dev/run_gpu_checks.sh': 'takes minutes: tests/test_tools/test_gpu_checks.py',
    r'(NNODES|tools/dist_train|GPUS|tools/slurm)': 'needs machines: tests/test_tools/test_shell_scripts.py',
    r'python tools/analysis_tools/benchmark_backbone.py': 'takes minutes: tests/test_tools/test_benchmark_backbone.py',
    r'python tools/analysis_tools/(ablate_position|study_windows).py':
        'takes hours: tests/test_tools/test_position_tools.py',
    r'python tools/analysis_tools/estimate_scaling.py( --network.*)?$':
        'counts four full-size models: tests/test_analysis/test_studies/test_scaling.py',
    r'python .*sweep_windows.py CONFIG CHECKPOINT --windows 8': 'as the sweep of docs/windows.md',
    r'python tools/deployment/export_backbone.py': 'is slow: tests/test_deployment/test_export.py',
    r'python tools/deployment/export_detector.py': 'is slow: tests/test_deployment/test_export_detector.py',
    r'python tools/(infer.py|test.py CONFIG) model.onnx':
        'needs that model: tests/test_deployment/test_onnx_detector.py',
    r'python tools/analysis_tools/report_run.py .*--html':
        'needs a training: tests/test_analysis/test_runs/test_html_report.py',
    r'python -m tests.test_checkpoints.hostile.(server|compare)':
        'takes minutes: tests/test_checkpoints/test_hostile_files.py reads a part of the files',
    r'python -m tests.test_engine.kills': 'takes hours: tests/test_engine/test_kills.py kills at some operations',
}


def is_run(command: str) -> bool:
    return not any(re.match(start, command) for start in NOT_RUN)


ALL_COMMANDS = sorted({command for page in (*GUIDES, *CONFIG_PAGES) for command in commands(page)})


def test_reasons_are_used_and_name_files():
    for start, reason in NOT_RUN.items():
        assert any(re.match(start, command) for command in ALL_COMMANDS), start
        for name in re.findall(r'tests/\S+\.py', reason):
            assert (ROOT / name).is_file(), name


@pytest.fixture(scope='module')
def user_folder(tmp_path_factory):
    """Return a folder with the files that commands and snippets name: a tiny detector, images, annotations."""
    folder = tmp_path_factory.mktemp('user')
    cfg = Config.fromfile(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py')
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.update(data_root=str(folder / 'digits'), num_train=1, num_val=1)
    cfg.test_dataloader.dataset.pipeline[1].scale = (64, 64)
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.model.test_cfg.rcnn.max_per_img = 4
    cfg.dump(str(folder / 'config.py'))
    torch.save(dict(state_dict=init_detector(cfg, device='cpu').state_dict()), folder / 'epoch_12.pth')
    boxes = [dict(id=1, image_id=1, category_id=1, bbox=[8, 8, 40, 40], area=1600, iscrowd=0,
                  segmentation=[[8, 8, 48, 8, 48, 48]])]
    for name in ('train', 'val'):
        (folder / f'{name}.json').write_text(json.dumps(dict(
            images=[dict(id=1, file_name='a.jpg', width=128, height=96)], annotations=boxes,
            categories=[dict(id=1, name='cat'), dict(id=2, name='dog')])))
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    for path in ('a.jpg', 'b.jpg', 'photo.jpg', 'images/a.jpg', 'photos/a.jpg', 'more/below/c.jpg'):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), pixels)
    film = cv2.VideoWriter(str(folder / 'film.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 5, (128, 96))
    film.write(pixels)
    film.release()
    return folder


@pytest.fixture
def _as_user(user_folder, monkeypatch):
    monkeypatch.chdir(user_folder)


@pytest.mark.usefixtures('_as_user')
@pytest.mark.parametrize('command', [command for command in ALL_COMMANDS if is_run(command)])
def test_commands_run(command, capsys):
    words = dict(CONFIG='config.py', CHECKPOINT='epoch_12.pth', FILE='epoch_12.pth', IN='epoch_12.pth')
    python, tool, *arguments = [words.get(word, word) for word in shlex.split(command)]
    assert python == 'python'
    module = load_tool(tool.removeprefix('tools/'))
    status = module.main(arguments) if hasattr(module, 'main') else run_cli(module.run, module.get_parser(), arguments)
    assert status == 0, capsys.readouterr().err


# --- snippets ---


# Snippets that the tests below do not run: a part of the text, and the test that does.
RUN_ELSEWHERE = {
    "load_from = 'https://": 'tests/test_configs/test_small_data.py',
    'skip_unreadable_images': 'tests/test_data/test_image_loading.py',
    'SwinPosSegDataPreProcessor': 'tests/test_models/test_padding_elsewhere.py',
    'SwinPosClsDataPreprocessor': 'tests/test_models/test_padding_elsewhere.py',
    'BaseHTTPRequestHandler': 'tests/test_deployment/test_onnx_detector.py',
}
# Those of small_data.md have a test of their own, which trains with them.
SNIPPETS = [(page, text) for page in GUIDES if page.name != 'small_data.md' for text in blocks(page, 'python')
            if not any(part in text for part in RUN_ELSEWHERE)]
PROGRAMS = [text for _, text in SNIPPETS if text.startswith(('from ', 'import '))]
# A block with several models is as many configs.
CONFIG_SNIPPETS = [(page, part) for page, text in SNIPPETS if text not in PROGRAMS
                   for part in (re.split(r'\n(?=model = )', text) if text.startswith('model = ') else [text])]


def small_snippet(text: str, folder: Path) -> Config:
    """Return the config of a snippet, which is whole or adds to mmdet's Mask R-CNN with a Swin, with a small model."""
    text = text.replace("'configs/", f"'{ROOT}/configs/")
    if '_base_' not in text:
        text = ("_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'\n"
                "custom_imports = dict(imports=['swin_pos_det'])\n" + text)
    (folder / 'snippet.py').write_text(text)
    cfg = Config.fromfile(folder / 'snippet.py')
    cfg.model.backbone.update(type=cfg.model.backbone.type.replace('SwinTransformer', 'SwinPosTransformer'))
    shrink_model(cfg.model)  # which drops init_cfg: tests/test_checkpoints/test_formats.py loads such files
    return cfg


@pytest.mark.parametrize(('page', 'text'), CONFIG_SNIPPETS,
                         ids=lambda value: title(value) if isinstance(value, Path) else '')
def test_config_snippets_train(page, text, tmp_path):
    model = MODELS.build(small_snippet(text, tmp_path).model)
    inputs = demo_mm_inputs(2, [(3, 64, 96), (3, 96, 64)], num_classes=2, with_mask=True)
    losses = model(**model.data_preprocessor(inputs, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.usefixtures('_as_user')
@pytest.mark.parametrize('text', PROGRAMS, ids=['deployment'])
def test_inference_snippets_run(text):
    names = {}
    exec(text, names)
    assert len(names['samples']) == 2 and names['model'].backbone.window_size[0] == (12, 12)


def test_counts_of_odd_inputs():
    tables = (odd_inputs.ROWS, odd_results.CASES, odd_settings.ODD_SETTINGS, odd_images.ODD)
    page = (ROOT / 'docs/data.md').read_text()
    assert re.findall(r'^\| \[\w+\]\(\.\./tests/\S+ .*? \| (\d+) \|', page, re.M) == [str(len(rows)) for rows in tables]
    assert f'All {sum(map(len, tables))} rows' in page
