# SPDX-License-Identifier: MPL-2.0
"""What the plugin does with MPS's tool, daemons and servers, which are processes here."""
