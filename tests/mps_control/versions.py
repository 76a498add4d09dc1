# SPDX-License-Identifier: MPL-2.0
"""How the tools of three drivers differ; all else they have in common.

Seen without a GPU with 535.261.03, 550.163.01 and 555.58.02. `test_conversations.py`
and `test_language.py` hold the fake and the real programs to this table.
"""

from typing import NamedTuple

NEWEST = "555"


class Version(NamedTuple):
    """The tool of one driver branch."""

    name: str
    pid_file: bool
    """Whether the daemon writes its pid into the pipe directory."""
    server_status: bool
    """Whether `get_server_status` is known."""
    multi_user: bool
    """Whether a daemon can be started with `-multiuser-server`."""
    strict_options: bool
    """Whether an unknown option is refused; an older tool reads commands instead."""
    guarded: bool
    """Whether only root and the daemon's user may change settings."""
    forced: bool
    """Whether the log tells that a server is ended by force."""


VERSIONS = {
    version.name: version
    for version in (
        Version("535", *(False,) * 6),
        Version(
            "550",
            pid_file=True,
            server_status=True,
            multi_user=False,
            strict_options=False,
            guarded=True,
            forced=True,
        ),
        Version("555", *(True,) * 6),
    )
}
