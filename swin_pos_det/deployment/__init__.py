"""Export of the backbone to other runtimes."""
from .export import compare_exported, export_backbone, load_exported, time_exported

__all__ = ['compare_exported', 'export_backbone', 'load_exported', 'time_exported']
