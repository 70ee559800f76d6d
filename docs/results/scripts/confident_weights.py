"""Write random weights of a two-stage detector whose classifiers are confident, to compare an exported file with torch.

python docs/results/scripts/confident_weights.py CONFIG IMAGE OUT.pth
"""
import argparse

import cv2
import torch
from mmengine.config import Config
from torch import nn

from swin_pos_det.apis import build_detector, predict

# Standard deviations of what the last layers give for the image: logits, and deltas in units of the coder's.
SPREADS = {'rpn_cls': 2., 'rpn_reg': 1., 'fc_cls': 3., 'fc_reg': 1., 'conv_logits': 2.}


def main() -> None:
    """Build, spread the outputs of the last layers, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ('config', 'image', 'out'):
        parser.add_argument(name)
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    detector = build_detector(cfg, None)
    for name, parameter in detector.named_parameters():
        if name.endswith('relative_position_bias_table'):
            nn.init.normal_(parameter, std=1.)  # large enough that each entry matters
    image = cv2.imread(args.image)
    for last, spread in SPREADS.items():  # in the order of the forward, since each decides what the next one sees
        for module in (found for name, found in detector.named_modules() if name.endswith(last)):
            calibrate(detector, module, spread, image)
    found = predict(detector, [image])[0].pred_instances
    print(f'{len(found)} detections of {len(found.labels.unique())} classes, scores from {found.scores.min():.2f} to '
          f'{found.scores.max():.2f}')
    torch.save(dict(state_dict=detector.state_dict(), meta=dict(dataset_meta=detector.dataset_meta)), args.out)


def calibrate(detector: nn.Module, module: nn.Module, spread: float, image) -> None:
    """Give a layer's outputs for an image the mean 0 and a standard deviation, in each channel."""
    outputs = []
    handle = module.register_forward_hook(lambda *call: outputs.append(call[2].detach().transpose(0, 1).flatten(1)))
    predict(detector, [image])
    handle.remove()
    values = torch.cat(outputs, 1)
    factor = spread / values.std(1).clamp(min=1e-6)
    with torch.no_grad():
        module.bias.copy_((module.bias - values.mean(1)) * factor)
        module.weight.mul_(factor.view(-1, *[1] * (module.weight.dim() - 1)))


if __name__ == '__main__':
    main()
