"""Hostile, damaged and odd files, through every loading path: one line or a right load, and nothing else happens.

One process that has imported everything forks a child with limits on memory and time for each file.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not hasattr(os, 'fork') or not Path('/proc/self/statm').exists(),
                                 reason='children are forked and limited as Linux does')]


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hostile')
    ran = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'tests.test_checkpoints.hostile.server', str(folder)],
                         cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)),
                         capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((folder / 'outcomes.json').read_text())


def reads(outcomes):
    for name, found in outcomes.items():
        for path, report in found['outcomes'].items():
            yield found, report, f'{name}, {path}: {report["outcome"]} {report["message"]}'


def test_there_are_enough(outcomes):
    assert len(outcomes) >= 150
    assert {len(found['outcomes']) for found in outcomes.values()} == {10}


def test_nothing_is_run_or_deleted(outcomes):
    assert not [name for name, found in outcomes.items() if found['ran'] or found['deleted']]
    assert not [what for _, report, what in reads(outcomes) if report['events']]


def test_no_class_or_module_is_changed(outcomes):
    assert not {name: found['changed'] for name, found in outcomes.items() if found['changed']}


def test_no_crash_and_no_limit_is_met(outcomes):
    assert not [what for _, report, what in reads(outcomes) if report['outcome'] in ('crashed', 'hung')]


def test_errors_are_one_line(outcomes):
    assert not [what for _, report, what in reads(outcomes) if report['outcome'] == 'traceback']
    said = [(report['message'], what) for _, report, what in reads(outcomes) if report['outcome'] == 'said']
    assert not [what for message, what in said if len(message.splitlines()) != 1 or len(message) > 800]


def test_garbage_is_refused_and_what_is_fine_is_loaded(outcomes):
    wrong = []
    for found in outcomes.values():
        for path, report in found['outcomes'].items():
            if path in found['refused_by'] and report['outcome'] == 'loaded' \
                    or path in found['loaded_by'] and report['outcome'] != 'loaded':
                wrong.append(f'{found["file"]}, {path}: {report["outcome"]} {report["message"]}')
    assert not wrong
