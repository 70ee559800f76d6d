"""Reproducing figures: choosing weights, checking the data, and comparing an evaluation with the figures."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from mmengine.config import Config

from ...checkpoints import load_checkpoint_file
from ...choices import AP_NAMES, LOG
from ...errors import MissingFileError, SettingError
from .model_index import Figures, Model
from .run_log import read_training
from .run_report import ap_history, find_checkpoint

_KEYS = dict(zip(AP_NAMES, ('bbox_mAP', 'segm_mAP')))
_COCO_VAL_IMAGES = 5000


@dataclass(frozen=True)
class Comparison:
    """An evaluation beside the figures of one source.

    Attributes:
        figures: of the source.
        differences: name -> evaluation minus source, in AP points, for those in the evaluation.
        agrees: whether all figures of the source were evaluated and are within the tolerance.
    """
    figures: Figures
    differences: Mapping[str, float]
    agrees: bool


def evaluated_aps(metrics: Mapping[str, float]) -> Dict[str, float]:
    """Return ``'box AP'`` and ``'mask AP'``, from 0 to 100, from the result of ``Runner.test``.

    Raises:
        ValueError: if it has neither, as when a model detects nothing at all.
    """
    aps = {name: 100 * metrics[found] for name, key in _KEYS.items()
           for found in metrics if found == key or found.endswith('/' + key)}
    if not aps:
        raise SettingError(f'the evaluation has neither {" nor ".join(_KEYS.values())}: {sorted(metrics) or "nothing"}')
    return aps


def compare(aps: Mapping[str, float], figures: Sequence[Figures], tolerance: float = 0.1) -> List[Comparison]:
    """Put an evaluation beside each source.

    Args:
        aps: of :func:`evaluated_aps`.
        figures: the sources.
        tolerance: in AP points, at least 0; a difference of exactly this agrees.
    """
    rows = []
    for one in figures:
        differences = {name: aps[name] - value for name, value in one.ap.items() if name in aps}
        agrees = set(differences) == set(one.ap) and all(
            abs(difference) <= tolerance + 1e-6 for difference in differences.values())
        rows.append(Comparison(one, differences, agrees))
    return rows


def choose_figures(model: Model, against: Optional[str] = None) -> Tuple[Figures, ...]:
    """Return the figures to reproduce: those whose source contains ``against``, in any case; all of them without it.

    Raises:
        ValueError: if there are none; the message says why, or lists the sources.
    """
    if not model.figures:
        raise SettingError(f'{model.name} has no figures to reproduce: {model.why_no_published}')
    chosen = tuple(one for one in model.figures if against is None or against.lower() in one.source.lower())
    if not chosen:
        sources = '; '.join(one.source for one in model.figures)
        raise SettingError(f'no source of {model.name} is called {against!r}; there are: {sources}')
    return chosen


def find_weights(model: Model, figures: Sequence[Figures], work_dir: Union[str, Path],
                 downloads: Union[str, Path]) -> Path:
    """Return the checkpoint to evaluate: a source's own if it was downloaded, else the last of a training.

    Args:
        model: the entry.
        figures: the sources, in the order of preference.
        work_dir: of a training of the config.
        downloads: the folder with downloaded checkpoints, under the names that they have at their source.

    Raises:
        FileNotFoundError: if there is none; the message says what to download, and where to, or how to train.
    """
    addresses = [one.weights for one in figures if one.weights]
    for address in addresses:
        file = Path(downloads) / address.rsplit('/', 1)[-1]
        if file.is_file():
            return file
    trained = find_checkpoint(work_dir) if Path(work_dir).is_dir() else None
    if trained is not None:
        return trained
    fetch = ''.join(f'download {address} into {downloads}/, or ' for address in addresses[:1])
    raise MissingFileError(
        f'there are no weights of {model.name}: {fetch}train them with --train (python tools/train.py {model.config} '
        f'--work-dir {work_dir}), or name a file with --checkpoint')


def check_trained_to_the_end(cfg: Config, checkpoint: Path, meta: Mapping[str, Any]) -> None:
    """Refuse a checkpoint from the middle of a training of ``cfg``.

    Other files, without an epoch or with another schedule's, pass.

    Args:
        cfg: of the training.
        checkpoint: the file, for the message.
        meta: the checkpoint's.

    Raises:
        ValueError: saying how far the training is.
    """
    for unit, key in (('epoch', 'max_epochs'), ('iter', 'max_iters')):
        done, total = meta.get(unit), (cfg.get('train_cfg') or {}).get(key)
        if done is not None and total is not None and done < total and 'mmengine_version' in meta:
            raise SettingError(f'{checkpoint} is from {unit} {done} of {total}: let the training end, with --train')


def check_coco_is_whole(ann_file: Union[str, Path]) -> None:
    """Check that figures on COCO are compared on all images of val2017; a part of it gives other figures.

    Raises:
        ValueError: if the annotation file has another number of images.
    """
    images = len(json.loads(Path(ann_file).read_text(encoding='utf-8'))['images'])
    if images != _COCO_VAL_IMAGES:
        raise SettingError(f'{ann_file} has {images} images and COCO val2017 {_COCO_VAL_IMAGES}, so its AP is not to '
                           'be compared with figures on COCO')


def logged_figures(checkpoint: Path) -> Optional[Figures]:
    """Return the logged evaluation of the training that wrote ``checkpoint``; None without a log beside it."""
    try:
        training = read_training(checkpoint.parent)
    except FileNotFoundError:
        return None
    meta = load_checkpoint_file(str(checkpoint), map_location='cpu', mmap=True).get('meta') or {}
    history = ap_history(training)
    aps = {name: 100 * value for name, key in _KEYS.items()
           for iteration, value in history.get(key, ()) if iteration == meta.get('iter')}
    return Figures(aps, LOG, str(training.runs[-1].folder), measured=True) if aps else None
