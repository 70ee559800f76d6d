"""tools/dev/run_gpu_checks.sh with a Python that only notes what it is told, and its measurements on the CPU."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import ROOT, load_tool

SCRIPT = ROOT / 'tools/dev/run_gpu_checks.sh'
pytestmark = pytest.mark.skipif(os.name != 'posix', reason='a shell script')

PYTHON = """#!/bin/sh
{ printf '%s|' "$@"; echo "$MALLOC_TRIM_THRESHOLD_"; } >> "$LOG"
case "$*" in
    *--check*) exit "$NO_CUDA" ;;
    *--about*) echo "a device"; exit ;;
    *"-m pytest"*) echo "3 passed"; exit "$FAILED" ;;
    *"-m pip"*) exit ;;
esac
while [ "$1" != --record ]; do shift; done
echo tables > "$2"
case "$2" in *backbones.md) exit "$CUT" ;; esac
"""


@pytest.fixture
def run(tmp_path):
    python = tmp_path / 'python'
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(*arguments, **env):
        settings = dict(os.environ, PYTHON=str(python), LOG=str(tmp_path / 'log'), NO_CUDA='0', FAILED='0', CUT='0')
        return subprocess.run(['bash', SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False,
                              env={**settings, **env}, cwd=tmp_path)
    return run


def calls(tmp_path):
    return [line.split('|') for line in (tmp_path / 'log').read_text().splitlines() if '--about' not in line]


@pytest.mark.parametrize('failed', [0, 1])
def test_each_part_has_a_record(run, tmp_path, failed):
    done = run('records/gpu.md', FAILED=str(failed), CUT='124')
    assert done.returncode == 1
    text = (tmp_path / 'records/gpu.md').read_text()
    assert 'a device' in text and '3 passed' in text and f'- tests: exit status {failed}' in text
    assert '- [backbones](gpu-backbones.md): stopped after 145 s' in text
    for part in ('attention', 'detector', 'detector-malloc'):
        assert f'- [{part}](gpu-{part}.md): exit status 0' in text and (tmp_path / f'records/gpu-{part}.md').is_file()
    check, attention, backbones, detector, malloc, tests = calls(tmp_path)
    assert check[1:4] == ['--check', '--device', 'cuda']
    for part, kind in ((attention, 'attention'), (backbones, 'backbones')):
        assert part[:3] == ['tools/dev/gpu_speed.py', '--part', kind] and '--tiny' not in part
    assert detector[-1] == '' and malloc[-1] == '4294967296'
    assert tests[:4] == ['-m', 'pytest', '-m', 'gpu']
    for part in (detector, malloc):
        assert load_tool('analysis_tools/benchmark_backbone.py').get_parser().parse_args(part[1:-1]).device == 'cuda'
    again = run('records/gpu.md')
    assert again.returncode == 1 and 'gpu.md is there already' in again.stderr


def test_on_a_cpu_and_with_wheels(run, tmp_path):
    (tmp_path / 'wheels').mkdir()
    (tmp_path / 'wheels/some-1.0-py3-none-any.whl').write_text('')
    done = run('--cpu', '--wheels', 'wheels', 'gpu.md')
    assert done.returncode == 0, done.stderr
    install, check, attention, backbones, *_ = calls(tmp_path)
    assert install[:4] == ['-m', 'pip', 'install', '-q'] and 'wheels/some-1.0-py3-none-any.whl' in install
    assert check[-2] == attention[4] == backbones[4] == 'cpu' and '--tiny' in attention and '--tiny' in backbones


def test_mistakes(run):
    assert run(NO_CUDA='1').returncode == 1
    assert 'unknown argument --fast' in run('--fast').stderr
    assert '--wheels DIR' in run('--help').stdout


def test_every_way_is_measured_on_a_cpu(tmp_path, monkeypatch, capsys):
    tool = load_tool('dev/gpu_speed.py')
    monkeypatch.setattr(tool, 'WINDOWS', (7, ))
    compiled = []
    monkeypatch.setattr('torch.compile', lambda model, backend: compiled.append(backend) or model)
    rows = {}
    for part in ('attention', 'backbones'):
        path = tmp_path / f'{part}.md'
        monkeypatch.setattr(
            sys, 'argv', ['gpu_speed.py', '--part', part, '--device', 'cpu', '--tiny', '--record', str(path)])
        assert tool.main() == 0
        text = path.read_text()
        assert text in capsys.readouterr().out
        rows[part] = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| 7 | ')]
    measured = [row for row in rows['attention'] if row[2] == 'sdpa']
    assert [row[1] for row in measured] == ['float16', 'bfloat16']
    assert all(float(error) < 0.02 for row in measured for error in row[3:7])
    others = [row for row in rows['attention'] if row[2] == 'triton']
    assert [row[3][:44] for row in others] == ["SettingError: attention implementation 'trit"] * 2
    assert [row[3] for row in rows['backbones']] == [*tool.FORWARD, *tool.TRAIN, 'mmdet', 'ours, compiled']
    assert all(float(row[4]) > 0 for row in rows['backbones']) and compiled == ['eager']


def test_time_that_is_over_ends_the_list(tmp_path):
    tool = load_tool('dev/gpu_speed.py')
    record = tool.Record(tmp_path / 'r.md')
    tool.check_backbones(record, 'cpu', True, lambda step: 1., ends=0.)
    assert (tmp_path / 'r.md').read_text().endswith('The time is over: what follows was not run.\n')


def test_what_is_missing_is_named(monkeypatch, capsys):
    tool = load_tool('dev/gpu_speed.py')
    monkeypatch.setattr(tool, 'NEEDED', ('sys', 'no_such_module', 'os'))
    assert tool.check('cpu') == 1
    assert capsys.readouterr().err == 'error: no_such_module cannot be imported: bring wheels (--wheels DIR)\n'
