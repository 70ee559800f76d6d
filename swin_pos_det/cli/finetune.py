"""From a folder of data to a trained detector: read, check, choose, write a config, train, report."""
from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
from mmengine.config import Config
from rich.console import Console

from ..analysis.annotation_sheet import write_annotation_sheet
from ..analysis.statistics_plot import plot_statistics
from ..checkpoints import write_json
from ..checkpoints.atomic import atomic_write
from ..data.annotation_file import CocoFileError, check_annotations, read_json
from ..data.layouts import PARTS, LayoutError, Part, read_layout, split, use_same_classes
from ..data.objects import LOOKS, Objects, learned, look_of_boxes
from ..data.recommend import choose_anchor_scale, choose_image_size, resize_factors
from ..data.repair import repair
from ..data.statistics import survey
from ..engine.amp import has_accelerator
from ..errors import MissingFileError, OccupiedPathError, SettingError
from .finetune_config import (
    Choices,
    DataFiles,
    base_size,
    check_weights,
    predicts_masks,
    read_base,
    write_text,
)
from .resuming import train_config
from .run_report import report_run
from .runner import load_config
from .survey_table import print_survey

# What is trained without --config.
MASKS_CONFIG = 'mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco'
BOXES_CONFIG = 'faster-rcnn_swin-pos-t-p4-w7_fpn_1x_coco'


