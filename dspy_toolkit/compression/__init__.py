"""Smaller and faster models, judged by the programs that run on them.

A technique (quantization, pruning, distillation, low rank) makes a new model folder from another
one; `build` keeps it by content, so that nothing is made twice; the pipeline searches among them
for the smallest that a program's own metric still accepts.
"""
