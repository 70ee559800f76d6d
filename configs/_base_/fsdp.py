# Beside a config: parameters, gradients and optimizer state are spread over all GPUs (FSDP), in one unit: a step holds
# all parameters. auto_wrap_policy='wrap_swin_blocks' would hold a block's at a time, but cannot resume yet.
# Checkpoints hold the whole model, as without it. Needs tools/dist_train.sh.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='ResumableFSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel'),
    state_dict_cfg='full')
