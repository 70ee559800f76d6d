"""Studies that train or evaluate many models: windows, position schemes.

Two smaller ones are here because users run them with their own figures: ``scaling`` estimates a
cluster (docs/scaling.md), ``evaluator_comparison`` compares the two COCO evaluators on the user's data
(docs/evaluation.md).
"""
