"""The set-up of the development environment, on the standard library alone.

`stacks` says what is wanted, `checks` whether this machine can, `runner` runs and logs commands, `stamps` remembers
what is done, `mmcv_wheel` finds or builds mmcv, `steps` puts them in order, `cli` is the command line.
"""
