"""Reading checkpoints: safely, and from the formats that others write.

Importing this package makes MMEngine's ``CheckpointLoader`` read through :mod:`swin_pos_det.checkpoints.io`.
"""
from .io import CheckpointError, load_checkpoint_file, register_safe_loaders
from .load_hook import adapt_state_dict, note_table_windows
from .microsoft import from_microsoft, is_microsoft
from .pretrained import backbone_state_dict, load_pretrained

__all__ = ['CheckpointError', 'adapt_state_dict', 'backbone_state_dict', 'from_microsoft', 'is_microsoft',
           'load_checkpoint_file', 'load_pretrained', 'note_table_windows', 'register_safe_loaders']

register_safe_loaders()
