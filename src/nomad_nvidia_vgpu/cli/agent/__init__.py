# SPDX-License-Identifier: MPL-2.0
"""The files of the Nomad agent on this node."""
