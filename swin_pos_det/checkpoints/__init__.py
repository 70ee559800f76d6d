"""Reading checkpoints safely, in the formats of several libraries, and writing them atomically.

It changes nothing outside this package; :mod:`swin_pos_det.mmengine_patches` makes MMEngine use it.
"""
from .atomic import (
    AtomicLocalBackend,
    UnwritableFileError,
    atomic_write,
    check_writable,
    remove_drafts,
    write_json,
)
from .convert import Inspection, convert, incompatibilities, inspect_checkpoint, save_weights, windows_after
from .detectors import check_averages, check_heads, has_backbone, remap_backbone_keys, unwrapped
from .formats import EXPORTS, EXPORTS_V2, FORMATS, detect_format
from .io import CheckpointError, load_checkpoint_file
from .latest import check_resumable, find_resumable, is_sharded
from .load_hook import LoadsAnySwin, adapt_channels, adapt_state_dict, fit_state_dict, note_table_windows
from .pretrained import load_pretrained, overwritten_by
from .report import LoadReport
from .schemes import read_checkpoint
from .variants import Variant, describe_model, describe_weights
from .weights import SwinWeights, read_weights, with_state_dict

__all__ = [
    'EXPORTS', 'EXPORTS_V2', 'FORMATS', 'AtomicLocalBackend', 'CheckpointError', 'Inspection', 'LoadReport',
    'LoadsAnySwin', 'SwinWeights', 'UnwritableFileError', 'Variant', 'adapt_channels', 'adapt_state_dict',
    'atomic_write', 'check_averages', 'check_heads', 'check_resumable', 'check_writable', 'convert', 'describe_model',
    'describe_weights', 'find_resumable', 'fit_state_dict', 'has_backbone', 'inspect_checkpoint', 'is_sharded',
    'load_checkpoint_file', 'load_pretrained', 'incompatibilities', 'note_table_windows', 'overwritten_by',
    'remap_backbone_keys', 'read_checkpoint', 'read_weights', 'detect_format', 'remove_drafts', 'replacing',
    'save_weights', 'unwrapped', 'windows_after', 'with_state_dict', 'write_json'
]

replacing = atomic_write  # the old name, for one minor version
