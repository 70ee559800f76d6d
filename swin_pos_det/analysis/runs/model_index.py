"""The model index: the configs, published figures for them, and this project's own measurements."""
from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from mmengine.fileio import load

from ...choices import AP_NAMES
from ...errors import MissingFileError, SettingError


@dataclass(frozen=True)
class Figures:
    """Reported results of one config.

    Attributes:
        ap: ``'box AP'`` and, for detectors with masks, ``'mask AP'``, from 0 to 100.
        source: a paper or a model zoo; of our own measurements, the setup.
        where: address of the source, or path of the record of the measurement.
        measured: whether this project measured it itself.
        weights: address of the checkpoint that has these figures, if there is one.
        note: differences from the config.
    """
    ap: Mapping[str, float]
    source: str
    where: str
    measured: bool
    weights: Optional[str] = None
    note: Optional[str] = None


@dataclass(frozen=True)
class Model:
    """One entry of the index.

    Attributes:
        name: that of the config, without ``.py``.
        config: path of the config.
        dataset: of training and evaluation, ``'COCO'`` for COCO.
        figures: this project's measurements, then published ones.
        why_no_published: the reason, if there are no published figures.
    """
    name: str
    config: Path
    dataset: str
    figures: Tuple[Figures, ...]
    why_no_published: Optional[str] = None


def read_model_index(index: Union[str, Path]) -> Dict[str, Model]:
    """Read a ``model-index.yml`` and the metafiles that it imports.

    Args:
        index: its path. Paths in it and in the metafiles are relative to its folder.

    Returns:
        Name -> entry, in the files' order.

    Raises:
        FileNotFoundError: without the index, or a metafile that it names.
        ValueError: for an entry that lacks something, or two of one name.
    """
    root = Path(index).parent
    if not Path(index).is_file():
        raise MissingFileError(f'there is no model index {index}')
    models: Dict[str, Model] = {}
    for name in load(str(index))['Import']:
        if not (root / name).is_file():
            raise MissingFileError(f'{index} imports {name}, which does not exist')
        for entry in load(str(root / name))['Models']:
            model = _model(entry, root, name)
            if model.name in models:
                raise SettingError(f'{name} has two entries {model.name}')
            models[model.name] = model
    return models


def find_model(models: Mapping[str, Model], name: str) -> Model:
    """Return the entry of a config, given by its name or its file.

    Raises:
        ValueError: if there is none; the message has the most similar name.
    """
    stem = name[:-len('.py')] if name.endswith('.py') else name
    stem = stem.rsplit('/', 1)[-1]
    if stem in models:
        return models[stem]
    alike = difflib.get_close_matches(stem, models, n=1, cutoff=0.4)
    hint = f'; did you mean {alike[0]}?' if alike else '.'
    raise SettingError(f'the model index has no {stem}{hint} tools/reproduce.py --list shows all {len(models)}')


def _model(entry: Mapping[str, Any], root: Path, metafile: str) -> Model:
    lacking = [key for key in ('Name', 'Config', 'Metadata') if key not in entry]
    if lacking:
        raise SettingError(f'{metafile}: entry {entry.get("Name", entry)} lacks {", ".join(lacking)}')
    name = entry['Name']
    published = [Figures(_aps(item, f'{metafile}: {name}'), item['Source'], item['URL'], measured=False,
                         weights=item.get('Weights'), note=item.get('Note')) for item in entry.get('Published', ())]
    return Model(name, root / entry['Config'], entry['Metadata']['Training Data'],
                 (*_measured(entry.get('Results', ()), f'{metafile}: {name}'), *published),
                 entry.get('No Published Figure'))


def _measured(results: List[Mapping[str, Any]], where: str) -> List[Figures]:
    """Group the items of ``Results``, one per task, by setup and record: each group is one measurement."""
    runs: Dict[Tuple[str, str], Dict[str, float]] = {}
    for item in results:
        runs.setdefault((item['Setup'], item['Record']), {}).update(_aps(item['Metrics'], where))
    return [Figures(ap, setup, record, measured=True) for (setup, record), ap in runs.items()]


def _aps(item: Mapping[str, Any], where: str) -> Dict[str, float]:
    aps = {name: float(item[name]) for name in AP_NAMES if name in item}
    if not aps or not all(0 <= value <= 100 for value in aps.values()):
        raise SettingError(f'{where}: figures need {" or ".join(AP_NAMES)} from 0 to 100, got {dict(item)}')
    return aps
