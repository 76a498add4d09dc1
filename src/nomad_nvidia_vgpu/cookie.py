# SPDX-License-Identifier: MPL-2.0
"""What Nomad and its plugins agree on. Must compile on any Python 3, as `__main__` does."""

COOKIE_KEY = "NOMAD_PLUGIN_MAGIC_COOKIE"
COOKIE_VALUE = "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255"
"""No secret, only a sign that an agent started us."""
PROTOCOL_VERSION = 2
"""Of the application protocol; the same from Nomad 0.9.0 on."""
