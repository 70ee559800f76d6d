"""The main job on a tiny scale: train, get killed, resume, evaluate, report."""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swin_pos_det.checkpoints import load_checkpoint_file

ROOT = Path(__file__).parents[2]
EPOCHS, BATCH, IMAGES = 2, 2, 8

# Every detection counts, so that the barely trained model's recalls are not all 0.
CONFIG = f"""
_base_ = '{ROOT}/configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'
recipe = dict(num_train={IMAGES}, num_val=5, seed=5, data_root='digits')
train_dataloader = dict(batch_size={BATCH}, num_workers=0, persistent_workers=False,
                        dataset=dict(filter_cfg=None, **recipe))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=recipe)
test_dataloader = val_dataloader
val_evaluator = dict(metric=['bbox', 'segm', 'proposal'])
test_evaluator = val_evaluator
model = dict(test_cfg=dict(rpn=dict(nms_pre=2000, max_per_img=1000), rcnn=dict(score_thr=0., max_per_img=200)))
train_cfg = dict(max_epochs={EPOCHS}, val_interval={EPOCHS})
default_hooks = dict(logger=dict(interval=1))
"""


def tool(work_dir, *arguments):
    """Start a tool as a user does, from another directory."""
    command = [sys.executable, *(str(ROOT / 'tools' / arguments[0]), *map(str, arguments[1:]))]
    return subprocess.Popen(command, cwd=work_dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1'})


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]
    return output


def entries(run):
    """Return what MMEngine logged in the newest run below ``run``."""
    files = sorted(run.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in files[-1].read_text().splitlines() if line.endswith('}')] if files else []


def kill_in_the_middle_of(epoch, process, run):
    while not any(entry.get('epoch') == epoch and 'loss' in entry for entry in entries(run)):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def coco_metrics(entry):
    return {key: value for key, value in entry.items() if key.startswith('coco/')}


@pytest.mark.slow
def test_two_machines_share_an_epoch(tmp_path):
    """One process each, on the loopback, ready to restart (tests/test_engine/test_distributed.py does restart)."""
    (tmp_path / 'tiny.py').write_text(CONFIG)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), 'tiny.py', '1', '--max-restarts', '1', '--work-dir', 'run',
               '--cfg-options', 'train_cfg.max_epochs=1']
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHON': sys.executable,
           'PORT': str(port), 'NNODES': '2'}
    machines = [subprocess.Popen(command, cwd=tmp_path, env={**env, 'NODE_RANK': str(rank)}, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True) for rank in (0, 1)]
    for machine in machines:
        finish(machine)
    logged = entries(tmp_path / 'run')
    assert [entry['iter'] for entry in logged if 'loss' in entry] == list(range(1, IMAGES // BATCH // 2 + 1))
    assert 'coco/segm_mAP' in logged[-1]
    assert load_checkpoint_file(tmp_path / 'run/epoch_1.pth')['meta']['iter'] == IMAGES // BATCH // 2


@pytest.mark.slow
def test_train_kill_resume_evaluate_report(tmp_path):
    (tmp_path / 'tiny.py').write_text(CONFIG)
    run = tmp_path / 'run'
    per_epoch = IMAGES // BATCH

    kill_in_the_middle_of(2, tool(tmp_path, 'train.py', 'tiny.py', '--work-dir', 'run'), run)
    assert not (run / 'epoch_2.pth').exists()
    assert load_checkpoint_file(run / 'epoch_1.pth')['meta']['iter'] == per_epoch
    killed = [entry['iter'] for entry in entries(run) if 'loss' in entry]
    assert per_epoch < killed[-1] < 2 * per_epoch

    output = finish(tool(tmp_path, 'train.py', 'tiny.py', '--work-dir', 'run', '--resume'))
    assert f'resumed epoch: 1, iter: {per_epoch}' in output
    resumed = [entry['iter'] for entry in entries(run) if 'loss' in entry]
    assert resumed == list(range(per_epoch + 1, EPOCHS * per_epoch + 1))
    last = run / f'epoch_{EPOCHS}.pth'
    meta = load_checkpoint_file(last)['meta']
    assert (meta['epoch'], meta['iter']) == (EPOCHS, EPOCHS * per_epoch)

    trained = coco_metrics(entries(run)[-1])
    assert {'coco/bbox_mAP', 'coco/segm_mAP', 'coco/AR@100'} <= set(trained)
    assert max(trained.values()) > 0, 'equal zeros would prove nothing'
    finish(tool(tmp_path, 'test.py', 'tiny.py', last, '--work-dir', 'eval', '--out', 'predictions.pkl'))
    evaluated = json.loads(next((tmp_path / 'eval').glob('*/*.json')).read_text())
    assert coco_metrics(evaluated) == trained
    assert (tmp_path / 'predictions.pkl').stat().st_size > 0

    output = finish(tool(tmp_path, 'analysis_tools/report_run.py', 'run', '--num-images', '2'))
    assert 'box AP' in output
    metrics = json.loads((run / 'metrics.json').read_text())
    assert metrics['iterations'] == EPOCHS * per_epoch
    assert len(metrics['runs']) == 2
    assert metrics['final']['bbox_mAP'] == trained['coco/bbox_mAP']
    assert len(list((run / 'predictions').glob('*.png'))) == 2
    assert (run / 'predictions.png').is_file()
    assert (run / 'curves.png').is_file()
