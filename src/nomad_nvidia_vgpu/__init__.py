# SPDX-License-Identifier: MPL-2.0
"""Share NVIDIA GPUs on HashiCorp Nomad: N virtual GPUs for each GPU of a client node.

Nothing is imported here, since Nomad starts the program three times per agent start.
"""

__version__ = "0.2.0"
