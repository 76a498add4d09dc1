# SPDX-License-Identifier: MPL-2.0
"""Device files out of the node's CDI specification."""
