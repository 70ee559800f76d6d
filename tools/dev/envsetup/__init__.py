"""The set-up of the development environment, on the standard library alone.

`checks` reports what the machine lacks, `commands` runs pip with a log and progress, `mmcv_wheel` finds or builds mmcv,
`setup` puts it together.
"""
