"""Read every hostile file through every path, each file in a child with limits; write the outcomes as JSON.

    OMP_NUM_THREADS=1 python -m tests.test_checkpoints.hostile.server FOLDER
"""
from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict

import torch

from .files import Files, hostile_files
from .isolation import attributes, run_isolated

WORKERS = 2


def read_all(files: Files, paths: Dict[str, Any], place: int) -> Dict[str, Any]:
    """Return the outcomes of every second file, by its name."""
    before = attributes()
    found = {}
    for name, case in list(files.cases.items())[place::WORKERS]:
        found[name] = run_isolated({path: partial(read, str(case.path)) for path, read in paths.items()}, before)
        found[name]['ran'] = files.marker.exists()
        found[name]['deleted'] = not (files.victim / 'kept').exists()
        files.marker.unlink(missing_ok=True)
    return found


def run(folder: Path, paths: Dict[str, Any], files: Files) -> Dict[str, Any]:
    """Read in two children of this process at once, and gather what they found."""
    gc.freeze()  # children are not to copy memory by looking for garbage in it
    children = []
    for place in range(WORKERS):
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                (folder / f'{place}.json').write_text(json.dumps(read_all(files, paths, place)))
                status = 0
            os._exit(status)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    found: Dict[str, Any] = {}
    for place in range(WORKERS):
        found.update(json.loads((folder / f'{place}.json').read_text()))
    for name, case in files.cases.items():
        found[name].update(refused_by=sorted(case.refused_by), loaded_by=sorted(case.loaded_by), file=case.path.name)
    return found


def main(folder: Path) -> None:
    """Write ``outcomes.json`` into the folder."""
    from .paths import Paths

    torch.set_num_threads(1)
    started = time.time()
    paths = Paths(folder)
    (folder / 'files').mkdir()
    files = hostile_files(folder / 'files', paths.good())
    print(f'{len(files.cases)} files after {time.time() - started:.0f} s')
    found = run(folder, paths.by_name, files)
    (folder / 'outcomes.json').write_text(json.dumps(found))
    print(f'{len(found) * len(paths.by_name)} reads after {time.time() - started:.0f} s')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
