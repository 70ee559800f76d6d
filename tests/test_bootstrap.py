"""The set-up's own decisions, without network, environments or compilers' real work."""
from __future__ import annotations

import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from envsetup import checks, commands, mmcv_wheel, setup


@pytest.mark.parametrize('version', [(3, 8), (3, 13)])
def test_the_entry_refuses_other_pythons(version, monkeypatch, capsys):
    import bootstrap
    monkeypatch.setattr(bootstrap.sys, 'version_info', version)
    assert bootstrap.main() == 1
    error = capsys.readouterr().err
    assert error.startswith(f'set-up: cannot start: Python 3.9 to 3.12 is needed, this is 3.{version[1]}')
    assert error.count('\n') == 1


def test_all_problems_are_one_line_and_nothing_is_created(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('PATH', str(tmp_path / 'empty'))
    monkeypatch.setenv('SWIN_POS_DET_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('MMCV_FIND_LINKS', raising=False)
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setattr(checks, 'VENV_BYTES', 2**60)
    monkeypatch.setattr(checks.importlib.util, 'find_spec', lambda name: None if name == 'ensurepip' else object())
    assert setup.run(['--venv', str(tmp_path / 'venv')]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    for problem in ('C++ compiler is missing', 'of disk are needed', 'Python module ensurepip is missing'):
        assert problem in error
    assert list(tmp_path.iterdir()) == []


def test_missing_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.sysconfig, 'get_path', lambda _: str(tmp_path))
    monkeypatch.setenv('CXX', sys.executable)
    assert 'Python.h is missing' in checks.find_compiler_problems()[0]
    (tmp_path / 'Python.h').touch()
    assert checks.find_compiler_problems() == []


def test_disk_space_is_that_of_the_nearest_folder(tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    free = [4, 3]
    monkeypatch.setattr(checks.shutil, 'disk_usage', lambda _: usage(9, 9, free.pop(0) * checks.GIB))
    monkeypatch.setenv('MMCV_FIND_LINKS', 'wheels')
    assert checks.find_problems(tmp_path / 'venv' / 'new', tmp_path) == []
    assert checks.find_problems(tmp_path / 'venv', tmp_path) == [
        f'4.0 GiB of disk are needed at {tmp_path}, 3.0 are free']


@pytest.mark.parametrize('way', ['venv', 'absent/../venv'])
def test_a_folder_that_is_no_environment_is_never_touched(tmp_path, way, monkeypatch, capsys):
    thesis = tmp_path / 'venv' / 'chapter' / 'thesis.tex'
    thesis.parent.mkdir(parents=True)
    thesis.write_text('years of work')
    monkeypatch.setenv('SWIN_POS_DET_CACHE', str(tmp_path / 'cache'))
    assert setup.run(['--venv', str(tmp_path / way)]) == 1
    assert 'is not a virtual environment' in capsys.readouterr().err
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == [thesis]


@pytest.mark.parametrize(('stack', 'spec'), [('openmmlab', 'mmcv==2.1.0'), ('onedl', 'onedl-mmcv==2.3.6')])
def test_mmcv_is_pinned_and_left_to_its_own_step(stack, spec):
    mmcv, packages = setup.requirements(stack)
    assert mmcv == spec
    assert 'pytest>=7' in packages
    assert not any(line.startswith(('torch>', 'mmcv', 'onedl-mmcv')) for line in packages)


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """Return an environment as a finished set-up leaves it, of a small copy of the packaging files."""
    repo, venv = tmp_path / 'repo', tmp_path / 'venv'
    for file in ('setup.py', 'swin_pos_det/version.py', 'requirements/runtime.txt'):
        (repo / file).parent.mkdir(parents=True, exist_ok=True)
        (repo / file).write_text((setup.REPO / file).read_text())
    monkeypatch.setattr(setup, 'REPO', repo)
    monkeypatch.delenv('TORCH_SPEC', raising=False)
    (venv / 'lib/python3.11/site-packages/torch-2.9.1+cu128.dist-info').mkdir(parents=True)
    for file in ('bin/python', 'pyvenv.cfg'):
        (venv / file).parent.mkdir(exist_ok=True)
        (venv / file).touch()
    (venv / 'setup-done').write_text(setup.fingerprint('openmmlab', venv))
    monkeypatch.setattr(setup, 'find_problems', lambda *_: ['it would run'])
    return venv


def test_a_finished_set_up_has_nothing_to_do(finished, capsys):
    assert setup.run(['--venv', str(finished)]) == 0
    assert 'is up to date (openmmlab)' in capsys.readouterr().out


@pytest.mark.parametrize('changed', ['setup.py', 'requirements/runtime.txt', 'torch'])
def test_a_changed_request_runs_the_set_up_again(finished, changed, monkeypatch, capsys):
    if changed == 'torch':
        monkeypatch.setenv('TORCH_SPEC', 'torch==2.13.0')
    else:
        (setup.REPO / changed).write_text('changed')
    assert setup.run(['--venv', str(finished)]) == 1
    assert 'it would run' in capsys.readouterr().err


def test_an_installed_torch_is_kept_unless_one_is_named(finished, tmp_path, monkeypatch):
    assert setup.wanted_torch(finished) == 'torch==2.9.1+cu128'
    assert setup.wanted_torch(tmp_path / 'new') == setup.DEFAULT_TORCH
    monkeypatch.setenv('TORCH_SPEC', 'torch==2.6.0')
    assert setup.wanted_torch(finished) == 'torch==2.6.0'


def test_a_failure_names_the_log_and_shows_its_end(tmp_path):
    with pytest.raises(commands.SetupError) as caught:
        commands.run_logged([sys.executable, '-c', 'print("the reason"); raise SystemExit(3)'], tmp_path / 'step.log')
    assert 'status 3' in str(caught.value)
    assert str(tmp_path / 'step.log') in str(caught.value)
    assert str(caught.value).endswith('| the reason')


@pytest.mark.parametrize(('text', 'line'), [('[1/76] c++ a.cpp\n[12/76] c++ b.cpp\nnote\n', '12 of 76 files compiled'),
                                            ('one\rtwo\n\n', 'two'), ('', '')])
def test_progress(text, line):
    assert commands.last_line(text) == line


def test_children_get_no_foreign_python_path(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', '/elsewhere')
    monkeypatch.setenv('PIP_USER', '1')
    env = commands.child_env(MAX_JOBS='2')
    assert 'PYTHONPATH' not in env
    assert (env['PIP_USER'], env['MAX_JOBS']) == ('0', '2')


def make_wheel(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w') as wheel:
        wheel.writestr('mmcv/_ext.so', 'x' * 100)
    return path


def test_only_a_complete_wheel_with_operators_of_the_version_counts(tmp_path):
    cut = make_wheel(tmp_path / 'mmcv-2.1.0-cp311.whl')
    cut.write_bytes(cut.read_bytes()[:60])
    make_wheel(tmp_path / 'mmcv-2.2.0-cp311.whl')
    make_wheel(tmp_path / 'mmcv-2.1.0-py3-none-any.whl')
    assert mmcv_wheel.find_wheel(tmp_path, 'mmcv==2.1.0') is None
    whole = make_wheel(tmp_path / 'mmcv-2.1.0-cp312.whl')
    assert mmcv_wheel.find_wheel(tmp_path, 'mmcv==2.1.0') == whole


@pytest.fixture
def pip(monkeypatch, tmp_path) -> list[str]:
    """Record calls of pip; only write an empty wheel where one is to be made."""
    asked = []

    def run(command, log, env=None):
        asked.append(' '.join(map(str, command[3:4] + [part for part in command[4:] if 'binary' in str(part)])))
        if command[3] == 'wheel':
            make_wheel(Path(command[command.index('--wheel-dir') + 1]) / 'onedl_mmcv-2.3.6-cp311.whl')

    monkeypatch.setattr(mmcv_wheel, 'run_logged', run)
    return asked


@pytest.mark.parametrize(('problems', 'calls', 'kept'), [
    ([None], [], []),
    (['not installed', None], ['wheel', 'install'], ['onedl_mmcv-2.3.6-cp311.whl']),
    (['not installed', 'undefined symbol', None], ['wheel', 'install', 'wheel --no-binary=onedl-mmcv', 'install'],
     ['onedl_mmcv-2.3.6-cp311.whl', 'onedl_mmcv-2.3.6-cp311.whl.rejected']),
])
def test_the_cheapest_way_that_works(pip, tmp_path, monkeypatch, problems, calls, kept):
    answers = iter(problems)
    monkeypatch.setattr(mmcv_wheel, 'verify', lambda *_: next(answers))
    mmcv_wheel.ensure_mmcv(tmp_path / 'python', 'onedl-mmcv==2.3.6', tmp_path / 'wheels', None, tmp_path / 'log')
    assert pip == calls
    assert sorted(path.name for path in (tmp_path / 'wheels').glob('*')) == kept


def test_the_cache_comes_first(pip, tmp_path, monkeypatch):
    answers = iter(['not installed', None])
    monkeypatch.setattr(mmcv_wheel, 'verify', lambda *_: next(answers))
    wheel = make_wheel(tmp_path / 'onedl_mmcv-2.3.6-cp311.whl')
    installed = mmcv_wheel.ensure_mmcv(tmp_path / 'python', 'onedl-mmcv==2.3.6', tmp_path, None, tmp_path / 'log')
    assert installed == wheel.name
    assert pip == ['install']


@pytest.mark.parametrize(('cuda', 'nvcc', 'force'), [(None, True, '0'), ('13.0', False, '0'), ('13.0', True, '1')])
def test_cuda_operators_need_both_torch_and_compiler(cuda, nvcc, force, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    monkeypatch.setenv('CFLAGS', '-O1')
    if nvcc:
        (tmp_path / 'bin').mkdir()
        (tmp_path / 'bin' / 'nvcc').touch(mode=0o755)
    env = mmcv_wheel.build_env(tmp_path / 'venv' / 'bin' / 'python', cuda)
    assert env['FORCE_CUDA'] == force
    assert env['CUDA_VISIBLE_DEVICES'] == ('0' if force == '1' else '')
    assert env['PATH'].startswith(str(tmp_path / 'venv' / 'bin'))
    assert env['CFLAGS'] == '-g0 -O1'


@pytest.mark.parametrize('stack', ['openmmlab', 'onedl'])
def test_the_environment_has_the_libraries_of_classification_and_segmentation(stack):
    _, packages = setup.requirements(stack)
    named = ' '.join(packages)
    assert all(name in named for name in ('mmpretrain==', 'mmsegmentation==', 'torchvision', 'scikit-image'))


@pytest.mark.parametrize('has_operators', [False, True])
def test_torchvision_without_operators_declares_those_that_it_describes(has_operators):
    declared = []
    torch = SimpleNamespace(library=SimpleNamespace(define=lambda *args: declared.append(args)))
    exec(setup.DECLARE_OPERATORS, dict(torch=torch, _has_ops=lambda: has_operators))
    schema = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
    assert declared == ([] if has_operators else [('torchvision::nms', schema), ('torchvision::qnms', schema)])


@pytest.fixture
def fake_torch(tmp_path) -> Path:
    """Return a torch.py that the `python` beside it imports as torch."""
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nshift 2; cd {tmp_path}; exec {sys.executable} -c "$1"\n')
    python.chmod(0o755)
    return tmp_path / 'torch.py'


@pytest.mark.parametrize(('device', 'archs', 'cuda'), [(True, '', '13.0'), (False, '8.0', '13.0'), (False, '', None)])
def test_cuda_operators_need_a_device_or_a_list_of_architectures(device, archs, cuda, fake_torch, monkeypatch):
    fake_torch.write_text('from types import SimpleNamespace\n__version__ = "2.13.0"\n'
                          'version = SimpleNamespace(cuda="13.0")\n'
                          f'cuda = SimpleNamespace(is_available=lambda: {device})\n')
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', archs)
    version, found, fits = setup.installed_torch(fake_torch.with_name('python'))
    assert (version, found) == ('2.13.0', cuda)
    assert fits.startswith(f'cp{sys.version_info[0]}{sys.version_info[1]}-torch2.13.0-')


def test_a_torch_that_does_not_import_stops_the_set_up(fake_torch):
    fake_torch.write_text('raise ImportError("libtorch.so: no such file")')
    with pytest.raises(commands.SetupError, match='importing torch fails: ImportError: libtorch.so'):
        setup.installed_torch(fake_torch.with_name('python'))
