"""Packaging of swin-pos-det. The requirements live in `requirements/`, which the set-up in `tools/dev` reads too."""
from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Run `version.py` alone, so that building needs neither torch nor the package's other imports."""
    scope: dict[str, str] = {}
    exec((HERE / 'swin_pos_det' / 'version.py').read_text(encoding='utf-8'), scope)
    return scope['__version__']


def read_requirements(name: str) -> list[str]:
    lines = (HERE / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith('#')]


def read_readme() -> str:
    readme = HERE / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


class BuildWithConfigs(build_py):
    """A build with configs, tools and the model index where OpenMMLab's package manager expects them, as in mmdet."""

    def run(self) -> None:
        super().run()
        if getattr(self, 'editable_mode', False):
            self._link(HERE / 'swin_pos_det' / '.mim')
            return
        target = Path(self.build_lib) / 'swin_pos_det' / '.mim'
        compiled = shutil.ignore_patterns('__pycache__')
        for name in ('configs', 'tools'):
            shutil.copytree(HERE / name, target / name, dirs_exist_ok=True, ignore=compiled)
        shutil.copy(HERE / 'model-index.yml', target)

    @staticmethod
    def _link(target: Path) -> None:
        target.mkdir(exist_ok=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            if not (target / name).is_symlink():
                (target / name).symlink_to(Path('..', '..', name))


setup(
    name='swin-pos-det',
    version=read_version(),
    description='A Swin backbone for MMDetection whose relative-position-bias tables are resampled to any window',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=['object detection', 'instance segmentation', 'swin transformer', 'mmdetection'],
    packages=find_packages(include=['swin_pos_det', 'swin_pos_det.*']),
    py_modules=['swin_pos_det_console'],
    entry_points={'console_scripts': ['swin-pos-det = swin_pos_det_console:main']},
    package_data={'swin_pos_det': ['py.typed']},
    cmdclass={'build_py': BuildWithConfigs},
    # 3.13 is out of reach for both stacks: mmcv 2.1.0's setup.py reads names that exec() left in locals().
    python_requires='>=3.9,<3.13',
    install_requires=read_requirements('runtime'),
    extras_require={path.stem: read_requirements(path.stem) for path in (HERE / 'requirements').glob('*.txt')
                    if path.stem != 'runtime'},
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3',
        # What has run in full; docs/install.md says what has been tried on 3.9 and 3.10.
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
