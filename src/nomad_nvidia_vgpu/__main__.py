# SPDX-License-Identifier: MPL-2.0
"""Where the program begins, and the only place where it exits.

With Nomad's magic cookie in the environment it serves as a plugin; started by a person it is the
command line. This file must compile on any Python 3, to say one sentence on one that is too old.
"""

import os
import sys

from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE

MIN_PYTHON = (3, 10)


def main() -> None:
    """Runs the plugin or the command line, and exits with its status."""
    if sys.version_info < MIN_PYTHON:
        sys.stderr.write(
            "nvidia-vgpu needs Python %d.%d or newer, this is %d.%d: install a newer Python and "
            "install nomad-nvidia-vgpu with it\n" % (MIN_PYTHON + sys.version_info[:2])
        )
        sys.exit(1)
    # Not sys.exit: a thread stuck in the driver would keep the process past the 2 s after which
    # Nomad kills it, and one of gRPC's would miss what Python takes down, and say so to a person.
    os._exit(_serve() if os.environ.get(COOKIE_KEY) == COOKIE_VALUE else _command_line())


def _command_line() -> int:
    try:
        from nomad_nvidia_vgpu.cli.main import run  # a plugin needs none of it

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # while it is imported: a tenth of a second
        return 130


def _serve() -> int:
    import gc

    # Nothing that is imported is garbage: looking for it costs milliseconds, now and later.
    gc.disable()
    # grpc imports asyncio, and that OpenSSL if it can: 8 ms and 1.3 MB for sockets that are only
    # ever unix's. None here means "not installed", which asyncio copes with.
    sys.modules["ssl"] = None  # type: ignore[assignment]  # as Python documents it
    from nomad_nvidia_vgpu.goplugin.late_module import LateModule

    # grpc imports its asyncio half, which nothing here asks for: 6 ms.
    late = LateModule("grpc.aio")
    sys.meta_path.insert(0, late)
    from nomad_nvidia_vgpu import serve

    sys.meta_path.remove(late)
    del sys.modules["ssl"]
    gc.freeze()
    gc.enable()
    return serve.run()


if __name__ == "__main__":
    main()
