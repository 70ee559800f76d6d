# Beside a config: parameters, gradients and optimizer state are spread over all GPUs (FSDP), in one unit: a step holds
# all parameters. model_wrapper.auto_wrap_policy='wrap_swin_blocks' holds a block's at a time, but can neither resume
# nor load_from. Checkpoints hold the whole model: DDP and FSDP resume from each other's. Needs tools/dist_train.sh.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='ResumableFSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel'),
    state_dict_cfg='full')
