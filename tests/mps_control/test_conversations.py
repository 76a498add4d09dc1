# SPDX-License-Identifier: MPL-2.0
"""What the tool answers: the fake of each version and the real one say the same."""

import pytest

from .node import ToolGpu

PERCENTAGE = "default_active_thread_percentage"
MEMORY = "default_device_pinned_mem_limit"
PRIORITY = "default_client_priority"
BAD_PRIORITY = "Invalid priority value - must be 0 or 1!"

CONVERSATIONS = {
    "percentages": [
        (f"get_{PERCENTAGE}", "100.0"),
        (f"set_{PERCENTAGE} 25", "25.0"),
        (f"get_{PERCENTAGE}", "25.0"),
        (f"set_{PERCENTAGE} 33.36", "33.4"),
        (f"set_{PERCENTAGE} 0.01", "0.0"),
        (f"set_{PERCENTAGE} 50%", "50.0"),
        (f"set_{PERCENTAGE} 40 60", "40.0"),
        (f"set_{PERCENTAGE} 1e1", "10.0"),
        (f"set_{PERCENTAGE} 0x20", "32.0"),
    ],
    "bad percentages": [
        *(
            (f"set_{PERCENTAGE} {bad}", "100.0")
            for bad in ["0", "-1", "100.1", "101", "many", "nan", "inf"]
        ),
        (f"set_{PERCENTAGE}", "100.0"),
    ],
    "memory limits": [
        (f"get_{MEMORY} 0", ""),
        (f"set_{MEMORY} 0 4096M", ""),
        (f"get_{MEMORY} 0", "4G"),
        (f"get_{MEMORY}", "4G"),
        *(
            line
            for value, shown in {
                "3840M": "3G",
                "500M": "500M",
                "1G": "1G",
                "2GB": "2G",
                "2g": "2G",
                "4096": "4G",
                "512MiB": "512M",
                "1K": "1M",
                "1T": "1M",
                "1.5G": "1M",
                "5 G": "5M",
                "-1G": "17179869183G",
            }.items()
            for line in ((f"set_{MEMORY} 0 {value}", ""), (f"get_{MEMORY} 0", shown))
        ),
    ],
    "bad memory limits": [
        line
        for bad in ("0", "0M", "lots", "")
        for line in (
            (f"set_{MEMORY} 0 2G", ""),
            (f"set_{MEMORY} 0 {bad}".strip(), ""),
            (f"get_{MEMORY} 0", ""),
        )
    ],
    "devices": [
        (f"set_{MEMORY} 7 3G", ""),
        (f"set_{MEMORY} 31 2G", ""),
        (f"set_{MEMORY} 32 1G", ""),
        (f"set_{MEMORY} -1 1G", ""),
        (f"get_{MEMORY} 7", "3G"),
        (f"get_{MEMORY} 31", "2G"),
        (f"get_{MEMORY} 32", ""),
        (f"get_{MEMORY} 0", ""),
    ],
    "devices that are none": [
        line
        for none in ("GPU-00000000-0000-0000-0000-000000000000 3G", "foo 3G", "0=4G", "")
        for line in (
            (f"set_{MEMORY} 0 2G", ""),
            (f"set_{MEMORY} {none}".strip(), ""),
            (f"get_{MEMORY} 0", ""),
        )
    ],
    "priorities": [
        (f"get_{PRIORITY}", "0"),
        (f"set_{PRIORITY} 1", ""),
        (f"get_{PRIORITY}", "1"),
        *((f"set_{PRIORITY} {bad}", BAD_PRIORITY) for bad in ("2", "3", "-1")),
        (f"get_{PRIORITY}", "1"),
        (f"set_{PRIORITY} foo", ""),
        (f"get_{PRIORITY}", "0"),
    ],
    "no server": [
        ("get_server_list", ""),
        ("get_client_list 1", "Server 1 not found"),
        ("get_client_list", "Server 0 not found"),
        ("get_client_list many", "Server 0 not found"),
        ("get_active_thread_percentage 1", "Server 1 not found"),
        ("set_active_thread_percentage 1 30", "Server 1 not found"),
        ("get_device_pinned_mem_limit 1 0", "Server 1 not found"),
        ("set_device_pinned_mem_limit 1 0 1G", "Server 1 not found"),
        ("shutdown_server 1", "Server 1 not found"),
        ("shutdown_server 1 -f", "Server 1 not found"),
        ("get_device_client_list", ""),
        ("get_device_client_list 1", "Server 1 not found"),
        ("ps", "Server not found"),
        ("ps -p 1", "Server 1 not found\nServer 1 not found\n"),
        ("terminate_client 1 2", "Server 1 not found\nServer 1 not found!\n1"),
        ("start_server", "A user id (UID) is required to start a new server"),
        ("start_server -uid many", "A user id (UID) is required to start a new server"),
    ],
    "words that are none": [
        *(
            (word, f'Unknown command "{word}"')
            for word in ["foo", "help", "?", "device_query", "lspart"]
        ),
        ("", 'Unknown command ""'),
        (f"GET_{PERCENTAGE}", f'Unknown command "GET_{PERCENTAGE}"'),
        (f"  get_{PERCENTAGE} \t\r", "100.0"),
    ],
}


@pytest.mark.parametrize("about", list(CONVERSATIONS))
def test_what_is_said(tool: ToolGpu, about: str) -> None:
    """Each command of one run gets its answer, in order, and the status is 0."""
    tool.start()
    commands, answers = zip(*CONVERSATIONS[about], strict=True)
    done = tool.run(text="\n".join(commands))
    assert done.stdout.splitlines() == "\n".join(filter(None, answers)).splitlines()
    assert (done.returncode, done.stderr) == (0, "")


def test_the_status_of_servers(tool: ToolGpu) -> None:
    """A tool that knows the command names the server that is not there."""
    tool.start()
    lines = ("get_server_status 1", "get_server_status", "get_server_status many")
    known = ["Server 1 not found", "A server PID is required", "A server PID is required"]
    unknown = ['Unknown command "get_server_status"'] * 3
    assert tool.tell(*lines) == (known if tool.version.server_status else unknown)


def test_nothing_asked_is_nothing_said(tool: ToolGpu) -> None:
    """Without a line the tool ends well."""
    tool.start()
    done = tool.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_long_lines_are_cut(tool: ToolGpu) -> None:
    """What is longer than 4095 bytes, with its end, is more than one command; answers are cut too."""
    tool.start()
    first, second, third = tool.tell("a" * 4095, "b")
    assert (len(first), second, third) == (4096, 'Unknown command ""', 'Unknown command "b"')
