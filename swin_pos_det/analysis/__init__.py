"""Measurements and pictures as plain functions; the tools are thin command lines over them.

``import swin_pos_det`` does not import it: trainings do not need it.
"""
