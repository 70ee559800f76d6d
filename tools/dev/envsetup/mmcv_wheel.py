"""mmcv with its compiled operators: kept, taken from the cache, prebuilt, or built once into the cache."""
from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .checks import check_compiler, check_headers
from .runner import SetupError, child_env, exclusive, ninja_progress, run_logged, run_python, say
from .stacks import wheel_key

GIB = 2**30
COMPILER_GIB = 1.5  # one compiler process on mmcv's largest files

_FACTS = '''
import json, platform, sys, torch
print(json.dumps(dict(tag='cp%d%d' % sys.version_info[:2], torch=torch.__version__, cuda=torch.version.cuda,
                      include=__import__('sysconfig').get_path('include'),
                      system=platform.system().lower(), machine=platform.machine())))
'''
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


@dataclass(frozen=True)
class Target:
    """Where mmcv goes and which one: `spec` is a pinned requirement such as `'mmcv==2.1.0'`."""

    python: Path
    spec: str
    cache: Path  # the cache's root
    constraints: Path
    logs: Path

    @property
    def name(self) -> str:
        return self.spec.split('==')[0]

    @property
    def version(self) -> str:
        return self.spec.split('==')[1]

    @property
    def stem(self) -> str:
        """How the wheel's file name starts."""
        return f'{self.name.replace("-", "_")}-{self.version}'

    def pip(self, *arguments: str | os.PathLike, log: str, **options) -> None:
        run_logged([self.python, '-m', 'pip', *arguments], self.logs / f'{log}.log', **options)


def torch_facts(python: Path) -> dict:
    """The wheel key's parts, asked of the environment's own interpreter.

    Raises:
        SetupError: if torch cannot be imported there.
    """
    done = run_python(python, _FACTS)
    if done.returncode != 0:
        raise SetupError(f'torch cannot be imported in {python.parent.parent}: {_last(done.stderr)}')
    return json.loads(done.stdout)


def verify(target: Target) -> str | None:
    """None if the pinned mmcv is installed and its operators work, else why not."""
    done = run_python(target.python, _VERIFY.format(name=target.name, version=target.version))
    return None if done.returncode == 0 else _last(done.stderr)


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else 'no message'


def find_cached(folder: Path, stem: str) -> Path | None:
    """The folder's complete wheel of that name; a truncated one lacks the directory at a zip's end."""
    return next((path for path in sorted(folder.glob(f'{stem}-*.whl')) if zipfile.is_zipfile(path)), None)


def publish(wheel: Path, folder: Path) -> Path:
    """Put a wheel into the cache in one step, as others may be reading there.

    The copy goes to the same folder first: only there is the renaming atomic.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f'.{wheel.name}.{os.getpid()}.tmp'
    try:
        shutil.copyfile(wheel, draft)
        os.replace(draft, folder / wheel.name)
    finally:
        draft.unlink(missing_ok=True)
    return folder / wheel.name


def install(target: Target, wheel: Path) -> str | None:
    """Install a wheel over whatever is there; None if it then works, else why not (and it is uninstalled again)."""
    target.pip('install', '--no-deps', '--force-reinstall', wheel, log='mmcv-install')
    problem = verify(target)
    if problem is not None:
        target.pip('uninstall', '-y', target.name, log='mmcv-uninstall')
    return problem


def download_prebuilt(target: Target, folder: Path) -> Path | None:
    """A wheel of the pinned version from pip's configured sources and `$MMCV_FIND_LINKS`, None if there is none."""
    shutil.rmtree(folder, ignore_errors=True)
    links = [part for link in os.environ.get('MMCV_FIND_LINKS', '').split() for part in ('--find-links', link)]
    try:
        target.pip('download', '--no-deps', '--only-binary=:all:', '--dest', folder, *links, target.spec,
                   log='mmcv-prebuilt')
    except SetupError:
        return None
    return find_cached(folder, target.stem)


def compile_jobs(cores: int, memory_bytes: int) -> int:
    """How many compilers at once: one per core, as far as the memory goes."""
    return max(1, min(cores, int(memory_bytes / GIB / COMPILER_GIB)))


