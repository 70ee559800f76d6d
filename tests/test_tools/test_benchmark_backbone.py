"""The command line of the benchmark, and the script that runs it on a GPU."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.analysis.benchmark.cases import PRESETS, Case, DetectorCase

from .conftest import ROOT, load_tool


@pytest.fixture(scope='module')
def tool():
    return load_tool('analysis_tools/benchmark_backbone.py')


def cases(tool, *arguments):
    return tool.get_cases(tool.get_parser().parse_args(arguments))


def test_lists_replace_those_of_the_preset(tool):
    assert cases(tool) == [Case(size=(512, 512))]
    found = cases(tool, '--preset', 'windows', '--windows', '7', 'global', '--sizes', '224', '96x128')
    assert {case.window for case in found} == {7, 'global'}
    assert {case.size for case in found} == {(224, 224), (96, 128)}
    assert {case.compiled for case in found} == {False, True}, "the preset's"
    assert all(case.pixels <= 1.2e6 for case in cases(tool, '--preset', 'full', '--max-megapixels', '1.2'))
    assert set(PRESETS) <= set(tool.get_parser().format_help().replace(':', ' ').split())


def test_detectors_have_modes_of_their_own(tool):
    config = str(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py')
    assert cases(tool, '--detector', config, '--sizes', '256', '--batches', '2') == [
        DetectorCase('train', config, (256, 256), 2), DetectorCase('inference', config, (256, 256), 2)]


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--detector', 'gone.py'], 'config gone.py does not exist'),
    (['--detector', 'gone.py', '--modes', 'forward'], '--detector has the modes train and inference'),
    (['--modes', 'inference'], 'needs --detector'),
    (['--ablate', '--device', 'cuda'], '--ablate measures the backbone on the CPU'),
    (['--max-megapixels', '0.1'], '--max-megapixels 0.1 leaves nothing to measure'),
    (['--models', 'timm', '--python', 'timm=/nowhere/python'], 'no model can be run: timm: cannot run /nowhere/python'),
])
def test_mistakes_are_told_in_one_line(tool, capsys, arguments, message):
    assert tool.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and lines[-1].startswith('error: ')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device here')
def test_cuda_without_a_device(tool, capsys):
    assert tool.main(['--device', 'cuda']) == 1
    assert 'torch sees no CUDA device here' in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [
    ['--windows', '0'], ['--windows', 'big'], ['--sizes', '800x'], ['--sizes', '1x2x3'], ['--python', 'keras=python'],
    ['--python', 'timm'], ['--batches', '-1']])
def test_what_cannot_be_read(tool, capsys, arguments):
    with pytest.raises(SystemExit):
        tool.get_parser().parse_args(arguments)
    assert arguments[1] in capsys.readouterr().err
