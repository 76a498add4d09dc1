# SPDX-License-Identifier: MPL-2.0
"""A stand-in for NVIDIA's MPS: the control tool, its daemon and servers, and a client.

`control.install` puts the programs into a directory, `control.FakeMps` breaks them and reads what
they were asked. It knows nothing about this project's own code. Nothing is imported here, because
the programs themselves start through this package and must start fast.
"""
