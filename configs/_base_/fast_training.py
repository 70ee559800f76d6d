# Beside a config of any mmdet detector: the same training, with less time outside forward and backward. A config with
# hooks of its own adds them: custom_hooks = [*_base_.custom_hooks, dict(...)].
# Images travel as uint8 and are normalised on the device, and workers stay between epochs (persistent_workers=True), as
# mmdet's bases have it. Whether their two workers are enough: tools/analysis_tools/benchmark_loader.py CONFIG.
custom_hooks = [
    # Masks keep only the rectangle around each object: a hundredth of the bytes from a worker, targets on the device.
    dict(type='CompactMasksHook'),
    # An assignment loops over the objects, and waits for the device twice for each.
    dict(type='VectorizedAssignersHook'),
    # Box losses of all anchors without an object are multiplied by 0; on a CPU, suppression compares all boxes.
    dict(type='VectorizedHeadsHook'),
    # Swin-T has 219 parameter groups of three settings. 'auto': fused where torch has it, else foreach on a GPU;
    # 'default': torch's choice, bit for bit the same weights on a CPU.
    dict(type='MergedOptimizerHook', implementation='auto'),
    # Losses and grad_norm are read when they are logged: each is a wait for the device.
    dict(type='DeferredScalarsHook'),
    # From page-locked memory a copy to the device needs no wait.
    dict(type='PinnedTransferHook'),
]
