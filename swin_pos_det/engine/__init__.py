"""What runs trainings and evaluations: the command lines' shared part, mixed precision without a GPU, hooks."""
from .amp import CPUAmpOptimWrapper, use_mixed_precision
from .elastic_window import ElasticWindowHook
from .layer_decay import SwinLayerDecayOptimWrapperConstructor
from .resume import ResumeResampledHook

__all__ = ['CPUAmpOptimWrapper', 'ElasticWindowHook', 'ResumeResampledHook', 'SwinLayerDecayOptimWrapperConstructor',
           'use_mixed_precision']
