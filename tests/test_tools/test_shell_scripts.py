"""The shell scripts pass every argument on as it is, from any directory."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'
EXTRA = ['--cfg-options', 'a.b="(1, 2)"', 'name=two words', '--amp']


@pytest.fixture
def echo(tmp_path):
    """A program that prints its arguments, one a line; it stands for Python and for srun."""
    path = tmp_path / 'echo program'
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


def run(script, *arguments, cwd, **env):
    return subprocess.run(['bash', TOOLS / script, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
                          env={**os.environ, **{key: str(value) for key, value in env.items()}})


@pytest.mark.parametrize(('script', 'positional'), [
    ('dist_train.sh', ['my config.py']), ('dist_test.sh', ['my config.py', 'my model.pth'])])
def test_distributed(echo, tmp_path, script, positional):
    done = run(script, *positional, '3', *EXTRA, cwd=tmp_path, PYTHON=echo, NNODES=2, NODE_RANK=1,
               MASTER_ADDR='10.0.0.1', PORT=29511)
    assert done.returncode == 0, done.stderr
    tool = str(TOOLS / f'{"train" if "train" in script else "test"}.py')
    assert done.stdout.splitlines() == [
        '-m', 'torch.distributed.run', '--nnodes=2', '--node_rank=1', '--master_addr=10.0.0.1', '--master_port=29511',
        '--nproc_per_node=3', tool, *positional, '--launcher', 'pytorch', *EXTRA]


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_slurm(echo, tmp_path, script):
    echo.rename(tmp_path / 'srun')
    done = run(script, 'gpus', 'my job', 'my config.py', 'my path', *EXTRA, cwd=tmp_path, GPUS=16, GPUS_PER_NODE=4,
               CPUS_PER_TASK=6, SRUN_ARGS='--mem=8G --quiet', PYTHON='py', PATH=f'{tmp_path}:{os.environ["PATH"]}')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:9] == ['--partition=gpus', '--job-name=my job', '--gres=gpu:4', '--ntasks=16', '--ntasks-per-node=4',
                         '--cpus-per-task=6', '--kill-on-bad-exit=1', '--mem=8G', '--quiet']
    train = 'train' in script
    assert lines[9:] == ['py', '-u', str(TOOLS / ('train.py' if train else 'test.py')), 'my config.py',
                         *(['--work-dir', 'my path'] if train else ['my path']), '--launcher', 'slurm', *EXTRA]


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_too_few_arguments_print_the_usage(tmp_path, script):
    done = run(script, 'config.py', cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f'usage: {script}')
