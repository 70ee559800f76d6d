# Beside a config: gradients and optimizer state are spread over all GPUs (DeepSpeed ZeRO, stage 2), in float32.
# Checkpoints are folders with a file per process; the zero_to_fp32.py beside them makes one file of weights. Needs
# tools/dist_train.sh, pip install deepspeed, and in the config optim_wrapper = dict(type='DeepSpeedOptimWrapper')
# without clip_grad (that is strategy.gradient_clipping).
runner_type = 'FlexibleRunner'
strategy = dict(type='DeepSpeedStrategy', zero_optimization=dict(stage=2))
