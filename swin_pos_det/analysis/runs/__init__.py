"""Finished runs: their logs, reports, predictions, and the index of models that can be reproduced."""
from .run_log import Run, Training, read_run, read_training
from .run_report import ap_history, find_checkpoint, plot_curves, summarize, versions, write_metrics

__all__ = ['Run', 'Training', 'ap_history', 'find_checkpoint', 'plot_curves', 'read_run', 'read_training', 'summarize',
           'versions', 'write_metrics']
