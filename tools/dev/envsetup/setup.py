"""The set-up's command line and its steps."""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .checks import find_problems
from .commands import SetupError, last_line, run_logged, run_python
from .mmcv_wheel import ensure_mmcv

REPO = Path(__file__).resolve().parents[3]
DEFAULT_TORCH = 'torch==2.13.0' if sys.version_info >= (3, 10) else 'torch==2.8.0'  # the last one for Python 3.9
# setuptools 80 and later have no pkg_resources, which mmcv's setup.py and mmengine 0.10.7 import.
BUILD_TOOLS = ('setuptools<80', 'wheel', 'ninja')
VENVS = {'openmmlab': '.venv', 'onedl': '.venv-onedl'}  # the stacks own the same import names: one environment each
REQUIREMENTS = {'openmmlab': ('runtime', 'openmmlab', 'demo', 'classification', 'segmentation', 'docs', 'test'),
                'onedl': ('runtime', 'onedl', 'demo', 'onedl-classification', 'onedl-segmentation', 'docs', 'test')}
# Without a CUDA device, torch needs TORCH_CUDA_ARCH_LIST to compile CUDA code.
_TORCH = '''
import json, os, sys, sysconfig, torch
cuda = torch.version.cuda if torch.cuda.is_available() or os.environ.get('TORCH_CUDA_ARCH_LIST') else None
fits = f'cp{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}-{sysconfig.get_platform()}'
print(json.dumps([torch.__version__, cuda, fits]))
'''
# mmpretrain imports torchvision and uses none of its operators. Those of the default index are built for CUDA: beside a
# CPU build of torch they do not load, and the import fails where torchvision describes two of them.
DECLARE_OPERATORS = '''

if not _has_ops():  # added by the set-up of swin-pos-det
    for _name in ('nms', 'qnms'):
        torch.library.define(f'torchvision::{_name}', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
'''
_IMPORTS = '''
import cv2, torch, torchvision, mmengine, mmcv.ops, mmdet.apis
print(*(f'{module.__name__} {module.__version__}' for module in (torch, mmcv, mmdet, mmengine)))
'''
_EPILOG = f'''environment variables:
  TORCH_SPEC          what pip installs as torch (default: what is installed, else {DEFAULT_TORCH})
  MMCV_FIND_LINKS     further places with prebuilt mmcv wheels, as for pip's --find-links
  MAX_JOBS            compilers at once when mmcv is built
  SWIN_POS_DET_CACHE  the folder for built wheels (default: ~/.cache/swin-pos-det)
A finished set-up returns at once; after an interruption run it again. To start over, delete the folder.'''


def requirements(stack: str) -> tuple[str, list[str]]:
    """Return the pinned mmcv and the other packages; torch is left out, as it is installed first."""
    text = '\n'.join((REPO / 'requirements' / f'{name}.txt').read_text('utf-8') for name in REQUIREMENTS[stack])
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(('#', 'torch>'))]
    mmcv, = (line for line in lines if re.match(r'(onedl-)?mmcv==', line))
    return mmcv, [line for line in lines if line != mmcv]


def wanted_torch(venv: Path) -> str:
    """Return what pip installs as torch: `$TORCH_SPEC`, else the version that is installed, else the default."""
    installed = [path.name[6:-10] for path in venv.glob('lib/python3*/site-packages/torch-*.dist-info')]
    return os.environ.get('TORCH_SPEC') or (f'torch=={installed[0]}' if installed else DEFAULT_TORCH)


def fingerprint(stack: str, venv: Path) -> str:
    """Return a digest of what the environment depends on, written into it when the set-up is done."""
    files = [*sorted((REPO / 'requirements').glob('*.txt')), *sorted(Path(__file__).parent.glob('*.py')),
             REPO / 'setup.py', REPO / 'swin_pos_det' / 'version.py']
    parts = [stack, wanted_torch(venv), sys.version, str(REPO), *(file.read_text('utf-8') for file in files)]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()


def installed_torch(python: Path) -> list[str]:
    """Return torch's version, the CUDA to compile for or None, and a name of this torch, Python and platform."""
    done = run_python(python, _TORCH)
    if done.returncode:
        raise SetupError(f'importing torch fails: {last_line(done.stderr)}')
    return json.loads(done.stdout)


