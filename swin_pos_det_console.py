"""The console command ``swin-pos-det``: ``swin-pos-det train ...`` runs ``tools/train.py ...``, and so on.

Outside the package, as importing that registers its parts, which takes seconds that ``--help`` should not take.
"""
from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

COMMANDS = {
    'train': ('train.py', 'train a detector'),
    'test': ('test.py', 'evaluate a checkpoint'),
    'infer': ('infer.py', 'detect objects in images and videos'),
    'finetune': ('finetune.py', 'fine-tune a detector on a folder of images and annotations'),
    'report': ('analysis_tools/report_run.py', 'report on a training: tables, curves and pictures'),
    'convert': ('model_converters/convert_swin.py', 'convert a checkpoint of another library'),
    'inspect': ('model_converters/inspect_checkpoint.py', 'describe a checkpoint'),
    'export': ('deployment/export_detector.py', 'export a detector to ONNX'),
    'check': ('analysis_tools/check_coco.py', 'check a COCO data set'),
}
_WRONG_COMMAND_LINE = 2


def find_tools() -> Path:
    """Return the folder of the tools: the installed package's, else the checkout's."""
    spec = importlib.util.find_spec('swin_pos_det')
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    installed = package / '.mim' / 'tools'
    return installed if installed.is_dir() else package.parent / 'tools'


def describe() -> str:
    """Return the text of ``--help``."""
    lines = [f'  {name:<10}{text}' for name, (_, text) in COMMANDS.items()]
    return '\n'.join(['usage: swin-pos-det COMMAND ...', '', *lines, '', 'swin-pos-det COMMAND --help describes one.'])


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a tool as if its file were called; return the exit status, unless the tool ends the program itself."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ['']
    if name in ('-h', '--help'):
        print(describe())
        return 0
    if name not in COMMANDS:
        wrong = f'unknown command {name!r}' if name else 'a command is missing'
        print(f'swin-pos-det: error: {wrong}; choose from {", ".join(COMMANDS)}', file=sys.stderr)
        return _WRONG_COMMAND_LINE
    tool = find_tools() / COMMANDS[name][0]
    if not tool.is_file():
        print(f'swin-pos-det: error: this installation has no {tool}', file=sys.stderr)
        return 1
    sys.argv = [str(tool), *rest]
    runpy.run_path(str(tool), run_name='__main__')  # a tool ends with sys.exit
    return 0


if __name__ == '__main__':
    sys.exit(main())
