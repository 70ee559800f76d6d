"""mmcv with its compiled operators: from the cache, prebuilt, or built once into the cache."""
from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from .checks import GIB
from .commands import SetupError, child_env, last_line, run_logged, run_python

COMPILER_GIB = 1.5  # one compiler process on mmcv's largest files
# Run in a fresh process: a wheel built for another torch imports as far as its first operator.
_VERIFY = '''
from importlib.metadata import version
assert version({name!r}) == {version!r}, 'version ' + version({name!r}) + ' is installed'
import torch
from mmcv.ops import nms, roi_align
boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]])
assert nms(boxes, torch.tensor([.9, .8, .7]), 0.5)[1].tolist() == [0, 2], 'nms is wrong'
pooled = roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]]), 2)
assert torch.allclose(pooled, torch.ones(1, 1, 2, 2)), 'roi_align is wrong'
'''


def ensure_mmcv(python: Path, spec: str, folder: Path, cuda: str | None, log: Path) -> str:
    """Install `spec`, such as `'mmcv==2.1.0'`, in the cheapest way that works; its wheel stays in `folder`.

    Return `'kept'` or the wheel's name; raise `SetupError` if no way ends with working operators. All wheels in
    `folder` are for one Python, torch and platform; `cuda` is the version to compile for, or None.
    """
    problem = verify(python, spec)
    if problem is None:
        return 'kept'
    folder.mkdir(parents=True, exist_ok=True)
    for options in (None, (), (f'--no-binary={spec.split("==")[0]}', )):
        wheel = find_wheel(folder, spec) if options is None else make_wheel(python, spec, folder, cuda, *options)
        if wheel is not None:
            run_logged([python, '-m', 'pip', 'install', '--no-deps', '--force-reinstall', wheel], log)
            problem = verify(python, spec)
            if problem is None:
                return wheel.name
            print(f'        {wheel.name} does not work and is set aside: {problem}', flush=True)
            wheel.rename(wheel.with_suffix('.whl.rejected'))
    raise SetupError(f'{spec}: {problem}; see {log}')


def verify(python: Path, spec: str) -> str | None:
    """Return None if the pinned mmcv is installed and its operators work, else the reason."""
    name, version = spec.split('==')
    done = run_python(python, _VERIFY.format(name=name, version=version))
    return None if done.returncode == 0 else last_line(done.stderr)


def find_wheel(folder: Path, spec: str) -> Path | None:
    """Return the folder's complete wheel with operators; a truncated zip lacks the directory at its end."""
    stem = spec.replace('-', '_').replace('==', '-')
    return next((path for path in sorted(folder.glob(f'{stem}-*.whl'))
                 if zipfile.is_zipfile(path) and not path.name.endswith('-none-any.whl')), None)


def make_wheel(python: Path, spec: str, folder: Path, cuda: str | None, *options: str) -> Path | None:
    """Download a prebuilt wheel into `folder`, from pip's sources or `$MMCV_FIND_LINKS`, or build one if there is none.

    Return None if the wheel has no operators; raise `SetupError` if the build fails, with its log in `folder`.
    """
    env, log = build_env(python, cuda), folder / f'{spec}.build.log'
    print(f'        downloaded or built once, in 4 to 15 minutes; {env["MAX_JOBS"]} compilers, log: {log}', flush=True)
    links = [part for link in os.environ.get('MMCV_FIND_LINKS', '').split() for part in ('--find-links', link)]
    with tempfile.TemporaryDirectory(dir=folder) as made:
        run_logged([python, '-m', 'pip', 'wheel', '-v', '--no-build-isolation', '--no-deps', '--wheel-dir', made,
                    *links, *options, spec], log, env)
        wheel = find_wheel(Path(made), spec)
        return None if wheel is None else wheel.rename(folder / wheel.name)  # on one file system: in one step


def build_env(python: Path, cuda: str | None) -> dict[str, str]:
    """Return the environment of mmcv's build, with CUDA operators if there is nvcc and a CUDA to compile for.

    Without nvcc the device is hidden, as mmcv's setup.py asks for CUDA when it sees one.
    """
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    with_cuda = bool(cuda and (shutil.which('nvcc', path=f'{home}/bin') if home else shutil.which('nvcc')))
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB
    jobs = max(1, min(os.cpu_count() or 1, int(memory / COMPILER_GIB)))
    # -g0: with the debug symbols that Python's own flags ask for, the wheel is 16 times as large.
    env = child_env(PATH=f'{python.parent}{os.pathsep}{os.environ.get("PATH", os.defpath)}', MMCV_WITH_OPS='1',
                    MAX_JOBS=os.environ.get('MAX_JOBS') or str(jobs), FORCE_CUDA=str(int(with_cuda)),
                    CFLAGS=f'-g0 {os.environ.get("CFLAGS", "")}'.strip())
    return env if with_cuda else {**env, 'CUDA_VISIBLE_DEVICES': ''}
