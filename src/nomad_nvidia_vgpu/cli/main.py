# SPDX-License-Identifier: MPL-2.0
"""The command line's entry: verbs, and the one place where an error becomes a sentence.

Exit status: 0 fine, 1 something is wrong (said on standard error), 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.cli import doctor, gpus, install, launch, plan, release, tables, top
from nomad_nvidia_vgpu.errors import ConfigError, VgpuError
from nomad_nvidia_vgpu.goplugin.handshake import HandshakeError
from nomad_nvidia_vgpu.rpc.client import Refused


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
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
cli.add_command(release.release)
cli.add_command(install.install)
cli.add_command(install.uninstall)


def run(arguments: Sequence[str]) -> int:  # noqa: PLR0911  one way out per kind of end
    """Runs one command; the exit status."""
    try:
        status = cli.main(list(arguments), prog_name="nvidia-vgpu", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        return 1
    except (VgpuError, HandshakeError, Refused) as error:
        _complain(str(error))
        return 1
    except BrokenPipeError:
        # Whoever read our output (head, less) has seen enough.
        sys.stderr.close()
        return 0
    except OSError as error:
        _complain(f"the output cannot be written: {error.strerror}")
        return 1
    return status if isinstance(status, int) else 0


def _complain(sentence: str) -> None:
    tables.note(f"nvidia-vgpu: {sentence}")
