"""A training process that is killed: by itself at a step, or by whoever reads its steps."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from dspy_toolkit.config import Settings
from dspy_toolkit.events import Event, TrainingStepped, subscribed
from dspy_toolkit.training import recipe_from, resume, train


def main() -> None:
    home, what, end, number, blas = sys.argv[1:]
    settings = Settings(home=Path(home), blas=blas)

    def tell(event: Event) -> None:
        if isinstance(event, TrainingStepped):
            sys.stdout.write(f"{event.step}\n")
            sys.stdout.flush()
            if event.step == int(end):
                os.kill(os.getpid(), int(number))

    with subscribed(tell):
        if what.startswith("{"):
            train(recipe_from(json.loads(what), "recipe", Path(home)), settings)
        else:
            resume(what, settings)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
