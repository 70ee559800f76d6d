"""Studies that train or evaluate many models: windows, position schemes.

Two smaller ones stay beside them because users run them again with figures of their own: ``scaling`` estimates a
cluster (docs/scaling.md), ``evaluator_comparison`` holds the two COCO evaluators equal on one's own data
(docs/evaluation.md).
"""
