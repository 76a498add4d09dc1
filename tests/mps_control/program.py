# SPDX-License-Identifier: MPL-2.0
"""Where both executables begin."""

import sys
from pathlib import Path
from typing import NoReturn

from . import client, tool
from .state import HOME, State


def main(launched: str) -> NoReturn:
    """Be the program that the executable at this path is named after."""
    path = Path(launched).resolve()
    state = State(path.parent / HOME)
    program = client.main if path.name == "fake-cuda-client" else tool.main
    sys.exit(program(state, sys.argv[1:]))
