"""Share code between the command lines: arguments, errors, checks of settings and checkpoints, the runner.

``arguments``, ``argument_types``, ``errors`` and ``main`` import neither torch nor mmdet: a tool needs them to build
its parser, and ``--help`` should not wait for more.
"""