def build_env(python: Path, cuda: str | None) -> dict[str, str]:
    """The environment of mmcv's build.

    CUDA operators are built where torch has CUDA and its compiler is there; without a compiler the device is
    hidden, since mmcv's setup.py would else ask for CUDA on seeing it. Python's own flags ask for debug symbols,
    which only make the compilation longer and the wheel 16 times as large; $CFLAGS comes later and can have them.
    """
    path = f'{python.parent}{os.pathsep}{os.environ.get("PATH", os.defpath)}'
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    nvcc = shutil.which('nvcc', path=f'{home}/bin') if home else shutil.which('nvcc')
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    jobs = os.environ.get('MAX_JOBS') or str(compile_jobs(os.cpu_count() or 1, memory))
    with_cuda = bool(cuda and nvcc)
    cflags = f'-g0 {os.environ.get("CFLAGS", "")}'.strip()
    env = child_env(PATH=path, MMCV_WITH_OPS='1', MAX_JOBS=jobs, CFLAGS=cflags, FORCE_CUDA='1' if with_cuda else '0')
    return env if with_cuda else {**env, 'CUDA_VISIBLE_DEVICES': ''}


def unpack_source(target: Target, work: Path) -> Path:
    """mmcv's source in `work/src`, once: a build that was interrupted goes on with the objects it had compiled."""
    source = work / 'src'
    if not source.is_dir():
        shutil.rmtree(work, ignore_errors=True)
        target.pip('download', '--no-deps', '--no-build-isolation', '--no-binary', target.name,
                   '--dest', work / 'sdist', target.spec, log='mmcv-source')
        archive = next(iter(sorted((work / 'sdist').glob('*.tar.gz'))), None)
        if archive is None:
            raise SetupError(f'pip has no source archive of {target.spec}')
        with tarfile.open(archive) as tar:
            # The filter keeps members inside the folder; Pythons before the 2023 patches do not know it.
            tar.extractall(work / 'unpacked', **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}))
        os.replace(next((work / 'unpacked').iterdir()), source)
    return source


def build(target: Target, folder: Path, facts: dict) -> Path:
    """Build the wheel and put it into the cache folder.

    Raises:
        SetupError: without a compiler or Python's headers, or if the build fails; the log stays in the folder.
    """
    problem = check_compiler() or check_headers(facts['include'])
    if problem:
        raise SetupError(f'no prebuilt {target.spec} fits torch {facts["torch"]}, and it cannot be built: {problem}')
    work = folder / f'.build-{target.stem}'
    log = folder / f'{target.stem}.build.log'
    env = build_env(target.python, facts['cuda'])
    say(f'        building {target.spec} with {env["MAX_JOBS"]} jobs, CUDA operators: '
        f'{"yes" if env["FORCE_CUDA"] == "1" else "no"}; once, 8 to 15 minutes on two cores (log: {log})')
    source = unpack_source(target, work)
    shutil.rmtree(work / 'wheel', ignore_errors=True)
    run_logged([target.python, '-m', 'pip', 'wheel', '-v', '--no-build-isolation', '--no-deps', '--wheel-dir',
                work / 'wheel', source], log, env=env, progress=ninja_progress)
    built = find_cached(work / 'wheel', target.stem)
    if built is None or re.search(r'-none-any\.whl$', built.name):
        raise SetupError(f'the build of {target.spec} made no wheel with operators; see {log}')
    wheel = publish(built, folder)
    shutil.rmtree(work, ignore_errors=True)
    return wheel


def ensure_mmcv(target: Target) -> str:
    """Make the pinned mmcv work in the environment, the cheapest way first.

    Returns:
        how: `'kept'`, `'cached'`, `'prebuilt'` or `'built'`.
    Raises:
        SetupError: if none of the ways ends with working operators.
    """
    if verify(target) is None:
        return 'kept'
    facts = torch_facts(target.python)
    folder = target.cache / 'wheels' / wheel_key(facts['tag'], facts['torch'], facts['system'], facts['machine'])
    with exclusive(folder / '.lock', 'the wheel cache'):
        wheel = find_cached(folder, target.stem)
        if wheel is not None:
            problem = install(target, wheel)
            if problem is None:
                return 'cached'
            say(f'        {wheel.name} from the cache does not work ({problem}); set aside')
            os.replace(wheel, wheel.with_suffix('.whl.rejected'))
        wheel = download_prebuilt(target, target.logs / 'mmcv-prebuilt')
        if wheel is not None:
            problem = install(target, wheel)
            if problem is None:
                publish(wheel, folder)
                return 'prebuilt'
            say(f'        the prebuilt {wheel.name} does not fit torch {facts["torch"]} ({problem})')
        problem = install(target, build(target, folder, facts))
    if problem is not None:
        raise SetupError(f'{target.spec} was built, but its operators do not work: {problem}')
    return 'built'
