"""Read every hostile file through every path, each in a child with limits; prints the outcomes as JSON.

    OMP_NUM_THREADS=1 python -m tests.test_checkpoints.hostile.server FOLDER [PATH ...]
"""
from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import torch

from .files import hostile_files
from .isolation import attributes, run_isolated
from .paths import Paths


def run(folder: Path, chosen: List[str]) -> Dict[str, Any]:
    """The outcomes by file and path, and which files did something to the disk."""
    torch.set_num_threads(1)
    paths = Paths(folder)
    names = chosen or list(paths.by_name)
    (folder / 'files').mkdir()
    files = hostile_files(folder / 'files', paths.good())
    before = attributes()
    gc.freeze()  # children are not to copy what is there by looking for garbage
    outcomes: Dict[str, Dict[str, Any]] = {}
    for name, case in files.cases.items():
        outcomes[name] = {path: run_isolated(lambda path=path: paths.by_name[path](str(case.path)), before,
                                             everywhere=path == 'read')
                          for path in names}
        outcomes[name]['ran'] = files.marker.exists()
        outcomes[name]['deleted'] = not (files.victim / 'kept').exists()
    expected = {name: dict(refused_by=sorted(case.refused_by), loaded_by=sorted(case.loaded_by), file=case.path.name)
                for name, case in files.cases.items()}
    return dict(outcomes=outcomes, expected=expected)


if __name__ == '__main__':
    started = time.time()
    result = run(Path(sys.argv[1]), sys.argv[2:])
    (Path(sys.argv[1]) / 'outcomes.json').write_text(json.dumps(result))
    count = sum(len(paths) - 2 for paths in result['outcomes'].values())
    print(f'{len(result["outcomes"])} files, {count} reads, {time.time() - started:.0f} s')
