"""The backbone for other run times."""
from .export import EXPORT_FORMATS, compare_exported, export_backbone, load_exported, time_exported

__all__ = ['EXPORT_FORMATS', 'compare_exported', 'export_backbone', 'load_exported', 'time_exported']
