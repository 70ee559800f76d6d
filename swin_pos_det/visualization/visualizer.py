"""MMDetection's visualizer with this package's drawing."""
from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np
import torch
from mmdet.registry import DATASETS, VISUALIZERS
from mmdet.structures.bbox import BaseBoxes
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData, PixelData

from .drawing import InstanceDrawer
from .palette import Color, class_palette

Colors = Union[str, tuple[int, ...], list[Color], None]


@VISUALIZERS.register_module()
class SwinPosVisualizer(DetLocalVisualizer):
    """``DetLocalVisualizer`` for any number of classes and names in any script, which draws in milliseconds.

    It takes the same arguments, with these differences:

    Args:
        line_width: of boxes in pixels. Default: depends on the size of the picture.
        alpha: opacity of masks.
        text_color: default: black or white, depending on the background.
        font: path of a font; see :func:`~swin_pos_det.visualization.find_font`.
    """

    def __init__(self, name: str = 'visualizer', image: Optional[np.ndarray] = None,
                 vis_backends: Optional[list[dict]] = None, save_dir: Optional[str] = None, bbox_color: Colors = None,
                 text_color: Colors = None, mask_color: Colors = None, line_width: Optional[int] = None,
                 alpha: float = 0.45, font: Optional[str] = None) -> None:
        super().__init__(name, image, vis_backends, save_dir, bbox_color, text_color, mask_color, line_width, alpha)
        self.font = font

    def _draw_instances(self, image: np.ndarray, instances: InstanceData, classes: Optional[Sequence[str]],
                        palette: Colors) -> np.ndarray:
        number = int(instances.labels.max()) + 1 if len(instances) else 0
        palette = own_palette(dict(classes=classes, palette=palette))
        drawer = InstanceDrawer(
            classes or (), _colors(palette if self.bbox_color is None else self.bbox_color, number), self.font,
            self.alpha, self.line_width, _colors(palette if self.mask_color is None else self.mask_color, number),
            None if self.text_color is None else _colors(self.text_color, number))
        self.set_image(drawer.draw(image, **instance_arrays(instances), texts=self._own_texts(instances)))
        return self.get_image()

    def _own_texts(self, instances: InstanceData) -> Optional[list[str]]:
        """Return the instances' own names, which open-vocabulary detectors set."""
        if 'label_names' not in instances:
            return None
        scores = instances.scores if 'scores' in instances else [None] * len(instances)
        return [name if score is None else f'{name} {float(score):.2f}'
                for name, score in zip(instances.label_names, scores)]

    def _draw_panoptic_seg(self, image: np.ndarray, panoptic_seg: PixelData, classes: Sequence[str],
                           palette: Colors) -> np.ndarray:
        return super()._draw_panoptic_seg(image, panoptic_seg, classes, _colors(palette, len(classes)))

    def _draw_sem_seg(self, image: np.ndarray, sem_seg: PixelData, classes: Sequence[str],
                      palette: Colors) -> np.ndarray:
        return super()._draw_sem_seg(image, sem_seg, classes, _colors(palette, len(classes)))


def instance_arrays(instances: InstanceData) -> dict[str, Any]:
    """Return the arguments of :meth:`InstanceDrawer.draw` for MMDetection's instances, predicted or annotated.

    Boxes of zeros, which mean none, are left out.
    """
    arrays: dict[str, Any] = dict(labels=instances.labels.tolist())
    if 'bboxes' in instances:
        boxes = instances.bboxes
        boxes = boxes.tensor if isinstance(boxes, BaseBoxes) else torch.as_tensor(boxes)
        if 'masks' not in instances or boxes.any():
            arrays['boxes'] = boxes.cpu().numpy()
    if 'scores' in instances:
        arrays['scores'] = instances.scores.tolist()
    if 'masks' in instances:
        masks = instances.masks
        arrays['masks'] = masks.cpu().numpy() if isinstance(masks, torch.Tensor) else (
            masks.crops if hasattr(masks, 'crops') else
            masks.to_ndarray() if hasattr(masks, 'to_ndarray') else np.asarray(masks))
    return arrays


def own_palette(meta: Mapping[str, Any]) -> Colors:
    """Return the palette of a data set if it was made for its classes.

    A ``CocoDataset`` with classes of its own keeps the 80 colours of COCO's, of which the first two are both red.

    Args:
        meta: ``classes`` and ``palette`` of a data set, as far as they are known.

    Returns:
        The palette; None, for colours that differ, if a registered data set has it for other classes.
    """
    palette, classes = meta.get('palette'), tuple(meta.get('classes') or ())
    if not palette or not classes or isinstance(palette, str):
        return palette
    colors = list(map(tuple, palette))
    owners = [dataset.METAINFO for dataset in DATASETS.module_dict.values() if getattr(dataset, 'METAINFO', None)]
    made_for = [tuple(meta.get('classes') or ()) for meta in owners
                if list(map(tuple, meta.get('palette') or ())) == colors]
    return palette if not made_for or classes in made_for else None


def _colors(palette: Colors, number: int) -> list[Color]:
    """Return at least that many colours from anything that MMDetection accepts as a palette."""
    if palette is None or palette == 'random':
        return class_palette(number)
    if isinstance(palette, list):
        return class_palette(number, palette)
    return class_palette(number, get_palette(palette, 1 if palette in ('coco', 'citys', 'voc') else max(1, number)))
