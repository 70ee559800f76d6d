"""Jobs of several processes on this machine, as torchrun runs them, but forked from one that has imported everything.

Starting a Python with torch and mmdet takes longer than what most tests then do with it. Where there is a GPU they are
started anew all the same, as CUDA does not work in a process forked from one that has asked for devices.
"""
from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch
from mmdet.registry import HOOKS, MODELS
from mmengine.config import ConfigDict
from mmengine.dist import barrier, get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import swin_pos_det  # noqa: F401 - registers the backbone, also in new processes

ROOT = Path(__file__).parents[2]
LIMIT = 600  # seconds after which a job counts as hanging: no measure of speed


def launch(log: Path, function: Callable, *arguments: Any, ranks: int, nodes: int = 1, restarts: int = 0) -> List[int]:
    """Run a function on ``nodes`` times ``ranks`` processes.

    Returns:
        The exit status of each "machine". The output of all processes is in ``log``.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    os.environ['OMP_NUM_THREADS'] = '1'  # for the fork server too: OpenMP's threads do not survive a fork
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.apis', 'swin_pos_det', __name__])
    machines = [context.Process(target=_machine, args=(log, port, ranks, nodes, restarts, function, arguments))
                for _ in range(nodes)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(LIMIT)
        if machine.is_alive():
            machine.terminate()
    assert not any(machine.join() or machine.exitcode == -signal.SIGTERM for machine in machines), f'it hangs: {log}'
    return [machine.exitcode for machine in machines]


def _machine(log: Path, port: int, ranks: int, nodes: int, restarts: int, function: Callable,
             arguments: Tuple[Any, ...]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(TORCH_DISABLE_SHARE_RDZV_TCP_STORE='1')  # see tools/dist_run.sh
    torch.set_num_threads(1)
    method = 'spawn' if torch.cuda.is_available() else 'fork'
    elastic_launch(LaunchConfig(
        min_nodes=nodes, max_nodes=nodes, nproc_per_node=ranks, run_id='test', rdzv_backend='c10d',
        rdzv_endpoint=f'127.0.0.1:{port}', max_restarts=restarts, monitor_interval=0.1, start_method=method),
        function)(*arguments)


def run_tool(name: str, folder: Path, *arguments: str) -> None:
    """Run a tool's command line (the target of a process)."""
    os.chdir(folder)
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.exit(module.main([*arguments, '--launcher', 'pytorch']))


# --- gradients ---

SIZE = 64, 96
OBJECTS = 1, 3, 2, 5  # of each image: no two ranks have as many
ATSS = dict(
    type='ATSS',
    bbox_head=dict(
        type='ATSSHead', num_classes=10, in_channels=16, stacked_convs=1, feat_channels=16,
        norm_cfg=dict(type='GN', num_groups=4),
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1,
                              strides=[4, 8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True)),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1),
    test_cfg=dict())


@MODELS.register_module()
class MeanLoss(BaseModel):
    """A backbone, a neck, and a loss that is a mean over equal parts."""

    def __init__(self, backbone, neck, data_preprocessor):
        super().__init__(data_preprocessor)
        self.backbone, self.neck = MODELS.build(backbone), MODELS.build(neck)

    def forward(self, inputs, data_samples, mode):
        return dict(loss=sum((maps - 1).pow(2).mean() for maps in self.neck(self.backbone(inputs))))


def micro_parts() -> Dict[str, Any]:
    """Return a backbone of all kinds of layers, and a thin neck."""
    return dict(
        data_preprocessor=dict(type='DetDataPreprocessor', pad_mask=True),
        backbone=dict(type='SwinPosTransformer', embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2),
                      window_size=5, drop_path_rate=0.),
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4))


def build_micro(head: ConfigDict) -> torch.nn.Module:
    """Build the same detector in every process, in float64; Mask R-CNN in float32, as MMCV's NMS is float32 only."""
    torch.manual_seed(3)
    model = MODELS.build({**micro_parts(), **head})
    return model.train().to(torch.float32 if head['type'] == 'MaskRCNN' else torch.float64)


def micro_batch(copies: bool = False) -> Dict[str, list]:
    """Return four images with boxes and masks; ``copies``: four times the same."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    generator = torch.Generator().manual_seed(5)
    inputs, samples = [], []
    for count in OBJECTS:
        inputs.append(torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8))
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([60., 30.])
        boxes = torch.cat([corner, corner + 14 + 18 * torch.rand(count, 2, generator=generator)], 1)
        masks = torch.zeros(count, *SIZE, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(count),
                                           masks=BitmapMasks(masks.numpy(), *SIZE))
        samples.append(sample)
    if copies:
        inputs, samples = [inputs[1]] * 4, [samples[1].clone() for _ in range(4)]
    return dict(inputs=inputs, data_samples=samples)


def backward(model: torch.nn.Module, batch: Dict[str, list]) -> Dict[str, torch.Tensor]:
    """Return the gradients of a model, wrapped or not, on a batch."""
    inner = getattr(model, 'module', model)
    data = inner.data_preprocessor(dict(inputs=list(batch['inputs']), data_samples=[
        sample.clone() for sample in batch['data_samples']]), True)
    data['inputs'] = data['inputs'].to(next(inner.parameters()).dtype)
    loss, _ = inner.parse_losses(model(**data, mode='loss'))
    inner.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in inner.named_parameters() if parameter.requires_grad}


def share(batch: Dict[str, list], rank: int, world: int) -> Dict[str, list]:
    """Return a rank's part of a batch."""
    size = len(batch['inputs']) // world
    return {key: value[rank * size:(rank + 1) * size] for key, value in batch.items()}


def parallel_gradients(folder: Path, heads: Dict[str, ConfigDict]) -> None:
    """Write the gradients of each detector under DDP, from the first process, to a file (the target of a process)."""
    init_default_scope('mmdet')
    torch.distributed.init_process_group('gloo')
    rank, world = get_rank(), torch.distributed.get_world_size()
    found = {}
    for name, head in heads.items():
        model = MMDistributedDataParallel(build_micro(head), broadcast_buffers=False)
        found[name] = backward(model, share(micro_batch(copies='copies' in name), rank, world))
    if rank == 0:
        torch.save(found, folder / f'gradients_{world}.pth')


# --- hooks for trainings ---


@HOOKS.register_module()
class KillHook(Hook):
    """SIGKILL, once each: the last process at a training iteration, and in an evaluation.

    Args:
        folder: notes what was done.
        iteration: of the training, or -1.
        evaluation: the epoch after which the evaluation is hit, or -1.
    """

    def __init__(self, folder: str, iteration: int = -1, evaluation: int = -1) -> None:
        self.folder, self.iteration, self.evaluation = Path(folder), iteration, evaluation

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.iteration:
            self.kill(runner, 'training')

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.epoch == self.evaluation:
            barrier()  # the first process comes here when it has saved the checkpoint
            self.kill(runner, 'evaluation')

    def before_test_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.kill(runner, 'test')

    def kill(self, runner, where: str) -> None:
        note = self.folder / f'killed_in_{where}'
        if get_rank() == runner.world_size - 1 and not note.exists():
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