def finetune(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Do what tools/finetune.py does; return its exit status."""
    out = Path(args.out).absolute()
    config, run = out / 'config.py', out / 'run'
    data = Path(args.data).resolve()
    if data.is_dir() and (out.resolve() == data or data in out.resolve().parents):
        raise SettingError(f'--out {args.out} is inside {args.data}, where its pictures would be read as images: '
                           'choose another folder')
    if args.resume:
        if not config.is_file():
            raise MissingFileError(f'there is no {config} to resume: start without --resume')
    else:
        if args.config is not None:
            read_base(args.config)
        check_weights(args.weights)
        if any(run.glob('*.pth')):
            raise OccupiedPathError(f'{run} holds the checkpoints of a training: continue it with --resume, or choose '
                                    'another --out')
        _write_new(config, _make_config(args, out, run))
        print(f'config: {config}')
    if args.dry_run:
        print(f'train it with: python tools/train.py {config}')
        return 0
    cfg = load_config(argparse.Namespace(config=str(config), cfg_options=args.cfg_options, launcher='none',
                                         local_rank=0, work_dir=None))
    status = train_config(cfg, argv, 'auto' if args.resume else None)
    if status == 0:
        best = sorted(Path(cfg.work_dir).glob('best_*.pth'), key=os.path.getmtime)
        report_run(Path(cfg.work_dir), best[-1] if best else None)
    return status


def _make_config(args: argparse.Namespace, out: Path, run: Path) -> str:
    """Read and check the data, and return the text of the config."""
    data = Path(args.data).absolute()
    parts = _read(data)
    masks = _have_masks(parts)
    files = {name: _write_part(part, out / f'annotations/{name}.json') for name, part in parts.items()}
    objects = {name: Objects(part.content) for name, part in parts.items()}
    print(f'statistics: {plot_statistics(objects, out / "statistics.png")}')
    sheet = write_annotation_sheet(parts['train'].content, str(files['train'].images), str(out / 'annotations.png'))
    print(f'annotated images: {sheet}')
    name = args.config or (MASKS_CONFIG if masks else BOXES_CONFIG)
    cfg = read_base(name)
    if predicts_masks(cfg) and not masks:
        raise SettingError(f'{name} predicts masks, and not all objects of {data} have one: choose a detector of '
                           f'boxes, such as --config {BOXES_CONFIG}')
    masks = masks and predicts_masks(cfg)
    print(f'detector: {name}, which learns {"boxes and masks" if masks else "boxes"}')
    if args.config is None and not has_accelerator():
        print('note: without a GPU this takes hours; --config faster-rcnn_swin-pos-nano-p4-w7_fpn_coco is small enough '
              'for a CPU, and has no pretrained weights')
    size, anchors = _choose_sizes(objects['train'], cfg)
    return write_text(cfg, Choices(
        base=name, data=data, parts=files, classes=objects['train'].names, masks=masks, size=size, anchor_scale=anchors,
        epochs=args.epochs, batch_size=args.batch_size, weights=args.weights, work_dir=run))


def _read(data: Path) -> dict[str, Part]:
    """Read and repair both parts; say what was found and changed."""
    layout, parts = read_layout(data)
    for name, part in parts.items():
        _check_boxes(part)
        if part.is_file and not survey(part.content, part.source).faults:
            continue
        content, changes = repair(part.content, part.source)
        for change in changes:
            print(f'{part.source}: {change}')
        parts[name] = replace(part, content=content, is_file=False)
    is_divided = 'val' in parts
    if not is_divided:
        parts = split(parts['train'])
    train, val = (len(parts[name].content['images']) for name in PARTS)
    how = '' if is_divided else ', taken from all by a hash of their names'
    print(f'{data}: {layout}, {train} images for training and {val} for validation{how}')
    return use_same_classes(parts)


def _check_boxes(part: Part) -> None:
    """Check that boxes are x, y, w, h in pixels, before repairs remove those that are not.

    Raises:
        LayoutError: if all look like something else.
    """
    with contextlib.suppress(CocoFileError):  # the repair names a fault that it cannot mend
        check_annotations(part.content, part.source, evaluated=False)
        look = look_of_boxes(Objects(part.content))
        if look:
            raise LayoutError(f'{part.source}: {LOOKS[look]}')


def _have_masks(parts: dict[str, Part]) -> bool:
    """Return whether all objects have masks; if only some have, remove these."""
    have = []
    for part in parts.values():
        objects = Objects(part.content)
        have += (objects.have_usable_masks & np.array([bool(mask) for mask in objects.segmentation], bool)).tolist()
    if any(have) and not all(have):
        print(f'{len(have) - sum(have)} of {len(have)} objects have no mask, so boxes alone are learned')
        for name, part in parts.items():
            items = [{key: value for key, value in item.items() if key != 'segmentation'}
                     for item in part.content['annotations']]
            parts[name] = replace(part, content={**part.content, 'annotations': items}, is_file=False)
    return all(have)


def _write_part(part: Part, path: Path) -> DataFiles:
    """Write converted annotations, check them with their images, and print their statistics.

    Raises:
        LayoutError: if something is wrong with them.
        OccupiedPathError: if there is another file.
    """
    file, is_new = (part.source.absolute(), False) if part.is_file else (path, _write_new_json(part.content, path))
    found = survey(part.content, file, str(part.images))
    console = Console()
    console.print(f'{file}', soft_wrap=True)
    if print_survey(found, console) and found.faults:
        if is_new:
            path.unlink()
        faults = found.faults
        more = f' (and {len(faults) - 1} more, above)' if len(faults) > 1 else ''
        first = faults[0].replace(str(file), str(part.source))
        raise LayoutError(f'the data need a correction first: {first}{more}')
    return DataFiles(file, part.images, len(part.content['images']))


def _choose_sizes(objects: Objects, cfg: Config) -> tuple[Any, Optional[tuple[float, str]]]:
    kept = learned(objects)[0]
    sides = np.sqrt(objects.box[kept, 2:].prod(1))
    size, why = choose_image_size(objects.sizes, sides, base_size(cfg))
    print(f'image size {size[0]} x {size[1]} px: {why}')
    generator = (cfg.model.get('rpn_head') or {}).get('anchor_generator') or {}
    if len(generator.get('scales') or ()) != 1:
        print("anchors: the config's own")
        return (size, why), None
    factors = resize_factors(objects.sizes, size)[objects.image[kept]]
    scale, reason = choose_anchor_scale(objects.box[kept, 2:], factors, generator.strides, generator.ratios,
                                        generator.scales[0])
    print(f'anchor scale {scale:g}: {reason}')
    return (size, why), (scale, reason)


def _write_new_json(content: dict[str, Any], path: Path) -> bool:
    """Write a JSON file unless it is there with the same content; return whether it was written."""
    if not path.exists():
        write_json(content, path)
        return True
    if read_json(path) != content:
        raise OccupiedPathError(f'{path} is there, with other annotations: choose another --out, or remove it')
    return False


def _write_new(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding='utf-8') != text:
        raise OccupiedPathError(f'{path} is there, with other settings: train it with python tools/train.py {path}, '
                                'or choose another --out, or remove it')
    with atomic_write(path) as draft:
        draft.write_text(text, encoding='utf-8')
