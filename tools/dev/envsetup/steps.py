"""The set-up's steps in their order."""
from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from . import checks
from .mmcv_wheel import Target, ensure_mmcv
from .runner import SetupError, exclusive, run_logged, run_python, say
from .stacks import BUILD_TOOLS, DEFAULT_TORCH, REPO, Stack, mmcv_spec, package_specs
from .stamps import Stamps, digest, installed_version, remove_broken, site_packages, write_atomically

# Raise it when the steps themselves change, so that finished environments are looked at again.
SETUP_VERSION = '1'
_IMPORTS = 'import cv2, torch, mmengine, mmcv.ops, mmdet.apis; ' \
           'print("torch", torch.__version__, "mmcv", mmcv.__version__, "mmdet", mmdet.__version__, "mmengine", ' \
           'mmengine.__version__)'


@dataclass(frozen=True)
class Setup:
    """One environment to be made.

    `torch_spec` is what the user asked for (`$TORCH_SPEC`); None keeps an installed torch and else takes the default.
    """

    stack: Stack
    venv: Path
    cache: Path
    torch_spec: str | None = None
    repo: Path = REPO

    @property
    def python(self) -> Path:
        return self.venv / 'bin' / 'python'

    @property
    def stamps(self) -> Stamps:
        return Stamps(self.venv)

    @property
    def constraints(self) -> Path:
        return self.stamps.folder / 'constraints.txt'

    def pip_install(self, *arguments: str | os.PathLike, log: str) -> None:
        run_logged([self.python, '-m', 'pip', 'install', '--constraint', self.constraints, *arguments],
                   self.stamps.folder / 'logs' / f'{log}.log')


def torch_is_current(setup: Setup) -> bool:
    """Whether the installed torch is the one wanted: any, unless the user named one."""
    if installed_version(setup.venv, 'torch') is None:
        return False
    return setup.torch_spec is None or setup.stamps.read('torch-spec') == setup.torch_spec


def step_keys(setup: Setup) -> dict[str, str]:
    """The stamps that a finished environment has. Each key includes the one before, as each step builds on it."""
    packaging = [setup.repo / 'setup.py', setup.repo / 'swin_pos_det' / 'version.py',
                 *sorted((setup.repo / 'requirements').glob('*.txt'))]
    wanted = {
        'tools': [SETUP_VERSION, setup.stack.name, installed_version(setup.venv, 'torch') or '', *BUILD_TOOLS],
        'packages': package_specs(setup.stack, setup.repo),
        'mmcv': [mmcv_spec(setup.stack, setup.repo)],
        'editable': [str(setup.repo), *(path.read_text(encoding='utf-8') for path in packaging if path.is_file())],
        'check': [_IMPORTS],
    }
    keys, previous = {}, ''
    for step, parts in wanted.items():
        previous = keys[step] = digest(previous, step, *parts)
    return keys


def is_up_to_date(setup: Setup) -> bool:
    """Whether there is nothing to do; reads a few small files and starts no process."""
    if not (setup.python.exists() and setup.stamps.read('venv') and torch_is_current(setup)):
        return False
    return setup.stamps.read('check') == step_keys(setup)['check']


def wheel_may_be_cached(setup: Setup) -> bool:
    """Whether the cache has a wheel of the pinned mmcv for this Python, if perhaps for another torch."""
    name, version = mmcv_spec(setup.stack, setup.repo).split('==')
    tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
    return any(setup.cache.glob(f'wheels/{tag}-torch*/{name.replace("-", "_")}-{version}-*.whl'))


def find_problems(setup: Setup) -> list[str]:
    """Everything that would stop this set-up later on, said before anything is changed."""
    found = [checks.check_python(setup.stack, setup.torch_spec)]
    keys = step_keys(setup)
    needs = {}
    if not setup.stamps.read('venv'):
        found.append(checks.check_venv_module())
    if setup.stamps.read('packages') != keys['packages']:
        needs[setup.venv] = checks.VENV_BYTES
    if setup.stamps.read('mmcv') != keys['mmcv']:
        needs[setup.cache] = checks.CACHE_BYTES
        # A prebuilt mmcv needs no compiler; should there be none after all, the build says so itself.
        if not (os.environ.get('MMCV_FIND_LINKS') or wheel_may_be_cached(setup)):
            found += [checks.check_compiler(), checks.check_headers()]
    return [problem for problem in found if problem] + checks.check_disk(needs)


def refuse_other_folders(venv: Path, repo: Path) -> None:
    """Keep away from folders that hold anything but an environment.

    Raises:
        SetupError: if `venv` is a file, has files but no `pyvenv.cfg`, or holds the repository.
    """
    venv = venv.resolve()
    if venv == repo.resolve() or venv in repo.resolve().parents:
        raise SetupError(f'{venv} holds the repository and cannot be the virtual environment; name another folder')
    other = venv.is_file() or (not (venv / 'pyvenv.cfg').is_file() and any(not p.is_dir() for p in venv.rglob('*')))
    if other:
        raise SetupError(f'{venv} exists and is no virtual environment; move it away or name another folder')


def remove_environment(venv: Path) -> None:
    """Remove an environment's own parts and nothing else, unlike `python -m venv --clear`, which empties the folder."""
    if not (venv / 'pyvenv.cfg').is_file():
        return
    for name in ('bin', 'include', 'lib', 'share', 'etc', '.swin-pos-det'):
        if (venv / name).is_dir() and not (venv / name).is_symlink():
            shutil.rmtree(venv / name)
    for name in ('lib64', 'pyvenv.cfg'):
        (venv / name).unlink(missing_ok=True)


