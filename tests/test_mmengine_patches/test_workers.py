"""The processes of a loader end when the process that they load for is killed, and load as they did before."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from swin_pos_det import mmengine_patches
from tests.test_engine.test_resume import Images

# Builds a loader through MMEngine, prints who loads, and waits to be killed while the workers wait for the main process
# to take a batch: in bytes, which fill a pipe.
LOADING = '''
import sys
import swin_pos_det
from mmengine.runner import Runner
from torch.utils.data import Dataset

class Large(Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return bytes(200000)

loader = Runner.build_dataloader(dict(
    batch_size=1, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=Large(),
    collate_fn=dict(type='pseudo_collate')), seed=0)
iterator = iter(loader)
next(iterator)
print('loading', *[worker.pid for worker in iterator._workers], flush=True)
sys.stdin.read()
'''


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='looks at processes in /proc')
def test_loader_processes_end_with_a_killed_main_process():
    main = subprocess.Popen([sys.executable, '-c', LOADING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    workers = _workers(main)
    assert len(workers) == 2 and all(map(_is_running, workers))
    main.send_signal(signal.SIGKILL)
    main.wait()
    limit = time.monotonic() + 60  # no measure of speed: without the patch they run for ever
    while any(map(_is_running, workers)) and time.monotonic() < limit:
        time.sleep(.1)
    left = [worker for worker in workers if _is_running(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    main.stdin.close()
    main.stdout.close()
    assert not left


def _workers(main):
    line = next(line for line in iter(main.stdout.readline, '') if line.startswith('loading'))
    return [int(pid) for pid in line.split()[1:]]


def _is_running(process):
    try:
        return '\nState:\tZ' not in Path(f'/proc/{process}/status').read_text()
    except OSError:
        return False


def settings(**changes):
    return dict(batch_size=2, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=True), dataset=Images(),
                collate_fn=dict(type='default_collate'), **changes)


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_they_load_what_they_loaded_before(kind):
    patched = kind.build_dataloader(settings(), seed=3)
    mmengine_patches.revert()
    try:
        plain = kind.build_dataloader(settings(), seed=3)
    finally:
        mmengine_patches.apply()
    assert patched.worker_init_fn.args[0].func is plain.worker_init_fn.func
    assert patched.worker_init_fn.args[0].keywords == plain.worker_init_fn.keywords
    for one, other in zip(patched, plain):
        assert torch.equal(one['batch'], other['batch'])


def test_loaders_without_processes_or_of_the_user_stay_as_they_are():
    own = DataLoader(Images(), num_workers=2)
    assert Runner.build_dataloader(own) is own and own.worker_init_fn is None
    without = Runner.build_dataloader(dict(settings(), num_workers=0), seed=3)
    assert 'swin_pos_det' not in without.worker_init_fn.func.__module__
