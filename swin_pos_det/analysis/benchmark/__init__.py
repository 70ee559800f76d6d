"""Swin backbones of several libraries, side by side: time, memory, and the share of the machine's peak rate.

``worker`` and ``models`` run in the process of each model, under any Python that has its library; they need torch only,
so nothing is imported here. ``runner`` runs the processes in turns, ``report`` and ``plots`` show the results.
"""
