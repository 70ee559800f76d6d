"""torchvision, which mmpretrain imports, beside a build of torch that its wheel does not fit.

pip's default index has torchvision built for CUDA. With a CPU build of torch its operators do not load, and since
release 0.17 it then fails at import, where it describes two of them. mmpretrain uses torchvision's transforms, none
of its operators.
"""
from __future__ import annotations

import re
from pathlib import Path

from .commands import run_logged, run_python

_LOCATE = ('from importlib.util import find_spec; spec = find_spec("torchvision"); '
           'print(spec.submodule_search_locations[0] if spec else "")')
_SCHEMA = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'  # of nms and qnms


def ensure_torchvision(python: Path, logs: Path) -> str:
    """Make torchvision importable, or remove it: a broken one would stop others that try it, such as torch.onnx.

    Returns:
        What was done, for the user.
    """
    if imports(python):
        return 'kept'
    folder = run_python(python, _LOCATE).stdout.strip()
    if folder and declare_operators(Path(folder)) and imports(python):
        return 'its operators do not fit this torch; it was changed so that it imports without them'
    run_logged([python, '-m', 'pip', 'uninstall', '-y', 'torchvision'], logs / 'torchvision.log')
    return 'removed, as it does not fit this torch: classification with mmpretrain is not available'


def imports(python: Path) -> bool:
    """Return whether a fresh process imports torchvision."""
    return run_python(python, 'import torchvision').returncode == 0


def declare_operators(package: Path) -> bool:
    """Let torchvision declare what it describes at import, where its operators are not loaded.

    Args:
        package: torchvision's folder; its ``extension.py`` gets a few lines more.

    Returns:
        Whether anything was to be declared.
    """
    described = (package / '_meta_registrations.py').read_text('utf-8')
    names = re.findall(r'register_fake\("(torchvision::\w+)"\)', described)
    lines = ''.join(f'    torch.library.define("{name}", "{_SCHEMA}")\n' for name in names)
    if lines:
        with open(package / 'extension.py', 'a', encoding='utf-8') as file:
            file.write(f'\n\nif not _has_ops():  # added by the set-up of swin-pos-det\n{lines}')
    return bool(lines)
