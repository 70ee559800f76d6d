"""Compare the results and times of the COCO evaluators on real annotations and made-up detections."""
import argparse
import sys

from rich.console import Console
from rich.table import Table

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Evaluate the same made-up detections with pycocotools and with faster-coco-eval. Times are of the '
                    'processor, which other work on the machine hardly changes; loading of files is not part of them.',
        epilog='Example: python tools/analysis_tools/compare_evaluators.py '
               '$COCO_ROOT/annotations/instances_val2017.json')
    parser.add_argument('ground_truth', metavar='GT', help='COCO annotations with masks')
    parser.add_argument('--copies', type=count, default=1, metavar='N',
                        help='evaluate N copies of each image, to time larger data (default: 1)')
    parser.add_argument('--per-image', type=count, default=200, metavar='N',
                        help='maximum number of detections for an image, half as many on average (default: 200)')
    parser.add_argument('--seed', type=int, default=0, help='of the detections (default: 0)')
    parser.add_argument('--runs', type=count, default=3, metavar='N',
                        help='time each evaluator N times, in turns, and print the shortest (default: 3)')
    add_traceback_argument(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Compare as the command line says."""
    from swin_pos_det.analysis.studies.evaluator_comparison import compare_evaluators, jittered_detections, replicate
    from swin_pos_det.evaluation.annotations import as_coco, load_ground_truth
    from swin_pos_det.progress import track

    dataset = replicate(load_ground_truth(args.ground_truth).dataset, args.copies)
    results = jittered_detections(as_coco(dataset), args.per_image, args.seed)
    cases = [(iou_type, max_dets) for iou_type in ('bbox', 'segm') for max_dets in ((1, 10, 100), (100, 300, 1000))]
    rows = [(case, compare_evaluators(dataset, results, *case, runs=args.runs))
            for case in track(cases, 'cases', transient=True)]
    table = Table('', 'AR at', 'AP', 'pycocotools', 'faster', 'ratio', 'largest difference',
                  title=f'{len(results)} detections, {len(dataset["images"])} images')
    for (iou_type, max_dets), compared in rows:
        slow, fast = compared.seconds.values()
        table.add_row(iou_type, ' '.join(map(str, max_dets)), f'{compared.stats["pycocotools"][0]:.3f}',
                      f'{slow:.2f} s', f'{fast:.2f} s', f'{slow / fast:.1f}', f'{compared.difference:.1e}')
    Console().print(table)


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(run, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
