"""Measurements and pictures as plain functions; the tools are thin command lines over them.

Not imported by ``import swin_pos_det``: trainings need nothing of it.
"""
