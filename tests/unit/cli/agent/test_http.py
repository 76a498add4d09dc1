# SPDX-License-Identifier: MPL-2.0
"""Where the API of an agent is, by its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent.config import read_agent_config


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "http://127.0.0.1:4646"),
        ("ports {\n http = 14646\n}", "http://127.0.0.1:14646"),
        ('addresses {\n http = "10.0.0.7 127.0.0.1"\n}', "http://10.0.0.7:4646"),
        ('bind_addr = "10.0.0.7"', "http://10.0.0.7:4646"),
        ('bind_addr = "10.0.0.7"\naddresses {\n http = "::1"\n}', "http://[::1]:4646"),
        ('bind_addr = "0.0.0.0"', "http://127.0.0.1:4646"),
        ('bind_addr = "::"', "http://[::1]:4646"),
        ('bind_addr = "{{ GetPrivateIP }}"', "http://127.0.0.1:4646"),
        ("tls {\n http = true\n}", "https://127.0.0.1:4646"),
        ("tls {\n rpc = true\n}", "http://127.0.0.1:4646"),
        ('ports = 5\ntls = []\nbind_addr = ["x"]', "http://127.0.0.1:4646"),
    ],
)
def test_an_agents_files_say_where_it_listens(tmp_path: Path, text: str, address: str) -> None:
    """What listens everywhere is asked on the loopback; a template is not worked out."""
    (tmp_path / "a.hcl").write_text(text)
    assert read_agent_config([tmp_path]).http == {"NOMAD_ADDR": address}


def test_files_are_merged_name_by_name(tmp_path: Path) -> None:
    """As Nomad does, blocks too, in HCL and JSON."""
    (tmp_path / "a.hcl").write_text(
        'ports {\n http = 1\n rpc = 2\n}\ntls {\n http = true\n ca_file = "/ca.pem"\n}\n'
    )
    (tmp_path / "b.json").write_text('{"ports": {"http": 14646}, "tls": [{"ca_file": ""}]}')
    assert read_agent_config([tmp_path]).http == {
        "NOMAD_ADDR": "https://127.0.0.1:14646",
        "NOMAD_CACERT": "/ca.pem",
    }
