"""What ``make bench`` takes: the workspace to measure, and where the figures go."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workspace",
        type=Path,
        default=None,
        help="measure the promoted release of this workspace; one is made of a shop if absent",
    )
    parser.addoption(
        "--figures",
        type=Path,
        default=Path("build/bench"),
        help="folder for one JSON file a benchmark",
    )
