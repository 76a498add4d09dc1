# SPDX-License-Identifier: MPL-2.0
"""The command line's entry: verbs, and the one place where an error becomes a sentence.

Exit status: 0 fine, 1 something is wrong (said on standard error), 2 wrong usage, 130 Ctrl-C.
A reader that has seen enough of the output (`| head`) is fine.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.cli import doctor, gpus, install, launch, plan, release, top
from nomad_nvidia_vgpu.cli.cluster import cluster, fit, why
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.errors import ConfigError, VgpuError
from nomad_nvidia_vgpu.goplugin.handshake import HandshakeError
from nomad_nvidia_vgpu.rpc.client import Refused


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="nvidia-vgpu")
@click.pass_context
def cli(context: click.Context) -> None:
    """Share NVIDIA GPUs on HashiCorp Nomad.

    This program is a Nomad device plugin: `install` puts it into the agent's plugin_dir under the
    name nvidia-vgpu, and Nomad starts it. The commands below are for people.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(1)


cli.add_command(launch.launch)
cli.add_command(gpus.gpus)
cli.add_command(plan.plan)
cli.add_command(doctor.doctor)
cli.add_command(top.top)
cli.add_command(why.why)
cli.add_command(fit.fit)
cli.add_command(cluster.cluster)
cli.add_command(release.release)
cli.add_command(install.install)
cli.add_command(install.uninstall)


def run(arguments: Sequence[str]) -> int:
    """Runs one command; the exit status."""
    if sys.stdout is None:
        _complain("the output cannot be written: standard output is closed, send it to /dev/null")
        return 1
    try:
        status = _run(arguments)
        sys.stdout.flush()  # the caller may end the process without it
    except KeyboardInterrupt:
        _settle_output()
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough.
        _settle_output()
        return 0
    except OSError as error:
        # What cannot be opened or started has a name; what cannot be written to has none.
        if error.filename is None:
            _settle_output()
        _complain(f"{error.filename or 'the output cannot be written'}: {error.strerror or error}")
        return 1
    return status


def _run(arguments: Sequence[str]) -> int:
    """Runs one command; what concerns the output or the terminal is raised."""
    try:
        # Not cli.main, which has an opinion of its own on a pipe that nobody reads: status 1.
        with cli.make_context("nvidia-vgpu", list(arguments)) as context:
            status = cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        return 1
    except (VgpuError, HandshakeError, Refused) as error:
        _complain(str(error))
        return 1
    return status if isinstance(status, int) else 0


def _settle_output() -> None:
    """Writes what is still buffered, or lets it go nowhere where it would only fail again."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
            continue
        # A stream that is no file, as in tests, has nothing to be redirected.
        with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def _complain(sentence: str) -> None:
    # If that cannot be written either, the exit status alone must do.
    with contextlib.suppress(OSError):
        style.note(f"nvidia-vgpu: {sentence}")
