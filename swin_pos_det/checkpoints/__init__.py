"""Reading checkpoints: safely, and from the formats that others write. Writing them whole or not at all.

Importing this package makes MMEngine's ``CheckpointLoader`` read through :mod:`swin_pos_det.checkpoints.schemes`, its
backend for local files write through :mod:`swin_pos_det.checkpoints.atomic`, and its ``load_state_dict`` look after
backbones through :mod:`swin_pos_det.checkpoints.detectors`.
"""
from .atomic import AtomicLocalBackend, check_writable, register_atomic_writing, replacing, write_json
from .convert import Inspection, convert, inspect_checkpoint, misfits, save_weights, windows_after
from .detectors import check_heads, place_backbones, register_placing
from .formats import EXPORTS, EXPORTS_V2, FORMATS, recognise
from .io import CheckpointError, load_checkpoint_file
from .load_hook import LoadsAnySwin, adapt_channels, adapt_state_dict, fit_state_dict, note_table_windows
from .pretrained import load_pretrained
from .report import LoadReport
from .schemes import register_safe_loaders
from .variants import Variant, describe_model, describe_weights
from .weights import SwinWeights, read_weights

__all__ = [
    'EXPORTS', 'EXPORTS_V2', 'FORMATS', 'AtomicLocalBackend', 'CheckpointError', 'Inspection', 'LoadReport',
    'LoadsAnySwin', 'SwinWeights', 'Variant', 'adapt_channels', 'adapt_state_dict', 'check_heads', 'check_writable',
    'convert', 'describe_model', 'describe_weights', 'fit_state_dict', 'inspect_checkpoint', 'load_checkpoint_file',
    'load_pretrained', 'misfits', 'note_table_windows', 'place_backbones', 'read_weights', 'recognise',
    'register_atomic_writing', 'register_placing', 'register_safe_loaders', 'replacing', 'save_weights',
    'windows_after', 'write_json'
]

register_safe_loaders()
register_atomic_writing()
register_placing()
