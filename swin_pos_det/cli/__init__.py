"""Code shared by the command lines: arguments, errors, checks of settings and checkpoints, the runner.

``arguments``, ``argument_types``, ``errors`` and ``main`` import neither torch nor mmdet: a tool needs them to build
its parser, and ``--help`` must stay fast.
"""