def make_venv(setup: Setup) -> None:
    """Create the environment, or keep one that works."""
    refuse_other_folders(setup.venv, setup.repo)
    half_made = setup.stamps.read('venv') is None and setup.stamps.read('venv-started') is not None
    log = setup.cache / 'logs' / f'{digest(str(setup.venv))[:16]}.venv.log'
    if half_made or not setup.python.exists() or run_python(setup.python, '').returncode != 0:
        remove_environment(setup.venv)
        run_logged([sys.executable, '-m', 'venv', '--without-pip', setup.venv], log)
        setup.stamps.write('venv-started', '')
    if run_python(setup.python, 'import pip').returncode != 0:
        run_logged([setup.python, '-m', 'ensurepip', '--upgrade', '--default-pip'], log)
    setup.stamps.write('venv', sys.version)


def install_torch(setup: Setup) -> None:
    """Install torch where it is missing or another one is asked for, then hold its version for all later steps."""
    constraints = [*BUILD_TOOLS[:1]]
    if not torch_is_current(setup):
        write_atomically(setup.constraints, '\n'.join(constraints) + '\n')
        spec = setup.torch_spec or DEFAULT_TORCH
        setup.pip_install(*spec.split(), log='torch')
        setup.stamps.write('torch-spec', spec)
    else:
        say('        kept')
    version = installed_version(setup.venv, 'torch')
    if version is None:
        raise SetupError(f'pip installed no torch for {setup.torch_spec or DEFAULT_TORCH!r}')
    write_atomically(setup.constraints, '\n'.join([*constraints, f'torch=={version}']) + '\n')


def install_packages(setup: Setup) -> None:
    """mmdet, mmengine, our own and the tests' requirements, in one go so that pip finds versions that agree."""
    setup.pip_install('--no-build-isolation', *package_specs(setup.stack, setup.repo), log='packages')
    done = run_python(setup.python, 'import cv2')
    if done.returncode == 0:
        return
    # OpenCV's usual wheel needs libGL, which servers lack; its headless twin, over the same files, does not.
    version = installed_version(setup.venv, 'opencv_python')
    if 'cannot open shared object file' not in done.stderr or version is None:
        raise SetupError(f'OpenCV cannot be imported: {done.stderr.strip().splitlines()[-1]}')
    say(f'        this system has no display libraries: opencv-python-headless {version} over opencv-python')
    setup.pip_install('--no-deps', '--force-reinstall', f'opencv-python-headless=={version}', log='opencv')


def install_mmcv(setup: Setup) -> None:
    how = ensure_mmcv(Target(setup.python, mmcv_spec(setup.stack, setup.repo), setup.cache, setup.constraints,
                             setup.stamps.folder / 'logs'))
    say(f'        {how}')


def install_editable(setup: Setup) -> None:
    """This repository, with its extras: all of them are there already, so pip only confirms that they agree."""
    setup.pip_install('--no-build-isolation', '--editable', f'{setup.repo}[{setup.stack.name},test]', log='editable')


def check_imports(setup: Setup) -> None:
    done = run_python(setup.python, _IMPORTS)
    if done.returncode != 0:
        raise SetupError(f'the {setup.stack.name} stack does not import: {done.stderr.strip().splitlines()[-1]}')
    say(f'        {done.stdout.strip().splitlines()[-1]}')


def run_steps(setup: Setup) -> None:
    """Do what is not done yet, one visible step after the other.

    Raises:
        SetupError: with a message for the user; what was finished stays finished.
    """
    steps: list[tuple[str, str, Callable[[Setup], None]]] = [
        ('venv', 'virtual environment', make_venv),
        ('torch', setup.torch_spec or DEFAULT_TORCH, install_torch),
        ('tools', ', '.join(BUILD_TOOLS), lambda s: s.pip_install(*BUILD_TOOLS, log='tools')),
        ('packages', f'mmdet, mmengine and the other packages ({setup.stack.name})', install_packages),
        ('mmcv', f'{mmcv_spec(setup.stack, setup.repo)} with operators', install_mmcv),
        ('editable', 'this package, editable', install_editable),
        ('check', 'a fresh process imports the stack', check_imports),
    ]
    with exclusive(setup.cache / 'locks' / f'{digest(str(setup.venv))[:16]}.lock', str(setup.venv)):
        site = site_packages(setup.venv)
        if setup.stamps.read('unfinished') is not None and site is not None:
            for name in remove_broken(site):
                say(f'  an interrupted set-up left {name} half installed: it is installed again')
        for number, (name, title, action) in enumerate(steps, start=1):
            label = f'  [{number}/{len(steps)}] {title}'
            wanted = step_keys(setup).get(name)
            if wanted is not None and setup.stamps.read(name) == wanted:
                say(f'{label}: done before')
                continue
            say(label)
            start = time.monotonic()
            action(setup)
            if wanted is not None:
                setup.stamps.write(name, wanted)
            # Only now, as the first step may have cleared the folder.
            setup.stamps.write('unfinished', '')
            say(f'        {time.monotonic() - start:.0f} s')
        setup.stamps.remove('unfinished')
