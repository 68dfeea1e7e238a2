"""Compile runs: optimizers by name, honest evaluation, and the record of every run."""
