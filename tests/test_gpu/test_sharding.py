"""FSDP and DeepSpeed on real GPUs, by their configs: as many processes as there are GPUs, at most two, over NCCL."""
from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.test_engine import jobs
from tests.test_engine.test_distributed import CONFIG, DEEPSPEED, FSDP, WITHOUT_DEEPSPEED, entries

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('strategy', ['fsdp', 'deepspeed'])
def test_trains_and_resumes(tmp_path, strategy):
    """Two epochs, and the second again from the checkpoint of the first."""
    if strategy == 'deepspeed' and importlib.util.find_spec('deepspeed') is None:
        pytest.skip(WITHOUT_DEEPSPEED)
    for name, text in dict(tiny=CONFIG, fsdp=FSDP, deepspeed=DEEPSPEED).items():
        (tmp_path / f'{name}.py').write_text(text)
    ranks = min(torch.cuda.device_count(), 2)
    losses = []
    for arguments in (['run'], ['again', '--resume', 'run/epoch_1.pth']):
        log = tmp_path / f'{arguments[0]}.log'
        status = jobs.launch(log, jobs.run_tool, 'train', tmp_path, f'{strategy}.py', '--work-dir', *arguments,
                             ranks=ranks)
        assert status == [0], log.read_text(errors='replace')[-4000:]
        losses.append([entry['loss'] for entry in entries(tmp_path / arguments[0]) if 'loss' in entry])
    first, again = losses
    assert len(first) == 2 * len(again) >= 4 and first[-1] < first[0]
    assert again == pytest.approx(first[len(again):], rel=1e-3)
