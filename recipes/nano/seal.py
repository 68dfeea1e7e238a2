"""Vouch for the exported folder: write its `manifest.json`, with SHA-256 of every file.

    python seal.py --folder ../../dspy_toolkit/engine/embedded

Run it with the toolkit's own Python, last, after the model card is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dspy_toolkit.store.manifest import write_manifest

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    write_manifest(parser.parse_args().folder, {"model": "embedded", "recipe": "recipes/nano"})
