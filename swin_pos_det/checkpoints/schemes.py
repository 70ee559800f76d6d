"""MMEngine's ways to name a checkpoint, each read with protection on.

:mod:`swin_pos_det.mmengine_patches` puts these loaders into MMEngine's ``CheckpointLoader``, so ``init_cfg``,
``load_from``, ``--resume`` and ``mmdet.apis`` all read through them.
"""
from __future__ import annotations

import hashlib
import io
import os
import os.path as osp
import re
from typing import Callable, Dict
from urllib.error import URLError
from urllib.parse import urlparse

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.dist import barrier
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader

from .io import CheckpointError, load_checkpoint_file, load_source
from .safe_pickle import MapLocation


# MMEngine prints a loader's name from its 11th letter on ("Loads checkpoint by local backend"), hence these names.
def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Load a local file; see :func:`load_checkpoint_file`."""
    return load_checkpoint_file(filename, map_location)


def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Download a URL once per machine into torch hub's checkpoint folder, and load it from there.

    Raises:
        CheckpointError: The download failed, or :func:`load_checkpoint_file` refuses the file.
    """
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, _cached_name(filename, folder))
    try:
        if int(os.environ.get('LOCAL_RANK', 0)) == 0 and not osp.exists(path):
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(filename, path, progress=os.isatty(2))
    except (URLError, OSError) as error:
        raise CheckpointError(f'cannot download checkpoint {filename} ({error})') from error
    finally:
        barrier()  # the other processes of this machine wait for the file, and are released if it does not arrive
    return load_checkpoint_file(path, map_location)


# On Hugging Face every model is called ``model.safetensors``.
_SHARED_NAMES = ('checkpoint', 'latest', 'model', 'model_best', 'pytorch_model', 'weights')


def _cached_name(url: str, folder: str) -> str:
    """Return the file name for a URL: its own if that holds a hash, as PyTorch's do, else with a hash of the URL.

    Also its own if such a file exists, written by torch or copied there by a user, unless models share that name.
    """
    stem, suffix = osp.splitext(osp.basename(urlparse(url).path))
    there = stem not in _SHARED_NAMES and osp.exists(osp.join(folder, stem + suffix))
    if there or re.search(r'-[0-9a-f]{8,}$', stem):
        return stem + suffix
    return f'{stem}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{suffix}'


def load_from_torchvision(filename: str, map_location: MapLocation = None) -> dict:
    """Load ``torchvision://name`` (``modelzoo://`` is its old spelling)."""
    urls = mmengine_checkpoint.get_torchvision_models()
    return load_from_http(_look_up(urls, filename), map_location)


def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> dict:
    """Load ``open-mmlab://name`` from the URL, or the file under MMENGINE_HOME, that MMEngine's list gives."""
    names = mmengine_checkpoint.get_deprecated_model_names()
    name = filename.split('://', 1)[1]
    target = _look_up(mmengine_checkpoint.get_external_models(), f'open-mmlab://{names.get(name, name)}')
    if target.startswith(('http://', 'https://')):
        return load_from_http(target, map_location)
    return load_checkpoint_file(osp.join(mmengine_checkpoint._get_mmengine_home(), target), map_location)


def load_from_mmcls(filename: str, map_location: MapLocation = None) -> dict:
    """Load ``mmcls://name`` and keep the backbone's weights, as MMEngine does."""
    url = _look_up(mmengine_checkpoint.get_mmcls_models(), filename)
    return mmengine_checkpoint._process_mmcls_checkpoint(load_from_http(url, map_location))


def load_from_ceph(filename: str, map_location: MapLocation = None) -> dict:
    """Load an ``s3://`` or ``petrel://`` object through MMEngine's petrel file backend."""
    backend = get_file_backend(filename, backend_args=dict(backend='petrel'))
    return load_source(io.BytesIO(backend.get(filename)), filename, map_location)


def load_from_pavi(filename: str, map_location: MapLocation = None) -> dict:
    """Refuse ``pavi://``: that service is not public, and MMEngine's loader for it unpickles without protection."""
    raise CheckpointError(f'cannot load checkpoint {filename}: pavi:// is not supported; use a local file')


def _look_up(urls: dict[str, str], filename: str) -> str:
    name = filename.split('://', 1)[1]
    if name not in urls:
        raise CheckpointError(f'checkpoint {filename} is unknown: the list has no model named {name!r}')
    return urls[name]


# The prefix of each scheme, as a pattern -> its loader; the names are those of MMEngine's ``CheckpointLoader``.
LOADERS: Dict[str, Callable] = {
    '': load_from_local,
    'http://': load_from_http,
    'https://': load_from_http,
    'modelzoo://': load_from_torchvision,
    'torchvision://': load_from_torchvision,
    'open-mmlab://': load_from_openmmlab,
    'openmmlab://': load_from_openmmlab,
    'mmcls://': load_from_mmcls,
    r'(\S+\:)?s3://': load_from_ceph,
    r'(\S+\:)?petrel://': load_from_ceph,
    'pavi://': load_from_pavi,
}


def read_checkpoint(filename: str, map_location: MapLocation = None) -> dict:
    """Read a checkpoint from any place that MMEngine knows, with protection on.

    Args:
        filename: a path, or a URL of one of :data:`LOADERS`. Other schemes registered with MMEngine's
            ``CheckpointLoader`` are left to it.
        map_location: as in :func:`torch.load`.

    Raises:
        CheckpointError: if the file is unreadable, or asks for more than data.
    """
    loader = next((loader for prefix, loader in LOADERS.items() if prefix and re.match(prefix, filename)), None)
    if loader is None and '://' in filename:
        return CheckpointLoader.load_checkpoint(filename, map_location, logger='current')
    return (loader or load_from_local)(filename, map_location)
