# SPDX-License-Identifier: MPL-2.0
"""The wire: our types to Nomad's messages and back, and the services that carry them."""
