"""The set-up's own decisions, without network, environments or compilers' real work."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from envsetup import checks, cli, mmcv_wheel, runner, stacks, stamps, steps

REPO = Path(__file__).resolve().parents[1]
OPENMMLAB, ONEDL = stacks.STACKS['openmmlab'], stacks.STACKS['onedl']


@pytest.fixture
def setup(tmp_path: Path) -> steps.Setup:
    """A set-up of a small copy of the repository's packaging files, in an environment that does not exist yet."""
    repo = tmp_path / 'repo'
    (repo / 'requirements').mkdir(parents=True)
    for path in [*(REPO / 'requirements').glob('*.txt'), REPO / 'setup.py']:
        (repo / path.relative_to(REPO)).write_text(path.read_text())
    return steps.Setup(OPENMMLAB, tmp_path / 'venv', tmp_path / 'cache', repo=repo)


def add_distribution(venv: Path, name: str, files: dict[str, str]) -> Path:
    """Lay an installed distribution with its RECORD into an environment; returns its dist-info folder."""
    site = venv / 'lib' / 'python3.11' / 'site-packages'
    info = site / f'{name}.dist-info'
    info.mkdir(parents=True)
    rows = [f'{name}.dist-info/RECORD,,\n']
    for file, text in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(text)
        rows.append(f'{file},sha256=x,{len(text)}\n')
    (info / 'RECORD').write_text(''.join(rows))
    return info


def finish(setup: steps.Setup, torch: str = 'torch-2.13.0+cpu') -> None:
    """Leave what a finished set-up leaves."""
    add_distribution(setup.venv, torch, {'torch/version.py': 'x'})
    setup.python.parent.mkdir(parents=True)
    setup.python.write_text('')
    setup.stamps.write('venv', 'made')
    for name, key in steps.step_keys(setup).items():
        setup.stamps.write(name, key)


class TestStacks:

    def test_key_of_the_wheel_folder(self):
        key = stacks.wheel_key('cp311', '2.13.0+cpu', 'linux', 'x86_64')
        assert key == 'cp311-torch2.13.0+cpu-linux-x86_64'

    @pytest.mark.parametrize(('stack', 'spec'), [(OPENMMLAB, 'mmcv==2.1.0'), (ONEDL, 'onedl-mmcv==2.3.6')])
    def test_mmcv_is_pinned_and_left_to_its_own_step(self, stack, spec):
        assert stacks.mmcv_spec(stack) == spec
        names = [stacks.distribution(line) for line in stacks.package_specs(stack)]
        assert not {'mmcv', 'onedl-mmcv', 'torch'} & set(names)
        assert 'pytest' in names
        assert any(name.endswith(('mmdet', 'mmdetection')) for name in names)

    def test_an_unpinned_mmcv_is_refused(self, tmp_path):
        (tmp_path / 'requirements').mkdir()
        (tmp_path / 'requirements' / 'openmmlab.txt').write_text('mmcv>=2\n')
        with pytest.raises(ValueError, match='must pin mmcv with =='):
            stacks.mmcv_spec(OPENMMLAB, tmp_path)

    @pytest.mark.parametrize(('line', 'name'), [
        ('mmcv==2.1.0', 'mmcv'), ('setuptools<80', 'setuptools'), ('a-b >= 1', 'a-b'), ('x[y]>1', 'x'), ('rich', 'rich')
    ])
    def test_distribution(self, line, name):
        assert stacks.distribution(line) == name

    def test_cache_folder(self, monkeypatch):
        assert stacks.cache_root({'SWIN_POS_DET_CACHE': '/a', 'XDG_CACHE_HOME': '/b'}) == Path('/a')
        assert stacks.cache_root({'XDG_CACHE_HOME': '/b'}) == Path('/b/swin-pos-det')
        monkeypatch.setenv('HOME', '/home/me')
        assert stacks.cache_root({}) == Path('/home/me/.cache/swin-pos-det')


