"""Compare plain PyTorch, MMEngine, mmdet and this project on the hostile files; print a Markdown table.

    export OMP_NUM_THREADS=1
    python -m tests.test_checkpoints.hostile.server FOLDER
    SWIN_POS_DET_PATCHES=0 python -m tests.test_checkpoints.hostile.compare FOLDER

Files that run code do so here, within FOLDER.
"""
from __future__ import annotations

import gc
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint

from .isolation import attributes, run_isolated
from .paths import small_config


def readers() -> Dict[str, Tuple[str, Callable[[str], Any]]]:
    """Map each reader to the path of ours that it is compared with, and a function of a file."""
    init_default_scope('mmdet')
    cfg = small_config()
    cfg.model.backbone.update(type='SwinTransformer', window_size=7)
    cfg.model.backbone.pop('init_cfg', None)
    model = MODELS.build(cfg.model)
    return {
        '`torch.load(weights_only=True)`': ('read', partial(torch.load, map_location='cpu', weights_only=True)),
        '`torch.load(weights_only=False)`': ('read', partial(torch.load, map_location='cpu', weights_only=False)),
        "MMEngine's `load_checkpoint`": ('test', partial(load_checkpoint, model, map_location='cpu')),
        "mmdet's `init_detector`": ('test', lambda path: init_detector(cfg, path, palette='random', device='cpu')),
    }


def counts(found: List[Tuple[Dict[str, Any], Dict[str, Any], Dict[str, Any]]], path: str) -> List[str]:
    """Return the cells of a reader: each triple is a file's expectations, its report, and what happened around it."""
    refused = [one for one in found if path in one[0]['refused_by']]
    fine = [one for one in found if path in one[0]['loaded_by']]
    ran = sum(bool(around['ran'] or around['deleted'] or report['events']) for _, report, around in found)
    changed = sum(bool(around['changed']) for _, _, around in found)
    crashed = sum(report['outcome'] in ('crashed', 'hung') for _, report, _ in found)
    silent = sum(report['outcome'] == 'loaded' for _, report, _ in refused)
    return [str(ran), str(changed), str(crashed), f'{silent} of {len(refused)}',
            f'{sum(report["outcome"] == "loaded" for _, report, _ in fine)} of {len(fine)}']


def main(folder: Path) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    ours = json.loads((folder / 'outcomes.json').read_text())
    files, before = folder / 'files', attributes()
    gc.freeze()
    rows: Dict[str, List[str]] = {}
    for name, (path, read) in readers().items():
        found = []
        for case in ours.values():
            (files / 'victim').mkdir(exist_ok=True)
            (files / 'victim/kept').touch()
            around = run_isolated({name: partial(read, str(files / case['file']))}, before)
            around.update(ran=(files / 'ran').exists(), deleted=not (files / 'victim/kept').exists())
            if (files / 'ran').is_dir():
                (files / 'ran').rmdir()
            (files / 'ran').unlink(missing_ok=True)
            found.append((case, around['outcomes'][name], around))
        rows[name] = counts(found, path)
    for name, path in (('`load_checkpoint_file`', 'read'), ('`tools/test.py`', 'test')):
        rows[name] = counts([(case, case['outcomes'][path], case) for case in ours.values()], path)
    everything = [(case, report, case) for case in ours.values() for report in case['outcomes'].values()]
    print(f'{len(ours)} files; {len(everything)} reads through all paths of this project: '
          f'{sum(bool(report["events"]) for _, report, _ in everything)} ran code, '
          f'{sum(report["outcome"] in ("crashed", "hung") for _, report, _ in everything)} crashed or met a limit, '
          f'{sum(report["outcome"] == "traceback" for _, report, _ in everything)} ended in a traceback')
    titles = ('code run or files removed', 'classes changed', 'crashes and limits', 'bad files loaded',
              'good files loaded')
    print('| | ' + ' | '.join(rows) + ' |\n|' + ' --- |' * (len(rows) + 1))
    for title, *cells in zip(titles, *rows.values()):
        print(f'| {title} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
