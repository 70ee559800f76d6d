"""Pictures: the one function that draws instances, colours and fonts for any class names, contact sheets, saving.

:mod:`.visualizer`, which needs mmdet, is registered with the hooks.
"""
from .drawing import InstanceDrawer, picture_scale, to_rgb
from .files import contact_sheet, distinct_names, save_figure, save_picture, writable_name
from .fonts import find_font
from .palette import class_palette

__all__ = [
    'InstanceDrawer', 'class_palette', 'contact_sheet', 'distinct_names', 'find_font',
    'picture_scale', 'save_figure', 'save_picture', 'to_rgb', 'writable_name'
]
