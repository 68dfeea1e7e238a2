"""Tasks, language models, modules, metrics and artifacts: the DSPy side of the toolkit."""
