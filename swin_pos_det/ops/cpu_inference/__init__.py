"""Inference of Swin blocks on a CPU: a second implementation with intermediate results that stay in the cache.

The functions below are all that the rest of the package calls. The environment
variable ``SWIN_POS_DET_CPU_INFERENCE=0`` switches it off.
"""
from .block import can_run, run
from .chunks import not_compiled
from .merging import can_run_merging, run_merging

__all__ = ['can_run', 'can_run_merging', 'not_compiled', 'run', 'run_merging']
