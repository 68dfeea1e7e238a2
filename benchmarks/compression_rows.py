"""What the tables of compression are made of: settings by name, and results kept between runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAL = {"heal": True, "steps": 60, "batch": 4, "learning_rate": 2e-3}
CUT = {**HEAL, "method": "activation"}
SPARSE = {"structure": "unstructured", "target": 0.8}
LOW_RANK = {"rank": 64, "embedding": True}

Chain = tuple[tuple[str, Mapping[str, Any]], ...]
ROWS: dict[str, Chain] = {
    "rtn 8 bit": (("rtn", {"bits": 8}),),
    "rtn mxfp8": (("rtn", {"mode": "mxfp8"}),),
    "mixed 4 and 8 bit": (("mixed", {"target": 5.0}),),
    "rtn 4 bit": (("rtn", {"bits": 4}),),
    "rtn mxfp4": (("rtn", {"mode": "mxfp4"}),),
    "rtn nvfp4": (("rtn", {"mode": "nvfp4"}),),
    "smoothquant 4 bit": (("smoothquant", {"bits": 4}),),
    "awq 4 bit": (("awq", {"bits": 4}),),
    "gptq 4 bit": (("gptq", {"bits": 4}),),
    "dwq 4 bit": (("dwq", {"bits": 4}),),
    "rtn 3 bit": (("rtn", {"bits": 3}),),
    "awq 3 bit": (("awq", {"bits": 3}),),
    "dwq 3 bit": (("dwq", {"bits": 3}),),
    "rtn 2 bit": (("rtn", {"bits": 2}),),
    "gptq 2 bit": (("gptq", {"bits": 2}),),
    "dwq 2 bit": (("dwq", {"bits": 2}),),
    "50 % zeros": (("prune", {**SPARSE, "target": 0.5}),),
    "50 % zeros, healed": (("prune", {**SPARSE, "target": 0.5, **HEAL}),),
    "80 % zeros": (("prune", SPARSE),),
    "80 % zeros, healed": (("prune", {**SPARSE, **HEAL}),),
    "ffn -10 %": (("prune", {"structure": "ffn", "target": 0.1, "method": "activation"}),),
    "ffn -10 %, healed": (("prune", {**CUT, "structure": "ffn", "target": 0.1}),),
    "layers -10 %, healed": (("prune", {**CUT, "structure": "layers", "target": 0.1}),),
    "width -25 %, healed": (("prune", {**CUT, "structure": "width"}),),
    "width -50 %, healed": (("prune", {**CUT, "structure": "width", "target": 0.5}),),
    "low rank": (("factorize", LOW_RANK),),
    "low rank, healed": (("factorize", {**LOW_RANK, **HEAL}),),
    "width -25 %, healed, then dwq 4 bit": (
        ("prune", {**CUT, "structure": "width"}),
        ("dwq", {"bits": 4, "group": 32}),
    ),
}


class Results:
    """What was measured so far, a file a key, kept after every step; of one original each.

    Args:
        home: of the toolkit.
        digest: of the original model.
    """

    def __init__(self, home: Path, digest: str) -> None:
        self._folder = home / "benchmark-compression" / digest[:12]

    def get(self, key: str) -> Any:
        path = self._folder / f"{key}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def put(self, key: str, value: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{key}.json").write_text(json.dumps(value, indent=1))

    def rows(self) -> dict[str, Any]:
        """Models that were scored, the original first, the others in the order of `ROWS`."""
        kept = self.get("techniques") or {}
        return {name: kept[name] for name in ("original", *ROWS) if name in kept}
