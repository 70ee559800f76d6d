"""faster-coco-eval's ``COCOeval`` on pycocotools' ``COCO`` objects. Import it only where that package is installed."""
from __future__ import annotations

from faster_coco_eval.core import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


class FasterCOCOeval(COCOeval_faster):
    """COCO's evaluation in C++; precision, recall and statistics are pycocotools' to the last few bits.

    Args:
        cocoGt: the ground truth.
        cocoDt: the detections, of ``cocoGt.loadRes``.
        iouType: ``'bbox'`` or ``'segm'``.
    """

    def __init__(self, cocoGt: COCO, cocoDt: COCO, iouType: str = 'segm') -> None:
        super().__init__(cocoGt, cocoDt, iouType, print_function=print)

    # Their own takes all of AP at the last of maxDets; pycocotools takes the first number at 100 detections, which
    # with mmdet's (100, 300, 1000) is another value where an image has more than 100.
    summarize = COCOeval.summarize
