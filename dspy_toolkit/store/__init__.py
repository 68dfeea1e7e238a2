"""State on disk: atomic files, manifests, the run history. The only writer of state."""
