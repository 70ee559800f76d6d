"""What runs trainings and evaluations: the command lines' shared part, mixed precision without a GPU, hooks."""
from .amp import CPUAmpOptimWrapper, use_mixed_precision
from .elastic_window import ElasticWindowHook

__all__ = ['CPUAmpOptimWrapper', 'ElasticWindowHook', 'use_mixed_precision']
