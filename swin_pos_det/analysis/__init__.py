"""Measurements and pictures as plain functions; the tools are thin command lines over them.

Not imported by ``import swin_pos_det``: trainings need nothing of it.
"""
from .run_log import Run, Training, read_run, read_training
from .run_report import ap_history, find_checkpoint, plot_curves, summarize, versions, write_metrics

__all__ = ['Run', 'Training', 'ap_history', 'find_checkpoint', 'plot_curves', 'read_run', 'read_training', 'summarize',
           'versions', 'write_metrics']
