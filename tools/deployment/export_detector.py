"""Export a whole detector to ONNX, for images of any size, and check it."""
import argparse
import sys

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count, file_name
from swin_pos_det.cli.arguments import add_config_arguments, note_unused
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Export a detector to ONNX: normalisation, padding, network, box decoding, NMS and masks in one '
                    'graph, with height and width left free. It is compared with the detector at eight other sizes; '
                    'unless they agree, the exit status is 1 and nothing is written.',
        epilog='Example: python tools/deployment/export_detector.py CONFIG epoch_4.pth --out model.onnx. Then: '
               'python tools/infer.py model.onnx photos/ --out found')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', help='the .pth file with the weights')
    parser.add_argument('--out', type=file_name('.onnx'), default='detector.onnx', metavar='FILE',
                        help='what to write (default: %(default)s)')
    parser.add_argument('--batch', type=count, default=1, metavar='N',
                        help='images at once, all of one size (default: 1)')
    parser.add_argument('--raw', action='store_true',
                        help='take one image (H, W, 3) uint8 of any size and resize it in the graph; boxes and masks '
                             'are in its own pixels')
    parser.add_argument('--paste-masks', action='store_true',
                        help='give masks of the size of the input image, in place of probabilities within the box')
    parser.add_argument('--fp16', action='store_true',
                        help='convert backbone, neck and products to float16, and print what that changes: in '
                             "detections, and in AP where the config's test data are there")
    parser.add_argument('--ap-images', type=count, default=100, metavar='N',
                        help='with --fp16: how many images to evaluate (default: 100)')
    add_config_arguments(parser)
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)  # what load_config wants to know
    return parser


def export(args: argparse.Namespace) -> int:
    """Export and compare; return the exit status."""
    from swin_pos_det.apis import build_detector
    from swin_pos_det.checkpoints import check_writable
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint
    from swin_pos_det.cli.runner import load_config
    from swin_pos_det.deployment import export_detector

    cfg = load_config(args)
    check_checkpoint(args.checkpoint)
    check_writable(args.out)
    done = export_detector(build_detector(cfg, args.checkpoint), args.out, args.batch, args.raw, args.paste_masks,
                           args.fp16)
    print_comparisons(done.comparisons, 'largest differences from torch')
    if not done.equal:
        print(f'error: the exported detector does not equal the one in torch; {args.out} was not written',
              file=sys.stderr)
        return 1
    print(f'{done.path} ({done.path.stat().st_size / 2**20:.0f} MiB)')
    if args.fp16:
        print_comparisons(done.half, 'largest differences of float16 from torch in float32')
        print_ap(args)
    else:
        note_unused(get_parser(), args, ['ap_images'], 'without --fp16')
    return 0


def print_comparisons(comparisons, title: str) -> None:
    """Print a line for each image that was compared."""
    from rich.console import Console
    from rich.table import Table

    table = Table('size', 'image', 'scores over', 'found', 'unpaired', 'box, px', 'score', 'mask', title=title)
    for each in comparisons:
        case = each.case
        table.add_row(f'{case.height}x{case.width}', case.picture,
                      'config' if case.threshold is None else f'{case.threshold:g}', str(each.found),
                      str(each.unpaired), *(f'{value:.1e}' for value in (each.box, each.score, each.mask)))
    Console().print(table)


def print_ap(args: argparse.Namespace) -> None:
    """Print the AP of the checkpoint in torch and of the file, on some of the config's test images."""
    from swin_pos_det.cli.runner import build_runner, check_data, load_config, prepare_testing
    from swin_pos_det.deployment.onnx_model import use_onnx_model

    found = []
    for path in (args.checkpoint, args.out):
        cfg = load_config(args)
        try:
            if path == args.out:
                use_onnx_model(cfg, path, ['cpu'])
            else:
                prepare_testing(cfg, path)
            check_data(cfg, ['test'])
        except UserError as error:
            print(f'note: the AP was not measured: {error}', file=sys.stderr)
            return
        cfg.test_dataloader.dataset.indices = args.ap_images
        runner = build_runner(cfg, evaluated='test')
        count = evaluate_own_images(runner)
        found.append(runner.test())
    for name in (name for name in found[0] if name.endswith('mAP')):
        print(f'{name} of {count} images: {found[0][name]:.4f} in torch, {found[1][name]:.4f} in float16')


def evaluate_own_images(runner) -> int:
    """Leave the other images of the annotation file out of the metrics, where nothing is found; return the number."""
    from swin_pos_det.evaluation.annotations import as_coco

    dataset = runner.test_loop.dataloader.dataset
    own = {dataset.get_data_info(index)['img_id'] for index in range(len(dataset))}
    for metric in runner.test_loop.evaluator.metrics:
        truth = getattr(metric, '_coco_api', None)
        if truth is not None:
            notes = [note for note in truth.dataset['annotations'] if note['image_id'] in own]
            metric._coco_api = as_coco(dict(truth.dataset, annotations=notes, images=[
                image for image in truth.dataset['images'] if image['id'] in own]))
    return len(own)


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(export, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
