"""The backbone for other run times."""
from .export import compare_exported, export_backbone, load_exported, time_exported

__all__ = ['compare_exported', 'export_backbone', 'load_exported', 'time_exported']
