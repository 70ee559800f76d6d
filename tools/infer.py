"""Run a detector on images and videos: pictures and a COCO file of the detections."""
import argparse
import sys
from functools import partial

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.choices import WINDOW_POLICIES
from swin_pos_det.cli.argument_types import count, device, fraction, tile_overlap, tile_size, window_size
from swin_pos_det.cli.arguments import add_config_arguments, add_speed_arguments, note_unused
from swin_pos_det.cli.main import run_cli

SOME_SKIPPED = 3
_OF_TORCH = ('device', 'window', 'window_policy', 'half', 'cuda_graphs', 'cfg_options')


class _Parser(argparse.ArgumentParser):
    """A parser for ``CONFIG CHECKPOINT INPUT ...`` and ``MODEL.onnx INPUT ...``."""

    def parse_args(self, args=None, namespace=None):
        """Parse, and count what stands in the place of a checkpoint as an input of an exported file."""
        found = super().parse_args(args, namespace)
        if found.config.endswith('.onnx'):
            found.inputs, found.checkpoint = [found.checkpoint, *found.inputs], None
        if not found.inputs:
            self.error('the following arguments are required: INPUT')
        return found


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = _Parser(
        description='Detect objects in images and videos. Writes DIR/vis/ with pictures and DIR/predictions.json, a '
                    'COCO data set whose annotations have scores.',
        epilog='Exit status: 0: all inputs were run; 1: an error, printed in one line; 2: a wrong command line; '
               f'{SOME_SKIPPED}: some inputs were unreadable, each was named and skipped. '
               'Examples: python tools/infer.py CONFIG work_dirs/demo/epoch_4.pth photos/ --out found --window 12; '
               'python tools/infer.py model.onnx photos/ --out found')
    parser.add_argument('config', help='path of the config file, or of an exported .onnx file, which needs no '
                                       'checkpoint')
    parser.add_argument('checkpoint', help='the .pth file with the weights')
    parser.add_argument('inputs', nargs='*', metavar='INPUT',
                        help='an image, a video, a folder of them, or a quoted pattern such as "photos/**/*.jpg"')
    parser.add_argument('--out', required=True, metavar='DIR', help='where results go; created if necessary')
    parser.add_argument('--score-thr', type=fraction, default=0.3, metavar='S',
                        help='detections below this score are neither drawn nor written (default: 0.3)')
    parser.add_argument('--batch-size', type=count, default=1, metavar='N', help='images at once (default: 1)')
    parser.add_argument('--slice', type=tile_size, metavar='PX',
                        help='cut images that are larger than PX into overlapping tiles of PX x PX pixels, detect in '
                             'each of them and in the whole image, and merge: finds small objects in large images. '
                             '--batch-size is then that of tiles')
    parser.add_argument('--slice-overlap', type=tile_overlap, default=0.2, metavar='S',
                        help='overlap of neighbouring tiles, as a share of their side; should exceed the small objects '
                             '(default: 0.2)')
    parser.add_argument('--device', type=device, help='such as cuda:0 or cpu (default: a GPU if there is one)')
    parser.add_argument('--providers', nargs='+', metavar='NAME', default=['cpu'],
                        help='of onnxruntime, for an .onnx file: cpu, cuda or tensorrt, in the order of preference '
                             '(default: cpu)')
    parser.add_argument('--window', nargs='+', type=partial(window_size, words=('global', )), metavar='W',
                        help="run with this window: 7, or 7,14 for (h, w), or 'global'; one, or one for each stage. "
                             "Tables are resampled (default: the config's)")
    parser.add_argument('--window-policy', choices=WINDOW_POLICIES, help="window policy (default: the config's)")
    parser.add_argument('--no-pictures', action='store_true', help='write predictions.json only')
    parser.add_argument('--font', metavar='FILE',
                        help='a TrueType or OpenType font for class names (default: $SWIN_POS_DET_FONT, else one of '
                             'the system that has their characters)')
    add_speed_arguments(parser)
    add_config_arguments(parser)
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)  # an argument of load_config
    return parser


def run(args: argparse.Namespace) -> int:
    """Detect as the command line says; return the exit status."""
    from swin_pos_det.apis import Slicing, check_inputs, describe_ignored, find_inputs, init_detector, predict_files
    from swin_pos_det.apis.pipeline import reads_folders
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint
    from swin_pos_det.cli.runner import load_config
    from swin_pos_det.deployment.onnx_model import OnnxModel
    from swin_pos_det.engine.fast_inference import speed_up
    from swin_pos_det.visualization import find_font

    exported = args.config.endswith('.onnx')
    if exported:
        note_unused(get_parser(), args, _OF_TORCH, 'on an .onnx file')
    if args.slice is None:
        note_unused(get_parser(), args, ['slice_overlap'], 'without --slice')
    cfg = None if exported else load_config(args)
    folders = not exported and reads_folders(cfg)
    found = find_inputs(args.inputs, folders)
    check_inputs(found, args.out, not args.no_pictures)
    find_font((), args.font)
    if not exported:
        check_checkpoint(args.checkpoint)
    for line in [] if folders else describe_ignored(args.inputs):
        print(f'note: {line}', file=sys.stderr)
    if exported:
        model = OnnxModel(args.config, args.providers)
    else:
        windows = args.window[0] if args.window and len(args.window) == 1 else args.window
        model = init_detector(cfg, args.checkpoint, args.device, windows, args.window_policy)
        if args.half or args.cuda_graphs:
            speed_up(model, args.cuda_graphs, args.half)
    report = predict_files(model, found, args.out, args.batch_size, args.score_thr, not args.no_pictures,
                           font=args.font, slicing=args.slice and Slicing(args.slice, args.slice_overlap))
    for reason in report.skipped.values():
        print(f'skipped: {reason}', file=sys.stderr)
    skipped = f' (skipped: {len(report.skipped)})' if report.skipped else ''
    print(f'{report.detections} objects in {report.images} images{skipped}: {report.json}')
    return SOME_SKIPPED if report.skipped else 0


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(run, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
