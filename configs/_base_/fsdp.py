# Beside a config: parameters, gradients and optimizer state are spread over all GPUs (FSDP), a Swin block at a time.
# Checkpoints hold the whole model, as without it. Needs tools/dist_train.sh.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', auto_wrap_policy='wrap_swin_blocks'),
    state_dict_cfg='full')
