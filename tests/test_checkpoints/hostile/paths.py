"""Every way in which this project reads a checkpoint, on small models that are built once."""
from __future__ import annotations

import contextlib
import importlib.util
from copy import deepcopy
from pathlib import Path
from typing import Any, Callable, Dict
from unittest import mock

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import swin_pos_det
from swin_pos_det.checkpoints import load_checkpoint_file
from swin_pos_det.cli import resuming
from swin_pos_det.cli import runner as cli_runner
from swin_pos_det.cli.main import run_cli

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'


class _Built(Exception):
    """A runner has come to the point where it loads."""


def small_config() -> Config:
    """Return the demo's config with a detector so small that hundreds of its checkpoints can be written."""
    cfg = Config.fromfile(str(CONFIG))
    model = cfg.model
    model.backbone.update(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    model.rpn_head.update(in_channels=8, feat_channels=8)
    model.roi_head.bbox_roi_extractor.out_channels = model.roi_head.mask_roi_extractor.out_channels = 8
    model.roi_head.bbox_head.update(in_channels=8, fc_out_channels=16)
    model.roi_head.mask_head.update(in_channels=8, conv_out_channels=8, num_convs=1)
    return cfg


def tool(path: str) -> Any:
    """Return a tool as a module."""
    spec = importlib.util.spec_from_file_location(f'hostile_{Path(path).stem}', ROOT / 'tools' / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Paths:
    """The loading paths, by name: functions of a file."""

    def __init__(self, folder: Path) -> None:
        swin_pos_det.register()
        init_default_scope('mmdet')
        self.folder = folder
        self.cfg = cfg = small_config()
        for part in ('train', 'val', 'test'):
            loader = cfg[f'{part}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.dataset.update(data_root=str(folder / 'digits'), num_train=2, num_val=2)
        cfg.update(work_dir=str(folder / 'run'), log_level='ERROR', launcher='none')
        self.runners = {name: self._runner(name, hooks) for name, hooks in (
            ('train', []), ('ema', [dict(type='EMAHook', momentum=.1)]))}
        self.tools = {name: tool(f'{path}.py') for name, path in (
            ('train', 'train'), ('test', 'test'), ('infer', 'infer'),
            ('convert', 'model_converters/convert_swin'), ('inspect', 'model_converters/inspect_checkpoint'))}
        self.by_name: Dict[str, Callable[[str], Any]] = {
            'read': load_checkpoint_file,
            'load_from': self.load_from,
            'resume': lambda path: self.resume('train', path),
            'resume_ema': lambda path: self.resume('ema', path),
            'test': self.test,
            'infer': self.infer,
            'init_cfg': self.init_cfg,
            'load_state_dict': self.load_state_dict,
            'convert': lambda path: self._command('convert', [path, str(folder / 'converted.pth')]),
            'inspect': lambda path: self._command('inspect', [path]),
        }

    def _runner(self, name: str, hooks: list) -> Runner:
        """Return a runner that has built everything and is about to load."""
        cfg = deepcopy(self.cfg)
        cfg.work_dir = str(self.folder / name)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *hooks]
        cfg.experiment_name = f'hostile-{name}'
        runner = Runner.from_cfg(cfg)
        with mock.patch.object(Runner, 'load_or_resume', side_effect=_Built), contextlib.suppress(_Built):
            runner.train()
        return runner

    def good(self) -> Dict[str, Any]:
        """Return a training checkpoint with averaged weights and optimizer states."""
        runner = self.runners['ema']
        optimizer = runner.optim_wrapper.optimizer
        for group in optimizer.param_groups:
            for parameter in group['params']:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        runner.message_hub.update_scalar('train/loss', 1.)
        runner.save_checkpoint(str(self.folder), 'good.pth', meta=dict(epoch=1, iter=1))
        return load_checkpoint_file(self.folder / 'good.pth')

    # In a child: a tool's main with the runner that is built already, which loads and does no more.
    def _run(self, name: str, runner: Runner, argv: list) -> int:
        def built(cfg: Config, **settings: Any) -> Runner:
            runner._load_from, runner._resume = cfg.get('load_from'), cfg.get('resume', False)
            runner._has_loaded = False
            return runner

        def load(self: Runner) -> None:
            self.load_or_resume()

        with contextlib.ExitStack() as patches:
            for module in (cli_runner, resuming):
                patches.enter_context(mock.patch.object(module, 'build_runner', built))
                patches.enter_context(mock.patch.object(module, 'check_data'))
            patches.enter_context(mock.patch.object(Runner, 'train', load))
            patches.enter_context(mock.patch.object(Runner, 'test', load))
            return self._main(name, argv)

    def _main(self, name: str, argv: list) -> int:
        def load_config(args: Any) -> Config:
            cfg = deepcopy(self.cfg)
            cfg.merge_from_dict(args.cfg_options or {})
            return cfg

        with mock.patch.object(cli_runner, 'load_config', load_config):
            return self.tools[name].main(argv)

    def _command(self, name: str, argv: list) -> int:
        return run_cli(self.tools[name].run, self.tools[name].get_parser(), argv)

    def load_from(self, path: str) -> int:
        return self._run('train', self.runners['train'], ['config.py', '--cfg-options', f'load_from={path}'])

    def resume(self, name: str, path: str) -> int:
        return self._run('train', self.runners[name], ['config.py', '--resume', path])

    def test(self, path: str) -> int:
        runner = self.runners['train']
        runner.register_hook(dict(type='RequireFullCheckpointHook'))
        return self._run('test', runner, ['config.py', path])

    def infer(self, path: str) -> int:
        model = self.runners['train'].model

        def build(cfg: Any, *args: Any, **kwargs: Any) -> Any:
            return model

        with mock.patch.object(MODELS, 'build', build), \
                mock.patch('swin_pos_det.apis.predict_files', return_value=mock.Mock(skipped={})):
            return self._main('infer', ['config.py', path, str(self.folder / 'digits/val'), '--out', str(self.folder)])

    def init_cfg(self, path: str) -> None:
        backbone = self.runners['train'].model.backbone
        backbone.init_cfg, backbone._is_init = dict(type='Pretrained', checkpoint=path), False
        backbone.init_weights()

    def load_state_dict(self, path: str) -> None:
        self.runners['train'].model.backbone.load_state_dict(load_checkpoint_file(path), strict=False)