def run_steps(stack: str, venv: Path, cache: Path) -> None:
    """Install everything in visible steps; pip keeps installed packages."""
    python, logs, (mmcv, packages) = venv / 'bin' / 'python', venv / 'setup-logs', requirements(stack)
    constraints, torch = logs / 'constraints.txt', wanted_torch(venv)

    def pip(name: str, *arguments: str) -> None:
        run_logged([python, '-m', 'pip', 'install', '--no-build-isolation', '--constraint', constraints, *arguments],
                   logs / f'{name}.log')

    def make_venv() -> None:
        run_logged([sys.executable, '-m', 'venv', venv], cache / 'venv.log')
        logs.mkdir(exist_ok=True)
        constraints.write_text(f'{BUILD_TOOLS[0]}\n', encoding='utf-8')

    def install_torch() -> None:
        pip('torch', *torch.split(), *BUILD_TOOLS)
        constraints.write_text(f'{BUILD_TOOLS[0]}\ntorch=={installed_torch(python)[0]}\n', encoding='utf-8')

    def install_packages() -> None:
        pip('packages', *packages)
        done = run_python(python, 'import cv2; print(cv2.__version__)')
        if 'cannot open shared object file' in done.stderr:  # the headless build needs no libGL
            pip('opencv', '--no-deps', '--force-reinstall', 'opencv-python-headless')
        if run_python(python, 'import torchvision').returncode:
            for extension in venv.glob('lib/python3*/site-packages/torchvision/extension.py'):
                extension.write_text(extension.read_text('utf-8') + DECLARE_OPERATORS, encoding='utf-8')

    def install_mmcv() -> None:
        _, cuda, key = installed_torch(python)
        print(f'        {ensure_mmcv(python, mmcv, cache / "wheels" / key, cuda, logs / "mmcv.log")}', flush=True)

    def check_imports() -> None:
        done = run_python(python, _IMPORTS)
        if done.returncode:
            raise SetupError(f'the {stack} stack does not import; delete {venv} and run again:\n{done.stderr}')
        print(f'        {done.stdout.strip().splitlines()[-1]}', flush=True)

    steps = {'virtual environment': make_venv,
             f'{torch}, {", ".join(BUILD_TOOLS)}': install_torch,
             f'mmdet, mmengine and the other packages ({stack})': install_packages,
             f'{mmcv} with operators': install_mmcv,
             'this package, editable': lambda: pip('editable', '--no-deps', '--editable', str(REPO)),
             'a fresh process imports the stack': check_imports}
    for number, (title, action) in enumerate(steps.items(), start=1):
        print(f'  [{number}/{len(steps)}] {title}', flush=True)
        start = time.monotonic()
        action()
        print(f'        {time.monotonic() - start:.0f} s', flush=True)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog='tools/dev/bootstrap.py', epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Make a virtual environment with torch, mmcv and its operators, mmdet, mmengine and this package.')
    parser.add_argument('--stack', choices=sorted(VENVS), default='openmmlab',
                        help="OpenMMLab's last releases, or the maintained forks (default: %(default)s)")
    parser.add_argument('--venv', type=Path, help='the environment (default: .venv, or .venv-onedl)')
    args = parser.parse_args(arguments)
    venv = (args.venv or REPO / VENVS[args.stack]).expanduser().resolve()
    cache = Path(os.environ.get('SWIN_POS_DET_CACHE') or '~/.cache/swin-pos-det').expanduser().absolute()
    done = venv / 'setup-done'
    if done.is_file() and done.read_text('utf-8') == fingerprint(args.stack, venv) and (venv / 'bin/python').exists():
        print(f'set-up: {venv} is up to date ({args.stack})')
        return 0
    try:
        problems = find_problems(venv, cache)
        if problems:
            raise SetupError('cannot start: ' + '; '.join(problems))
        print(f'set-up: the {args.stack} stack in {venv}', flush=True)
        run_steps(args.stack, venv, cache)
        done.write_text(fingerprint(args.stack, venv), encoding='utf-8')
    except (SetupError, OSError, KeyboardInterrupt) as error:
        print(f'set-up: {str(error) or "interrupted; run it again to go on"}', file=sys.stderr)
        return 1
    return 0
