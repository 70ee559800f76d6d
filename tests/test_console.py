"""The console command ``swin-pos-det``."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import swin_pos_det_console as console

TOOLS = Path(__file__).parents[1] / 'tools'


def test_each_command_names_a_tool_and_help_lists_it(capsys):
    assert console.main(['--help']) == 0
    text = capsys.readouterr().out
    for name, (tool, what) in console.COMMANDS.items():
        assert (TOOLS / tool).is_file() and f'{name} ' in text and what in text
        assert (console.find_tools() / tool).samefile(TOOLS / tool)


@pytest.mark.parametrize('argv, error', [(['trian'], "unknown command 'trian'; choose from train, test"),
                                         ([], 'a command is missing')])
def test_a_wrong_command_is_one_line(argv, error, capsys):
    assert console.main(argv) == 2
    line, = capsys.readouterr().err.splitlines()
    assert error in line


def test_a_tool_that_is_not_installed_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(console, 'find_tools', lambda: tmp_path)
    assert console.main(['train', 'x.py']) == 1
    line, = capsys.readouterr().err.splitlines()
    assert str(tmp_path / 'train.py') in line


def test_a_command_gets_its_arguments_and_gives_its_exit_status(monkeypatch, tmp_path):
    (tmp_path / 'train.py').write_text('import sys\nsys.exit(int(sys.argv[1]) + len(sys.argv))')
    monkeypatch.setattr(console, 'find_tools', lambda: tmp_path)
    monkeypatch.setattr(sys, 'argv', ['swin-pos-det', 'train', '5'])
    with pytest.raises(SystemExit) as stopped:
        console.main()
    assert stopped.value.code == 7


def test_help_of_command_and_tool_needs_no_torch():
    program = ('import sys, swin_pos_det_console as console\n'
               'console.main(["--help"])\n'
               'try: console.main(["train", "--help"])\n'
               'except SystemExit as stopped: assert not stopped.code\n'
               'assert not {"torch", "mmdet", "mmengine"} & set(sys.modules)')
    done = subprocess.run([sys.executable, '-c', program], cwd=TOOLS.parent, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and '--work-dir' in done.stdout


def test_report_and_infer_have_the_flags_of_their_tools(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', sys.argv)  # main sets it
    for command, flag in (('report', '--html'), ('infer', '--slice')):
        with pytest.raises(SystemExit) as stopped:
            console.main([command, '--help'])
        assert not stopped.value.code and f'{flag} ' in capsys.readouterr().out