class TestChecks:

    def test_python_too_old_for_the_stack_or_for_torch(self):
        assert checks.check_python(OPENMMLAB, 'torch==2.4.0', (3, 9)) is None
        assert 'torch==2.13.0 (or set TORCH_SPEC) needs Python 3.10' in checks.check_python(OPENMMLAB, None, (3, 9))
        assert 'the onedl stack needs Python 3.10' in checks.check_python(ONEDL, 'torch==2.4.0', (3, 9))
        assert checks.check_python(ONEDL, None, (3, 12)) is None

    @pytest.mark.parametrize('version', [(3, 8), (3, 13)])
    def test_the_entry_refuses_other_pythons(self, version, monkeypatch, capsys):
        import bootstrap
        monkeypatch.setattr(bootstrap.sys, 'version_info', version)
        assert bootstrap.main() == 1
        error = capsys.readouterr().err
        assert error.startswith(f'set-up: cannot start: Python 3.9 to 3.12 is needed, this is 3.{version[1]}')
        assert error.count('\n') == 1

    def test_no_compiler_on_path(self, tmp_path):
        problem = checks.check_compiler({'PATH': str(tmp_path)})
        assert problem.startswith("a C++ compiler is missing: no 'c++' on PATH")

    def test_a_compiler_that_fails(self, tmp_path):
        fake = tmp_path / 'mycxx'
        fake.write_text('#!/bin/sh\necho "error: no such standard" >&2\nexit 3\n')
        fake.chmod(0o755)
        problem = checks.check_compiler({'PATH': os.environ['PATH'], 'CXX': str(fake)})
        assert 'mycxx' in problem
        assert 'no such standard' in problem

    def test_headers(self, tmp_path):
        assert 'Python.h is missing' in checks.check_headers(str(tmp_path))
        (tmp_path / 'Python.h').touch()
        assert checks.check_headers(str(tmp_path)) is None

    def test_venv_module_split_off_by_the_distributor(self, monkeypatch):
        monkeypatch.setattr(checks.importlib.util, 'find_spec', lambda name: None if name == 'ensurepip' else object())
        assert checks.check_venv_module().startswith('the Python module ensurepip is missing')

    def test_needs_on_one_file_system_are_added(self, tmp_path, monkeypatch):
        usage = namedtuple('usage', 'total used free')
        monkeypatch.setattr(checks.shutil, 'disk_usage', lambda _: usage(9, 9, 3 * checks.GIB))
        needs = {tmp_path / 'venv' / 'new': 2 * checks.GIB, tmp_path / 'cache': 2 * checks.GIB}
        assert checks.check_disk(needs) == [f'4.0 GiB of free disk are needed at {tmp_path}, 3.0 are there']
        assert checks.check_disk({tmp_path: 2 * checks.GIB}) == []

    def test_all_problems_are_one_line_and_nothing_is_created(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv('PATH', str(tmp_path / 'empty'))
        monkeypatch.setenv('SWIN_POS_DET_CACHE', str(tmp_path / 'cache'))
        monkeypatch.delenv('MMCV_FIND_LINKS', raising=False)
        monkeypatch.delenv('CXX', raising=False)
        monkeypatch.setattr(checks, 'VENV_BYTES', 2**60)
        assert cli.run(['--venv', str(tmp_path / 'venv')]) == 1
        error = capsys.readouterr().err
        assert error.count('\n') == 1
        assert 'C++ compiler is missing' in error
        assert 'free disk' in error
        assert list(tmp_path.iterdir()) == []

    def test_a_cached_wheel_or_further_links_need_no_compiler(self, setup, monkeypatch):
        monkeypatch.setattr(checks, 'check_compiler', lambda: 'no compiler')
        monkeypatch.setattr(checks, 'check_headers', lambda: None)
        monkeypatch.delenv('MMCV_FIND_LINKS', raising=False)
        assert 'no compiler' in steps.find_problems(setup)
        monkeypatch.setenv('MMCV_FIND_LINKS', '/somewhere')
        assert 'no compiler' not in steps.find_problems(setup)
        monkeypatch.delenv('MMCV_FIND_LINKS')
        tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
        folder = setup.cache / 'wheels' / f'{tag}-torch2.13.0-linux-x86_64'
        folder.mkdir(parents=True)
        (folder / f'mmcv-2.1.0-{tag}-{tag}-linux_x86_64.whl').touch()
        assert 'no compiler' not in steps.find_problems(setup)


class TestStamps:

    def test_a_finished_set_up_has_nothing_to_do(self, setup):
        assert not steps.is_up_to_date(setup)
        finish(setup)
        assert steps.is_up_to_date(setup)

    @pytest.mark.parametrize('changed', ['requirements/runtime.txt', 'requirements/openmmlab.txt', 'setup.py'])
    def test_a_changed_request_is_noticed(self, setup, changed):
        finish(setup)
        path = setup.repo / changed
        path.write_text(path.read_text() + '\nattrs\n')
        assert not steps.is_up_to_date(setup)

    def test_only_the_steps_from_the_change_on_run_again(self, setup):
        before = steps.step_keys(setup)
        (setup.repo / 'setup.py').write_text('changed')
        after = steps.step_keys(setup)
        assert [name for name in before if before[name] != after[name]] == ['editable', 'check']

    def test_any_installed_torch_is_kept_unless_one_is_named(self, setup):
        finish(setup, 'torch-2.9.1+cu128')
        assert steps.is_up_to_date(setup)
        named = steps.Setup(setup.stack, setup.venv, setup.cache, 'torch==2.9.1', setup.repo)
        assert not steps.is_up_to_date(named)
        setup.stamps.write('torch-spec', 'torch==2.9.1')
        assert steps.is_up_to_date(named)

    def test_another_torch_means_mmcv_is_looked_at_again(self, setup):
        finish(setup)
        site = stamps.site_packages(setup.venv)
        (site / 'torch-2.13.0+cpu.dist-info').rename(site / 'torch-2.14.1.dist-info')
        assert not steps.is_up_to_date(setup)

    def test_digest_keeps_parts_apart(self):
        assert stamps.digest('ab', 'c') != stamps.digest('a', 'bc')

    @pytest.mark.parametrize('way', ['venv', 'absent/../venv'])
    def test_a_folder_that_is_no_environment_is_never_touched(self, setup, way, monkeypatch, capsys):
        (setup.venv / 'chapter').mkdir(parents=True)
        (setup.venv / 'chapter' / 'thesis.tex').write_text('years of work')
        monkeypatch.setattr(cli, 'find_problems', lambda _: [])
        monkeypatch.setenv('SWIN_POS_DET_CACHE', str(setup.cache))
        assert cli.run(['--venv', str(setup.venv.parent / way)]) == 1
        assert 'is no virtual environment' in capsys.readouterr().err
        assert [path for path in setup.venv.rglob('*') if path.is_file()] == [setup.venv / 'chapter' / 'thesis.tex']

    def test_a_folder_above_the_repository_is_refused(self, setup):
        (setup.repo.parent / 'pyvenv.cfg').touch()
        for venv in (setup.repo, setup.repo.parent):
            with pytest.raises(runner.SetupError, match='holds the repository'):
                steps.refuse_other_folders(venv, setup.repo)

    def test_replacing_a_broken_environment_leaves_other_files(self, setup):
        (setup.venv / 'lib').mkdir(parents=True)
        (setup.venv / 'lib64').symlink_to('lib')
        (setup.venv / 'notes').mkdir()
        steps.remove_environment(setup.venv)
        assert (setup.venv / 'lib').is_dir(), 'without pyvenv.cfg it is none'
        (setup.venv / 'pyvenv.cfg').touch()
        steps.remove_environment(setup.venv)
        assert [path.name for path in setup.venv.iterdir()] == ['notes']


class TestInterrupted:

    def test_a_missing_or_truncated_file_un_registers_its_distribution(self, tmp_path):
        whole = add_distribution(tmp_path, 'whole-1', {'whole/a.py': 'aaa'})
        cut = add_distribution(tmp_path, 'cut-1', {'cut/a.py': 'aaa', 'cut/b.py': 'bbb'})
        gone = add_distribution(tmp_path, 'gone-1', {'gone/a.py': 'aaa'})
        (cut.parent / 'cut' / 'b.py').write_text('b')
        (gone.parent / 'gone' / 'a.py').unlink()
        (whole.parent / '~unning').mkdir()
        assert stamps.remove_broken(whole.parent) == ['cut-1', 'gone-1']
        assert whole.is_dir()
        assert not (whole.parent / '~unning').exists()

    def test_no_record_means_not_installed(self, tmp_path):
        info = add_distribution(tmp_path, 'torch-2', {})
        assert stamps.installed_version(tmp_path, 'torch') == '2'
        (info / 'RECORD').unlink()
        assert stamps.installed_version(tmp_path, 'torch') is None
        assert stamps.remove_broken(info.parent) == ['torch-2']

    def test_a_file_of_two_distributions_may_have_either_size(self, tmp_path):
        add_distribution(tmp_path, 'opencv_python-5', {'cv2/cv2.so': 'with windows'})
        headless = add_distribution(tmp_path, 'opencv_python_headless-5', {'cv2/cv2.so': 'without'})
        assert stamps.remove_broken(headless.parent) == []


class TestRunner:

    def test_a_failure_names_the_log_and_shows_its_end(self, tmp_path):
        code = 'print("WARNING: Location \'x\' is ignored: no folder"); print("the reason"); raise SystemExit(3)'
        with pytest.raises(runner.SetupError) as caught:
            runner.run_logged([sys.executable, '-c', code], tmp_path / 'step.log')
        message = str(caught.value)
        assert 'status 3' in message
        assert str(tmp_path / 'step.log') in message
        assert message.endswith('| the reason')
        assert 'is ignored' not in message

    def test_progress_is_shown_while_a_command_runs(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(runner, 'HEARTBEAT_S', 0.05)
        code = 'print("[12/76] c++ -c roi_align.cpp", flush=True); import time; time.sleep(0.5)'
        runner.run_logged([sys.executable, '-c', code], tmp_path / 'log', progress=runner.ninja_progress)
        assert '12 of 76 files compiled' in capsys.readouterr().out

    @pytest.mark.parametrize(('command', 'name'), [(['/v/bin/python', '-m', 'pip', 'install', 'x'], 'pip install'),
                                                   (['/usr/bin/make', 'all'], 'make')])
    def test_describe(self, command, name):
        assert runner.describe(command) == name

    def test_a_lock_makes_the_second_one_wait_and_dies_with_its_holder(self, tmp_path, capsys):
        lock = tmp_path / 'lock'
        hold = ('import sys; from pathlib import Path; from envsetup.runner import exclusive\n'
                'with exclusive(Path(sys.argv[1]), "it"):\n    print("held", flush=True); sys.stdin.read()')
        env = {**os.environ, 'PYTHONPATH': str(REPO / 'tools' / 'dev')}
        with subprocess.Popen([sys.executable, '-c', hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env=env, text=True) as holder:
            assert holder.stdout.readline() == 'held\n'
            timer = threading.Timer(0.5, holder.kill)
            timer.start()
            with runner.exclusive(lock, 'the wheel cache'):
                assert holder.wait(timeout=10) == -9
        assert 'waiting: another process holds the wheel cache' in capsys.readouterr().out

    def test_children_get_no_foreign_python_path(self, monkeypatch):
        monkeypatch.setenv('PYTHONPATH', '/elsewhere')
        monkeypatch.setenv('PIP_USER', '1')
        env = runner.child_env(MAX_JOBS='2')
        assert 'PYTHONPATH' not in env
        assert (env['PIP_USER'], env['MAX_JOBS']) == ('0', '2')


class TestWheels:

    @pytest.fixture
    def target(self, tmp_path: Path) -> mmcv_wheel.Target:
        return mmcv_wheel.Target(tmp_path / 'python', 'onedl-mmcv==2.3.6', tmp_path / 'cache', tmp_path / 'c', tmp_path)

    @pytest.fixture
    def calls(self, monkeypatch) -> list[str]:
        """What `ensure_mmcv` did, with nothing of it done really: the operators work after any installation."""
        done = []
        facts = {'tag': 'cp311', 'torch': '2.13.0+cpu', 'system': 'linux', 'machine': 'x86_64'}
        monkeypatch.setattr(mmcv_wheel, 'verify', lambda _: 'not installed')
        monkeypatch.setattr(mmcv_wheel, 'torch_facts', lambda _: facts)
        monkeypatch.setattr(mmcv_wheel, 'install', lambda _, wheel: done.append(f'install {wheel.name}'))
        monkeypatch.setattr(mmcv_wheel, 'download_prebuilt', lambda *_: done.append('look for a prebuilt one'))
        return done

    @staticmethod
    def make_wheel(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, 'w') as wheel:
            wheel.writestr('mmcv/_ext.so', 'x' * 100)
        return path

    def test_only_a_complete_wheel_of_the_version_counts(self, tmp_path):
        cut = self.make_wheel(tmp_path / 'mmcv-2.1.0-cp311.whl')
        cut.write_bytes(cut.read_bytes()[:60])
        self.make_wheel(tmp_path / 'mmcv-2.2.0-cp311.whl')
        assert mmcv_wheel.find_cached(tmp_path, 'mmcv-2.1.0') is None
        whole = self.make_wheel(tmp_path / 'mmcv-2.1.0-cp312.whl')
        assert mmcv_wheel.find_cached(tmp_path, 'mmcv-2.1.0') == whole

    def test_publishing_replaces_in_one_step_and_leaves_no_draft(self, tmp_path, monkeypatch):
        wheel = self.make_wheel(tmp_path / 'built' / 'mmcv-2.1.0-cp311.whl')
        folder = tmp_path / 'cache'
        assert mmcv_wheel.publish(wheel, folder).read_bytes() == wheel.read_bytes()
        monkeypatch.setattr(mmcv_wheel.os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
        with pytest.raises(OSError, match='disk full'):
            mmcv_wheel.publish(self.make_wheel(tmp_path / 'built' / 'mmcv-2.1.1-cp311.whl'), folder)
        assert [path.name for path in folder.iterdir()] == ['mmcv-2.1.0-cp311.whl']

    def test_a_working_mmcv_is_kept(self, target, calls, monkeypatch):
        monkeypatch.setattr(mmcv_wheel, 'verify', lambda _: None)
        assert mmcv_wheel.ensure_mmcv(target) == 'kept'
        assert calls == []

    def test_the_cache_comes_first(self, target, calls):
        folder = target.cache / 'wheels' / 'cp311-torch2.13.0+cpu-linux-x86_64'
        wheel = self.make_wheel(folder / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl')
        assert mmcv_wheel.ensure_mmcv(target) == 'cached'
        assert calls == [f'install {wheel.name}']

    def test_a_cached_wheel_that_does_not_work_is_set_aside_and_built_anew(self, target, calls, monkeypatch, capsys):
        folder = target.cache / 'wheels' / 'cp311-torch2.13.0+cpu-linux-x86_64'
        bad = self.make_wheel(folder / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl')
        answers = iter(['undefined symbol', None])
        monkeypatch.setattr(mmcv_wheel, 'install', lambda *_: next(answers))
        monkeypatch.setattr(mmcv_wheel, 'build', lambda *_: Path('new.whl'))
        assert mmcv_wheel.ensure_mmcv(target) == 'built'
        assert calls == ['look for a prebuilt one']
        assert 'undefined symbol' in capsys.readouterr().out
        assert not bad.exists()

    def test_a_prebuilt_wheel_that_fits_goes_into_the_cache(self, target, calls, monkeypatch, tmp_path):
        wheel = self.make_wheel(tmp_path / 'down' / 'onedl_mmcv-2.3.6-cp311-cp311-manylinux1_x86_64.whl')
        monkeypatch.setattr(mmcv_wheel, 'download_prebuilt', lambda *_: wheel)
        assert mmcv_wheel.ensure_mmcv(target) == 'prebuilt'
        folder = target.cache / 'wheels' / 'cp311-torch2.13.0+cpu-linux-x86_64'
        assert mmcv_wheel.find_cached(folder, target.stem).name == wheel.name

    def test_without_a_compiler_the_build_says_what_is_missing(self, target, monkeypatch, tmp_path):
        monkeypatch.setattr(mmcv_wheel, 'check_compiler', lambda: 'a C++ compiler is missing')
        facts = {'torch': '2.13.0+cpu', 'include': str(tmp_path), 'cuda': None}
        with pytest.raises(runner.SetupError, match='fits torch 2.13.0.*cannot be built: a C.. compiler is missing'):
            mmcv_wheel.build(target, tmp_path, facts)

    @pytest.mark.parametrize(('name', 'accepted'), [('onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl', True),
                                                    ('onedl_mmcv-2.3.6-py3-none-any.whl', False)])
    def test_a_finished_build_goes_into_the_cache_if_it_has_operators(self, target, monkeypatch, name, accepted):
        def compile_it(command, log, *, env, progress):
            assert env['MMCV_WITH_OPS'] == '1'
            self.make_wheel(Path(command[command.index('--wheel-dir') + 1]) / name)

        monkeypatch.setattr(mmcv_wheel, 'check_compiler', lambda: None)
        monkeypatch.setattr(mmcv_wheel, 'check_headers', lambda _: None)
        monkeypatch.setattr(mmcv_wheel, 'unpack_source', lambda _, work: work / 'src')
        monkeypatch.setattr(mmcv_wheel, 'run_logged', compile_it)
        facts = {'torch': '2.13.0+cpu', 'include': '', 'cuda': None}
        if accepted:
            assert mmcv_wheel.build(target, target.cache, facts) == target.cache / name
            assert [path.name for path in target.cache.iterdir()] == [name]
        else:
            with pytest.raises(runner.SetupError, match='no wheel with operators'):
                mmcv_wheel.build(target, target.cache, facts)

    def test_an_interrupted_build_keeps_its_source_and_objects(self, target, tmp_path, monkeypatch):
        compiled = tmp_path / 'work' / 'src' / 'build' / 'nms.o'
        compiled.parent.mkdir(parents=True)
        compiled.touch()
        monkeypatch.setattr(mmcv_wheel.Target, 'pip', lambda *_, **__: pytest.fail('downloads again'))
        assert mmcv_wheel.unpack_source(target, tmp_path / 'work') == tmp_path / 'work' / 'src'
        assert compiled.exists()

    @pytest.mark.parametrize(('cores', 'gib', 'jobs'), [(2, 24, 2), (64, 12, 8), (4, 1, 1)])
    def test_compile_jobs_follow_cores_and_memory(self, cores, gib, jobs):
        assert mmcv_wheel.compile_jobs(cores, gib * 2**30) == jobs

    @pytest.mark.parametrize(('cuda', 'nvcc', 'force'), [(None, True, '0'), ('13.0', False, '0'), ('13.0', True, '1')])
    def test_cuda_operators_need_both_torch_and_compiler(self, cuda, nvcc, force, tmp_path, monkeypatch):
        monkeypatch.setenv('CUDA_HOME', str(tmp_path))
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
        if nvcc:
            (tmp_path / 'bin').mkdir()
            (tmp_path / 'bin' / 'nvcc').touch(mode=0o755)
        env = mmcv_wheel.build_env(tmp_path / 'venv' / 'bin' / 'python', cuda)
        assert env['FORCE_CUDA'] == force
        assert env['CUDA_VISIBLE_DEVICES'] == ('0' if force == '1' else '')
        assert env['PATH'].startswith(str(tmp_path / 'venv' / 'bin'))

    @pytest.mark.parametrize(('asked', 'flags'), [(None, '-g0'), ('-O1 -g', '-g0 -O1 -g')])
    def test_debug_symbols_are_left_out_unless_asked_for(self, asked, flags, tmp_path, monkeypatch):
        monkeypatch.delenv('CFLAGS', raising=False)
        if asked:
            monkeypatch.setenv('CFLAGS', asked)
        assert mmcv_wheel.build_env(tmp_path / 'bin' / 'python', None)['CFLAGS'] == flags
