# SPDX-License-Identifier: MPL-2.0
"""A whole cluster, asked over the HTTP API of its servers: no GPU and no root are needed."""
