# SPDX-License-Identifier: MPL-2.0
"""What can be wrong with a node, one check each; looks, and changes nothing."""
