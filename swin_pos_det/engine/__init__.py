"""What runs trainings and evaluations: the command lines' shared part, and mixed precision without a GPU."""
from .amp import CPUAmpOptimWrapper, use_mixed_precision

__all__ = ['CPUAmpOptimWrapper', 'use_mixed_precision']
