"""Running trainings and evaluations: hooks, optimizers, strategies, resuming, mixed precision without a GPU."""
from ..mmengine_patches.checkpoint_hook import CheckpointHook
from .amp import CPUAmpOptimWrapper, use_mixed_precision
from .compact_masks_hook import CompactMasksHook
from .deferred_scalars import DeferredScalarsHook
from .elastic_window import ElasticWindowHook
from .fast_inference import FastInferenceHook, speed_up
from .full_checkpoint import RequireFullCheckpointHook, WholeDetectorHook
from .layer_decay import SwinLayerDecayOptimWrapperConstructor
from .loader_transfer import PinnedTransferHook
from .merged_optimizer import MergedOptimizerHook
from .nothing_found import NothingFoundHook
from .restart import MissedEvaluationHook, resume_after_restart
from .resume import ResumeHook, ResumeResampledHook
from .strategies import ResumableFSDPStrategy, check_strategy, choose_runner, wrap_swin_blocks
from .training_guard import TrainingGuardHook
from .vectorized_assigners import VectorizedAssignersHook
from .vectorized_heads import VectorizedHeadsHook
from .visualization_hook import SwinPosClsVisualizationHook, SwinPosSegVisualizationHook, SwinPosVisualizationHook

__all__ = [
    'CPUAmpOptimWrapper', 'CheckpointHook', 'CompactMasksHook', 'DeferredScalarsHook', 'ElasticWindowHook',
    'FastInferenceHook', 'MergedOptimizerHook', 'MissedEvaluationHook', 'NothingFoundHook', 'PinnedTransferHook',
    'RequireFullCheckpointHook', 'ResumableFSDPStrategy', 'ResumeHook', 'ResumeResampledHook',
    'SwinLayerDecayOptimWrapperConstructor', 'SwinPosClsVisualizationHook', 'SwinPosSegVisualizationHook',
    'SwinPosVisualizationHook', 'TrainingGuardHook', 'VectorizedAssignersHook',
    'VectorizedHeadsHook', 'WholeDetectorHook', 'check_strategy', 'choose_runner', 'resume_after_restart', 'speed_up',
    'use_mixed_precision', 'wrap_swin_blocks'
]
