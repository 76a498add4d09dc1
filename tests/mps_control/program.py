# SPDX-License-Identifier: MPL-2.0
"""Where the executables begin."""

import sys
from pathlib import Path
from typing import NoReturn

from .state import HOME, SERVER, State


def main(launched: str) -> NoReturn:
    """Be the program that the executable at this path is named after."""
    path = Path(launched).resolve()
    state = State(path.parent / HOME)
    # Each loads only what is its own: they start often.
    if path.name == "fake-cuda-client":
        from . import client  # noqa: PLC0415

        sys.exit(client.main(state, sys.argv[1:]))
    if path.name == SERVER:
        from . import server  # noqa: PLC0415

        server.main(state)
    from . import tool  # noqa: PLC0415

    sys.exit(tool.main(state, sys.argv[1:]))
