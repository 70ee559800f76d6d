"""The shell scripts pass every argument on as it is, from any directory."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'
EXTRA = ['--cfg-options', 'a.b="(1, 2)"', 'name=two words', '--amp']


@pytest.fixture
def echo(tmp_path):
    """Return a program that prints its arguments, one a line; it stands for Python and for srun."""
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


@pytest.mark.parametrize('how', [['--max-restarts', '4'], ['--max-restarts=4'], None])
def test_restarts(echo, tmp_path, how):
    """With a rendezvous that tells the other machines, hosted by the first."""
    for rank in (0, 1):
        env = {} if how else dict(MAX_RESTARTS=4)
        done = run('dist_train.sh', 'c.py', '3', '--amp', *(how or []), '--resume', cwd=tmp_path, PYTHON=echo, NNODES=2,
                   NODE_RANK=rank, MASTER_ADDR='10.0.0.1', PORT=29511, RDZV_ID='job', **env)
        assert done.stdout.splitlines() == [
            '-m', 'torch.distributed.run', '--nnodes=2', '--rdzv_backend=c10d', '--rdzv_endpoint=10.0.0.1:29511',
            '--rdzv_id=job', f'--rdzv_conf=is_host={1 - rank}', '--max_restarts=4', '--nproc_per_node=3',
            str(TOOLS / 'train.py'), 'c.py', '--launcher', 'pytorch', '--amp', '--resume'], done.stderr


def test_restarts_must_be_a_number(echo, tmp_path):
    done = run('dist_train.sh', 'c.py', '3', '--max-restarts', 'many', cwd=tmp_path, PYTHON=echo)
    assert done.returncode == 2
    assert "must be a number, got 'many'" in done.stderr


@pytest.mark.parametrize('gpus', ['0', 'x', '-1', '--amp'])
def test_gpus_must_be_a_number(echo, tmp_path, gpus):
    done = run('dist_train.sh', 'c.py', gpus, cwd=tmp_path, PYTHON=echo)
    assert done.returncode == 2
    assert f"the number of GPUs must be at least 1, got '{gpus}'" in done.stderr


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_slurm(echo, tmp_path, script):
    """srun starts a task per machine, and each finds out where the first is."""
    (tmp_path / 'srun').write_text('#!/bin/bash\nprintf "%s\\n" "$@" > srun_arguments\n'
                                   'while [ "$1" != bash ]; do shift; done\n'
                                   'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done\n')
    (tmp_path / 'scontrol').write_text('#!/bin/sh\n[ "$*" = "show hostnames node[3-4]" ] || exit 1\n'
                                       'printf "node3\\nnode4\\n"\n')
    for name in ('srun', 'scontrol'):
        (tmp_path / name).chmod(0o755)
    done = run(script, 'gpus', 'my job', 'my config.py', 'my path', *EXTRA, '--max-restarts', '2', cwd=tmp_path,
               GPUS=8, GPUS_PER_NODE=4, CPUS_PER_TASK=6, SRUN_ARGS='--mem=8G --quiet', PYTHON=echo, SLURM_NNODES=2,
               SLURM_JOB_ID=7, SLURM_JOB_NODELIST='node[3-4]', PATH=f'{tmp_path}:{os.environ["PATH"]}')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'srun_arguments').read_text().splitlines()[:9] == [
        '--partition=gpus', '--job-name=my job', '--gres=gpu:4', '--nodes=2', '--ntasks-per-node=1',
        '--cpus-per-task=24', '--kill-on-bad-exit=1', '--mem=8G', '--quiet']
    train = 'train' in script
    positional = ['my config.py', '--launcher', 'pytorch', '--work-dir', 'my path'] if train else [
        'my config.py', 'my path', '--launcher', 'pytorch']
    want = [line for rank in (0, 1) for line in [
        '-m', 'torch.distributed.run', '--nnodes=2', '--rdzv_backend=c10d', '--rdzv_endpoint=node3:20007',
        '--rdzv_id=7', f'--rdzv_conf=is_host={1 - rank}', '--max_restarts=2', '--nproc_per_node=4',
        str(TOOLS / ('train.py' if train else 'test.py')), *positional, *EXTRA]]
    assert done.stdout.splitlines() == want


def test_slurm_wants_whole_machines(echo, tmp_path):
    done = run('slurm_train.sh', 'gpus', 'job', 'c.py', 'dir', cwd=tmp_path, GPUS=12, GPUS_PER_NODE=8)
    assert done.returncode == 2
    assert 'GPUS=12 is no multiple of GPUS_PER_NODE=8' in done.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_too_few_arguments_print_the_usage(tmp_path, script):
    done = run(script, 'config.py', cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f'usage: {script}')


def test_which_python(echo, tmp_path):
    """PYTHON, else the active environment's, else that of the repository's .venv, else the first on the path."""
    tools = tmp_path / 'clone/tools'
    shutil.copytree(TOOLS, tools, ignore=shutil.ignore_patterns('*.py', '__pycache__'))
    for name in ('given', 'active/bin/python', 'clone/.venv/bin/python'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {name}\n')
        path.chmod(0o755)
    plain = {key: value for key, value in os.environ.items() if key not in ('PYTHON', 'VIRTUAL_ENV', 'CONDA_PREFIX')}
    active = dict(VIRTUAL_ENV=str(tmp_path / 'active'), PATH=f'{tmp_path / "active/bin"}:{os.environ["PATH"]}')

    def ran(**env):
        done = subprocess.run(['bash', tools / 'dist_train.sh', 'c.py', '1'], cwd=tmp_path, capture_output=True,
                              text=True, check=True, env={**plain, **env})
        return done.stdout.strip()

    assert ran(PYTHON=str(tmp_path / 'given'), **active) == 'given'
    assert ran(**active) == 'active/bin/python'
    assert ran() == 'clone/.venv/bin/python'
    shutil.rmtree(tmp_path / 'clone/.venv')
    assert ran(PATH=active['PATH']) == 'active/bin/python'
