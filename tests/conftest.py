# SPDX-License-Identifier: MPL-2.0
"""What all tests share, and how the property tests run: as long as they need, leaving nothing.

`HYPOTHESIS_EXAMPLES=5000 pytest tests/unit` looks much longer than a usual run.
"""

import itertools
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import this_run
from hypothesis import HealthCheck, settings

settings.register_profile(
    "patient",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "60")),
)
settings.load_profile("patient")

# A shell starts what runs in the background with SIGINT ignored, and so would be all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_numbers = itertools.count()
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Makes a skip a failure in CI, where it would hide a gap."""
    report = yield
    if IN_CI and report.skipped and item.get_closest_marker("may_skip") is None:
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{reason}; in CI a skip is a failure"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which of NVIDIA's own MPS tools the tests ran with, for no skip tells it."""
    ran = {
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "mps_tool"
    }
    if ran:
        terminalreporter.line(f"NVIDIA's MPS control tools that ran: {', '.join(sorted(ran))}")
    elif any(
        "real MPS control tool" in str(r.longrepr) for r in terminalreporter.getreports("skipped")
    ):
        terminalreporter.line("NVIDIA's MPS control tools that ran: none, for none could be had")


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ends what this run leaves running, however the run ends; to leave something is an error."""
    with this_run.kept([tmp_path_factory.getbasetemp()]):
        yield


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Gives a directory for sockets, which need short names; processes of all users may pass it."""
    place = this_run.short_folder() / str(next(_numbers))
    place.mkdir()
    place.chmod(0o755)
    yield place
    # A tool that was under way when the plugin was killed may still write there.
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def mps_root(short_path: Path) -> Path:
    """Gives a directory to be made for MPS daemons."""
    return short_path / "mps"
