"""Compute COCO's box and mask AP of a results file, without the model: tables, a confusion matrix, PR curves."""
import argparse
import os.path as osp
import sys

from rich.console import Console

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.choices import EVALUATORS, MAX_DETS
from swin_pos_det.cli.argument_types import count, fraction
from swin_pos_det.cli.arguments import add_traceback_argument, note_unused
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description="Evaluate detections from a file. The numbers equal those of tools/test.py and pycocotools.",
        epilog='Example: python tools/test.py CONFIG CHECKPOINT --out results.json, then python '
               'tools/analysis_tools/eval_coco.py results.json $COCO_ROOT/annotations/instances_val2017.json '
               '--confusion-matrix confusion.png')
    parser.add_argument('results', metavar='RESULTS', help='detections in COCO\'s format, as "tools/test.py --out '
                        'FILE.json" writes them, or the predictions.json of tools/infer.py')
    parser.add_argument('ground_truth', metavar='GT', help='COCO annotations, such as instances_val2017.json')
    parser.add_argument('--metric', nargs='+', choices=['bbox', 'segm'],
                        help='evaluate boxes, masks or both (default: those in the results)')
    parser.add_argument('--classes', nargs='+', metavar='NAME',
                        help='evaluate these classes only; needed if a model has fewer classes than GT (default: all)')
    parser.add_argument('--dataset', metavar='NAME',
                        help='the data set of GT, if RESULTS are of several')
    parser.add_argument('--max-dets', nargs=3, type=count, default=list(MAX_DETS), metavar='N',
                        help="detections per image that count, for AR (default: 100 300 1000, MMDetection's; "
                             "COCO's own are 1 10 100)")
    parser.add_argument('--evaluator', choices=EVALUATORS, default='pycocotools',
                        help='pycocotools (default), or faster-coco-eval, which gives equal results faster')
    parser.add_argument('--confusion-matrix', metavar='PNG', help='draw the confusion matrix of the classes')
    parser.add_argument('--pr-curve', metavar='PNG', help='draw precision over recall')
    parser.add_argument('--score-thr', type=fraction, default=0.3, metavar='S',
                        help='for the confusion matrix: the lowest score that counts (default: 0.3)')
    parser.add_argument('--iou-thr', type=fraction, default=0.5, metavar='I',
                        help='for the confusion matrix: the least IoU of a match (default: 0.5)')
    parser.add_argument('--out', metavar='JSON', help='write the numbers of all tables to this file')
    add_traceback_argument(parser)
    return parser


def check_true_masks(gt, path: str) -> None:
    """Refuse a ground truth without masks, and say what to do."""
    from swin_pos_det.data.annotation_file import CocoFileError, check_masks

    try:
        check_masks(gt.dataset, path)
    except CocoFileError as error:
        raise UserError(f'{error}. --metric bbox evaluates the boxes alone') from error


def run(args: argparse.Namespace) -> None:
    """Evaluate as the command line says."""
    from swin_pos_det.checkpoints import write_json
    from swin_pos_det.evaluation.annotations import load_ground_truth
    from swin_pos_det.evaluation.coco_eval import check_max_dets, evaluate, kinds_of
    from swin_pos_det.evaluation.confusion import confusion_matrix
    from swin_pos_det.evaluation.plots import plot_confusion_matrix, plot_precision_recall
    from swin_pos_det.evaluation.result_files import load_results
    from swin_pos_det.evaluation.tables import score_tables

    title = osp.basename(args.results)
    if args.confusion_matrix is None:
        note_unused(get_parser(), args, ['score_thr', 'iou_thr'], 'without --confusion-matrix')
    check_max_dets(args.max_dets, '--max-dets')
    gt = load_ground_truth(args.ground_truth)
    results = load_results(args.results, gt, args.dataset)
    if not results:
        print(f'note: {args.results} holds no detections: AP and AR are 0', file=sys.stderr)
    kinds = args.metric or kinds_of(results)[:None if results else 1] or ['bbox']
    if 'segm' in kinds:
        check_true_masks(gt, args.ground_truth)
    scores = [evaluate(gt, results, kind, args.evaluator, args.max_dets, args.classes) for kind in kinds]
    matrix = None
    if args.confusion_matrix:
        matrix = confusion_matrix(gt, results, kinds[-1], args.score_thr, args.iou_thr, args.classes)
    console = Console()
    for table in sum(map(score_tables, scores), []):
        console.print(table)
    if args.out:
        write_json({score.iou_type: score.as_dict() for score in scores}, args.out, allow_nan=False)
    if args.pr_curve:
        plot_precision_recall(scores, args.pr_curve, title)
    if matrix is not None:
        plot_confusion_matrix(matrix, args.confusion_matrix, title)
    print('\n'.join(path for path in (args.out, args.pr_curve, args.confusion_matrix) if path))


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(run, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
