"""The `dspy-tk` command: one file per noun."""
