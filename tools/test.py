"""Evaluates a checkpoint. Same arguments and behaviour as MMDetection's tools/test.py."""
import argparse
import sys
import warnings
from copy import deepcopy

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import file_name
from swin_pos_det.cli.arguments import add_common_arguments, add_speed_arguments, note_unused
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Evaluate a checkpoint on the test data of its config (for COCO configs: val2017).',
        epilog='Example: python tools/test.py CONFIG.py work_dirs/demo/epoch_1.pth. For COCO configs, set the '
               'environment variable COCO_ROOT to the folder with annotations/ and val2017/.')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', help='the .pth file to evaluate, or an exported .onnx file')
    parser.add_argument('--backend', choices=('torch', 'onnxruntime'),
                        help='what runs the detector (default: onnxruntime for an .onnx file, else torch)')
    parser.add_argument('--providers', nargs='+', metavar='NAME', default=['cpu'],
                        help='of onnxruntime: cpu, cuda or tensorrt, in the order of preference (default: cpu)')
    parser.add_argument('--work-dir', metavar='DIR',
                        help='where the metrics go (default: work_dir of the config, else work_dirs/<config name>)')
    parser.add_argument('--classwise', action='store_true', help='also report AP by class')
    parser.add_argument('--out', type=file_name('.pkl', '.pickle', '.json'), metavar='FILE',
                        help="also write all predictions to this file: .pkl as mmdet does, or .json in COCO's format, "
                             'for tools/analysis_tools/eval_coco.py')
    parser.add_argument('--show', action='store_true', help='show each prediction in a window')
    parser.add_argument('--show-dir', metavar='DIR',
                        help='write pictures of predictions to DIR, inside the timestamped folder of the work dir')
    parser.add_argument('--wait-time', type=float, default=2, metavar='SECONDS',
                        help='with --show: how long each picture stays (default: 2)')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation: the config's, such as "
                                                              'that of configs/_base_/tta.py, else flipping')
    add_speed_arguments(parser)
    add_common_arguments(parser)
    return parser


def use_test_time_augmentation(cfg) -> None:
    """Wrap the model and the test pipeline of ``cfg`` for test-time augmentation."""
    from mmengine.config import ConfigDict

    from swin_pos_det.type_names import type_name

    if 'tta_model' not in cfg and cfg.get('default_scope') != 'mmdet':
        raise UserError(f"--tta needs tta_model and tta_pipeline in a config of {cfg.get('default_scope')}")
    if 'tta_model' not in cfg:
        warnings.warn('the config has no tta_model: results of all views go through one NMS at IoU 0.5', stacklevel=2)
        cfg.tta_model = dict(type='mmdet.SwinPosTTAModel')
    elif type_name(cfg.tta_model) == 'DetTTAModel':  # the same boxes, and masks where there are any
        cfg.tta_model.type = 'mmdet.SwinPosTTAModel'
    if 'tta_pipeline' not in cfg:
        warnings.warn('the config has no tta_pipeline: each image is tested as it is and flipped', stacklevel=2)
        dataset = cfg.test_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        cfg.tta_pipeline = deepcopy(dataset.pipeline)
        cfg.tta_pipeline[-1] = dict(type='TestTimeAug', transforms=[
            [dict(type='mmdet.RandomFlip', prob=1.), dict(type='mmdet.RandomFlip', prob=0.)],
            [dict(type='mmdet.PackDetInputs', meta_keys=keys)],
        ])
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def _is_exported(args: argparse.Namespace) -> bool:
    """Return whether an exported detector is to be evaluated, and note what has no effect then."""
    exported = args.checkpoint.endswith('.onnx')
    if args.backend not in (None, 'onnxruntime' if exported else 'torch'):
        raise UserError(f'--backend {args.backend} cannot run {args.checkpoint}: onnxruntime runs .onnx files, which '
                        'tools/deployment/export_detector.py writes, and torch checkpoints')
    if exported and args.tta:
        raise UserError('--tta needs a checkpoint: an exported detector has no test-time augmentation')
    names, why = (('half', 'cuda_graphs'), 'on an .onnx file') if exported else (('providers', ), 'on a checkpoint')
    note_unused(get_parser(), args, names, why)
    return exported


def test(args: argparse.Namespace) -> None:
    """Evaluate as the command line says."""
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    from swin_pos_det.checkpoints import check_writable
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint, check_evaluable
    from swin_pos_det.cli.following import report_classes
    from swin_pos_det.cli.runner import build_runner, check_data, load_config, prepare_testing
    from swin_pos_det.deployment.onnx_model import use_onnx_model
    from swin_pos_det.engine.fast_inference import FastInferenceHook
    from swin_pos_det.engine.visualization_hook import show_predictions
    from swin_pos_det.evaluation.detections import ResultsFileHook

    setup_cache_size_limit_of_dynamo()
    cfg = load_config(args)
    exported = _is_exported(args)
    if exported:
        check_data(cfg, ['test'], use_onnx_model(cfg, args.checkpoint, args.providers))
    else:
        meta = check_checkpoint(args.checkpoint)
        check_evaluable(args.checkpoint)
        check_data(cfg, ['test'], meta)
        prepare_testing(cfg, args.checkpoint)
    if args.classwise:
        report_classes(cfg, 'test')
    if args.out is not None:
        check_writable(args.out)
    if not args.show:
        note_unused(get_parser(), args, ['wait_time'], 'without --show')
    if args.show or args.show_dir:
        show_predictions(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        use_test_time_augmentation(cfg)
    runner = build_runner(cfg, evaluated='test')
    if args.out is not None:
        runner.register_hook(ResultsFileHook(args.out))
    if (args.half or args.cuda_graphs) and not exported:
        runner.register_hook(FastInferenceHook(args.cuda_graphs, args.half))
    runner.test()


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(test, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
