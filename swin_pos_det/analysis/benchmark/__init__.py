"""Swin backbones of several libraries, side by side: time, memory, and the share of what the machine can do.

``worker`` and ``models`` run in the process of each model, under any Python that has its library; they need torch only,
so nothing is imported here. ``runner`` tells the processes in turn to run, ``report`` and ``plots`` show what came out.
"""
