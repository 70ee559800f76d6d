"""Estimates of time, memory and traffic of training Mask R-CNN on 1 to many GPUs.

The formulas combine the counts of :mod:`.scaling`, public figures of hardware, and assumptions, which are all
fields of :class:`Setup`. ``docs/scaling.md`` explains them.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

GB = 1e9


@dataclass(frozen=True)
class Gpu:
    """A GPU in an 8-GPU machine; vendor's figures, dense, each way.

    Args:
        bf16: multiply-add rate in bfloat16, in FLOP/s.
        tf32: in float32 with tensor cores.
        memory: in bytes.
        nvlink: bytes/s from a GPU to the others of its machine.
        network: bytes/s of each GPU's own network port.
    """

    bf16: float
    tf32: float
    memory: float
    nvlink: float
    network: float


# NVIDIA's data sheets of the A100 80GB SXM and of the H100 SXM; NVLink's there are both ways together. Network: DGX
# A100 (a 200 Gbit/s port per GPU) and DGX H100 (400 Gbit/s).
GPUS = {
    'a100': Gpu(bf16=312e12, tf32=156e12, memory=80 * GB, nvlink=300 * GB, network=25 * GB),
    'h100': Gpu(bf16=989.4e12, tf32=494.7e12, memory=80 * GB, nvlink=450 * GB, network=50 * GB),
}


@dataclass(frozen=True)
class Counts:
    """The cost of one image, counted on the model.

    Args:
        parameters: all of them.
        largest_block: parameters of the largest Swin block.
        forward: FLOP of a forward pass in training, a multiply-add being two.
        blocks_forward: the part of it in Swin blocks.
        activations: bytes kept for the backward pass, in float32.
        activations_checkpointed: the same with ``with_cp``: each block keeps its input, and one is recomputed.
    """

    parameters: int
    largest_block: int
    forward: float
    blocks_forward: float
    activations: float
    activations_checkpointed: float


@dataclass(frozen=True)
class Setup:
    """The settings of a training, and the assumptions about it.

    Args:
        batch: images per GPU and step.
        amp: bfloat16 autocast; else float32 on tensor cores (TF32).
        fsdp: parameters, gradients and optimizer state sharded over all GPUs; else a copy on each (DDP).
        with_cp: gradient checkpointing in the backbone.
        mfu: share of the peak rate that the model reaches while the GPU computes, 0 to 1.
        overhead: seconds of a step that no faster GPU shortens: assigning, sampling, NMS, launching small kernels.
        overlap: share of the backward pass behind which communication can hide, 0 to 1.
        bandwidth: share of the links' rates that collectives reach, 0 to 1.
        latency: seconds that a step of a collective takes at least.
        bucket: bytes of a DDP bucket (torch's default).
        amp_activations: memory of activations with autocast over that in float32.
        reserve: bytes for the CUDA context, NCCL, workspaces and fragmentation.
        loader_seconds: CPU time of one core to read, decode and augment an image.
        cores: CPU cores per GPU for that.
        node: GPUs of a machine.
    """

    batch: int = 2
    amp: bool = True
    fsdp: bool = False
    with_cp: bool = False
    mfu: float = 0.25
    overhead: float = 0.05
    overlap: float = 0.8
    bandwidth: float = 0.7
    latency: float = 15e-6
    bucket: float = 25 * 2**20
    amp_activations: float = 0.6
    reserve: float = 4 * GB
    loader_seconds: float = 0.04
    cores: int = 12
    node: int = 8


def collective(data: float, gpus: int, gpu: Gpu, setup: Setup) -> Tuple[float, float]:
    """Return the time of an all-gather or reduce-scatter of ``data`` bytes over machines of ``setup.node`` GPUs.

    Within a machine over NVLink: each GPU passes ``(g - 1) / g`` of the data. Between ``m`` machines each GPU has
    its own ``1 / g`` of it, and passes ``(m - 1) / m`` of that through its own port.

    Returns:
        The bytes that a GPU sends, in all, and the seconds.
    """
    inner = min(gpus, setup.node)
    machines = max(1, gpus // setup.node)
    local = data * (inner - 1) / inner
    remote = data / inner * (machines - 1) / machines
    seconds = (local / gpu.nvlink + remote / gpu.network) / setup.bandwidth
    return local + remote, seconds + setup.latency * (math.log2(gpus) if gpus > 1 else 0)


def estimate(counts: Counts, gpus: int, gpu: Gpu, setup: Setup) -> Dict[str, Any]:
    """Return time, memory and traffic of a training step.

    Args:
        counts: of one image.
        gpus: how many; a multiple of ``setup.node`` if more.
        gpu: their kind.
        setup: how it is run.

    Returns:
        Seconds: ``compute`` (with the overhead), ``communication``, ``exposed`` (the part of it that is not hidden),
            ``loading``
        (of a batch, by the cores of a GPU), ``step``. Bytes per GPU: ``traffic``, ``states``, ``activations``,
        ``memory``. ``fits``; ``images`` per second; ``efficiency`` against as many GPUs alone; ``limit``: the longest
        part of a step.
    """
    flops = 3 * counts.forward + (counts.blocks_forward if setup.with_cp else 0.)
    busy = flops * setup.batch / (setup.mfu * (gpu.bf16 if setup.amp else gpu.tf32))
    compute = busy + setup.overhead
    traffic, communication = _traffic(counts, gpus, gpu, setup)
    backward = busy * 2 / 3
    exposed = max(communication - setup.overlap * backward, 0.)
    loading = setup.batch * setup.loader_seconds / setup.cores
    step = max(compute + exposed, loading)
    states, activations = _memory(counts, gpus, setup)
    memory = states + activations + setup.reserve
    waits = dict(compute=busy, overhead=setup.overhead, network=exposed)
    limit = 'loading' if loading > compute + exposed else max(waits, key=waits.get)
    return dict(compute=compute, communication=communication, exposed=exposed, loading=loading, step=step,
                traffic=traffic, states=states, activations=activations, memory=memory, fits=memory <= gpu.memory,
                images=gpus * setup.batch / step, efficiency=max(compute, loading) / step,
                limit=limit)


def _traffic(counts: Counts, gpus: int, gpu: Gpu, setup: Setup) -> Tuple[float, float]:
    """Return the bytes that a GPU sends in a step, and the seconds. Gradients and parameters travel in float32."""
    if gpus == 1:
        return 0., 0.
    data, passes = 4. * counts.parameters, 3 if setup.fsdp else 2  # FSDP gathers twice and scatters once
    sent, seconds = collective(data, gpus, gpu, setup)
    calls = data / (4. * counts.largest_block if setup.fsdp else setup.bucket)
    return passes * sent, passes * (seconds + max(calls - 1, 0) * setup.latency * math.log2(gpus))


def _memory(counts: Counts, gpus: int, setup: Setup) -> Tuple[float, float]:
    """Return bytes per GPU of states (parameters, gradients, AdamW's averages, DDP's buckets) and of activations."""
    if setup.fsdp and gpus > 1:
        states = 16. * counts.parameters / gpus + 2 * 4. * counts.largest_block
    else:
        states = (16. + (4. if gpus > 1 else 0.)) * counts.parameters
    states += 2. * counts.parameters if setup.amp else 0.  # autocast's copies of the weights
    kept = counts.activations_checkpointed if setup.with_cp else counts.activations
    return states, setup.batch * kept * (setup.amp_activations if setup.amp else 1.)


@dataclass(frozen=True)
class ScalingTable:
    """Lines of text under ``columns``."""

    columns: Tuple[str, ...]
    rows: List[Tuple[str, ...]]

    def to_rich(self) -> Any:
        """Return the table for a terminal."""
        from rich.table import Table
        table = Table(*self.columns)
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Return the table for a document."""
        lines = [self.columns, ('---', ) * len(self.columns), *self.rows]
        return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def scaling_table(counts: Dict[str, Counts], gpus: Sequence[int], gpu: Gpu, setup: Setup) -> ScalingTable:
    """Return the estimates of models on numbers of GPUs, a row each."""
    columns = ('model', 'GPUs', 'images/s', 'efficiency', 'step', 'compute', 'communication', 'of it exposed',
               'sent per step', 'memory', 'of it states', 'mostly')
    rows = []
    for name, found in counts.items():
        for number in gpus:
            row = estimate(found, number, gpu, setup)
            seconds = (f'{1e3 * row[key]:.0f} ms' for key in ('step', 'compute', 'communication', 'exposed'))
            fits = '' if row['fits'] else ' (too much)'
            rows.append((f'Swin-{name.upper()}', str(number), f'{row["images"]:.0f}', f'{row["efficiency"]:.0%}',
                         *seconds, f'{row["traffic"] / GB:.2f} GB', f'{row["memory"] / GB:.1f} GB{fits}',
                         f'{row["states"] / GB:.1f} GB', row['limit']))
    return ScalingTable(columns, rows)
