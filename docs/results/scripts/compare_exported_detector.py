"""Compare a detector in torch with its exported file on images, detection by detection, and time both in turns.

python docs/results/scripts/compare_exported_detector.py CONFIG CHECKPOINT MODEL.onnx FOLDER [--images N] [--threads N]
"""
import argparse
import collections
import json
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch

from swin_pos_det.apis import init_detector, predict
from swin_pos_det.deployment import OnnxDetector
from swin_pos_det.deployment.detector_comparison import pair_detections
from swin_pos_det.deployment.onnx_detector import Detections


def main() -> None:
    """Print counts, the largest differences, median times, and the time of each operator of onnxruntime."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ('config', 'checkpoint', 'model', 'folder'):
        parser.add_argument(name)
    parser.add_argument('--images', type=int, default=10**9)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), help='resize all images to this size first')
    parser.add_argument('--profile', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    detector = init_detector(args.config, args.checkpoint, device='cpu')
    exported = OnnxDetector(args.model, threads=args.threads)
    found, shared, unpaired, differences, seconds = 0, 0, [], [], ([], [])
    paths = sorted(Path(args.folder).iterdir())[:args.images]
    images = [cv2.imread(str(path)) for path in paths]
    if args.shape:
        images = [cv2.resize(image, tuple(args.shape[::-1])) for image in images]
    predict(detector, images[:1])  # a warm-up of both
    exported(images[0])
    for image in images:
        start = time.perf_counter()
        want = predict(detector, [image])[0].pred_instances
        middle = time.perf_counter()
        got = exported(image).pred_instances
        seconds[0].append(middle - start)
        seconds[1].append(time.perf_counter() - middle)
        want = Detections(*(want[name].numpy() for name in ('bboxes', 'scores', 'labels')),
                          want.masks.numpy() if 'masks' in want else None)
        pairs = pair_detections(want, got, 0.05)
        found += len(want)
        shared += len(pairs)
        unpaired.append(len(want) + len(got) - 2 * len(pairs))
        differences += [(np.abs(want.bboxes[a] - got.bboxes[b]).max(), abs(want.scores[a] - got.scores[b]),
                         0. if got.masks is None else (want.masks[a] != got.masks[b]).mean()) for a, b in pairs]
    print(f'{len(paths)} images of {len({image.shape for image in images})} sizes: {found} detections in torch, '
          f'{shared} with a partner, {sum(count > 0 for count in unpaired)} images with one that has none')
    box, score, mask = np.max(differences, 0)
    print(f'largest differences: box {box:.1e} px, score {score:.1e}, share of mask pixels {mask:.1e}')
    medians = [statistics.median(each) for each in seconds]
    print(f'{args.threads} threads, seconds per image: torch {medians[0]:.3f}, onnxruntime {medians[1]:.3f} '
          f'({medians[0] / medians[1]:.2f}x)')
    if args.profile:
        print_profile(args, exported, images[0])


def print_profile(args: argparse.Namespace, exported: OnnxDetector, image: np.ndarray) -> None:
    """Print the share of each operator in the time of onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.enable_profiling = True
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(args.model, options, providers=['CPUExecutionProvider'])
    feed = {'image': exported._prepare(image, exported.resized(image.shape[:2]))[None]}
    for _ in range(3):
        session.run(None, feed)
    path = Path(session.end_profiling())
    total = collections.Counter()
    for event in json.loads(path.read_text()):
        if event.get('cat') == 'Node' and event['name'].endswith('kernel_time'):
            total[event['args']['op_name']] += event['dur']
    path.unlink()
    whole = sum(total.values())
    print(', '.join(f'{name} {time / whole:.0%}' for name, time in total.most_common(10)))


if __name__ == '__main__':
    main()
