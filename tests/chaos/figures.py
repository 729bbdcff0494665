"""One line of JSON for what a drill has shown."""

import json
import os


def show(drill: str, **figures: object) -> None:
    """Print a drill's figures, with how busy the machine was."""
    print(json.dumps({"drill": drill, **figures, "load": round(os.getloadavg()[0], 1)}))  # noqa: T201
