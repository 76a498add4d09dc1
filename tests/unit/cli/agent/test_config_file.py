# SPDX-License-Identifier: MPL-2.0
"""The plugin's options in a Nomad agent's file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomad_nvidia_vgpu.cli.agent.config_file import read_config_file, where
from nomad_nvidia_vgpu.config.decode import decode
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import ConfigError, Problem

FULL_HCL = """
# an agent's file
client {
  enabled = true
}
plugin "other" {
  config { region = "x" }
}
plugin "nvidia-vgpu" {
  args = []
  config {
    vgpus              = 16      # of each GPU
    enabled            = true
    ignored_gpu_ids    = ["GPU-a", "MIG-b"]
    fingerprint_period = "1m30s"
    vendor             = "nvidia"
  }
}
"""
OPTIONS = {
    "vgpus": 16,
    "enabled": True,
    "ignored_gpu_ids": ["GPU-a", "MIG-b"],
    "fingerprint_period": "1m30s",
    "vendor": "nvidia",
}


def read(folder: Path, text: str, name: str = "agent.hcl") -> dict[str, object]:
    """Gives the options in a file of this text."""
    path = folder / name
    path.write_text(text)
    return read_config_file(path)


def test_options_are_found_among_others(tmp_path: Path) -> None:
    """Of an agent's file, our plugin's config block is read and nothing else."""
    assert read(tmp_path, FULL_HCL) == OPTIONS


def test_what_is_read_can_be_decoded(tmp_path: Path) -> None:
    """What a file holds is a config, just as Nomad would send it."""
    assert decode(read(tmp_path, FULL_HCL)) == PluginConfig(
        vgpus=16,
        ignored_gpu_ids=("GPU-a", "MIG-b"),
        fingerprint_period_s=90.0,
        vendor="nvidia",
    )


@pytest.mark.parametrize(
    "text",
    [
        'vgpus = 4\nsimulate = ["l4:2"]',
        'vgpus = 4 // of each\nsimulate = [\n  "l4:2",\n]\n',
        '{"vgpus": 4, "simulate": ["l4:2"]}',
        '{"plugin": {"nvidia-vgpu": {"config": {"vgpus": 4, "simulate": ["l4:2"]}}}}',
        '{"plugin": [{"nvidia-vgpu": [{"config": [{"vgpus": 4, "simulate": ["l4:2"]}]}]}]}',
    ],
)
def test_every_form_of_a_file_is_read(tmp_path: Path, text: str) -> None:
    """The options alone or an agent's file, in HCL or either form of JSON, say the same."""
    assert read(tmp_path, text) == {"vgpus": 4, "simulate": ["l4:2"]}


@pytest.mark.parametrize(
    "text",
    [
        'gpu "*L4*" {\n  vgpus = 2\n}\ngpu "GPU-a" {\n  ignored = true\n}\n',
        '{"gpu": {"*L4*": {"vgpus": 2}, "GPU-a": {"ignored": true}}}',
        '{"gpu": [{"*L4*": [{"vgpus": 2}]}, {"GPU-a": [{"ignored": true}]}]}',
    ],
)
def test_blocks_with_labels_are_read(tmp_path: Path, text: str) -> None:
    """Blocks of one name are told apart by their labels, in every form of a file."""
    assert read(tmp_path, text) == {"gpu": {"*L4*": {"vgpus": 2}, "GPU-a": {"ignored": True}}}


@pytest.mark.parametrize(
    "text",
    [
        'gpu "GPU-a" {\n  vgpus = 2\n}\ngpu "GPU-a" {\n  ignored = true\n}\n',
        '{"gpu": [{"GPU-a": [{"vgpus": 2}, {"vgpus": 4}]}]}',
    ],
)
def test_a_label_stands_once(tmp_path: Path, text: str) -> None:
    """Nomad refuses two blocks with one label, and so do our tools."""
    with pytest.raises(ConfigError, match=r'gpu "GPU-a" is there twice'):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", 'plugin "nvidia-vgpu" {}'])
def test_an_empty_config_is_empty(tmp_path: Path, text: str) -> None:
    """A file or block that gives nothing is no error."""
    assert read(tmp_path, text) == {}


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(ConfigError, match=r"nothing\.hcl cannot be read"):
        read_config_file(tmp_path / "nothing.hcl")


def test_a_file_that_is_no_text_is_a_config_error(tmp_path: Path) -> None:
    """A file of other bytes than UTF-8 is named."""
    (tmp_path / "agent.hcl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"is not a text file"):
        read_config_file(tmp_path / "agent.hcl")


def test_wrong_hcl_says_where(tmp_path: Path) -> None:
    """HCL that does not parse is refused with file and line, and what to do."""
    with pytest.raises(ConfigError, match=r"agent\.hcl is not valid HCL \(line 2\): = is no value"):
        read(tmp_path, "vgpus = 4\nvendor = = 5\n")
    with pytest.raises(
        ConfigError, match=r"agent\.hcl is not valid HCL \(line 1\): the { is never closed"
    ):
        read(tmp_path, "config {\n  vgpus = 4\n")


@pytest.mark.parametrize(
    "text",
    [
        "vault {\n token = s3cret-abc def\n}",
        'encrypt = "s3cret" "s3cret"',
        "a = [s3cret s3cret",
        "token = s3cret==",
        's3cret "s3cret',
        "s3cret { s3cret } s3cret",
    ],
)
def test_wrong_hcl_is_not_quoted(tmp_path: Path, text: str) -> None:
    """An agent's file holds tokens and keys, and people put these words into reports."""
    with pytest.raises(ConfigError, match="is not valid HCL") as raised:
        read(tmp_path, text)
    assert "s3cret" not in str(raised.value).replace(str(tmp_path), "")


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    """It is refused with a sentence."""
    (tmp_path / "agent.hcl").touch()
    os.truncate(tmp_path / "agent.hcl", 1 << 40)
    with pytest.raises(ConfigError, match=r"agent\.hcl cannot be read: it is longer than"):
        read_config_file(tmp_path / "agent.hcl")


def test_quoted_keys_of_hcl_1_are_read(tmp_path: Path) -> None:
    """Agents' files have them in `options`, `meta` and `chroot_env`."""
    text = """
        client {
          options {
            "fingerprint.denylist" = "env_aws,env_gce"
            "driver.docker"="1"
          }
          chroot_env { "/bin" = "/bin" }
        }
        plugin "nvidia-vgpu" {
          config {
            "vgpus" = 4
            ignored_gpu_ids = ["GPU-1"]
          }
        }
    """
    assert read(tmp_path, text) == {"vgpus": 4, "ignored_gpu_ids": ["GPU-1"]}


@pytest.mark.parametrize(("text", "name"), [("{4}", "a.hcl"), ("nonsense", "a.json")])
def test_wrong_json_is_a_config_error(tmp_path: Path, text: str, name: str) -> None:
    """JSON that does not parse is refused as such."""
    with pytest.raises(ConfigError, match=r"is not valid JSON"):
        read(tmp_path, text, name)


@pytest.mark.parametrize("text", ["[]", "5", '"vgpus"', "null", '{"plugin": 5}'])
def test_json_without_options_is_a_config_error(tmp_path: Path, text: str) -> None:
    """JSON of another kind than a map, or a plugin that is no block, holds no options."""
    with pytest.raises(ConfigError, match=r"a\.json is not valid JSON \(line 1\)"):
        read(tmp_path, text, "a.json")


def test_a_template_is_a_config_error(tmp_path: Path) -> None:
    """Nomad's agent ends with "Variables not allowed" there; doubled, the mark is a text."""
    for text in ("${env.GPUS}", "50%{off}"):
        with pytest.raises(ConfigError, match=r"agent\.hcl line 1: vendor has [$%]\{…\} in it"):
            read(tmp_path, f'plugin "nvidia-vgpu" {{\n config {{\n vendor = "{text}"\n }}\n}}')
    assert read(tmp_path, 'vendor = "a$${b}"') == {"vendor": "a${b}"}


def test_what_hcl_1_allows_is_read(tmp_path: Path) -> None:
    """Commas, dotted names, template marks elsewhere, hexadecimal numbers: of real agents' files."""
    text = """
        data_dir = "/opt/nomad/data"
        telemetry {
          collection_interval = "60s", # as often as we scrape
          prometheus_metrics = true
        }
        client { enabled = true, meta { rack.row = "r1", promo = "50%{off}" } }
        "plugin" "nvidia-vgpu" {
          config {
            vgpus = 0x4,
            simulate = ["l4:1"]
          }
        }
    """
    assert read(tmp_path, text) == {"vgpus": 4, "simulate": ["l4:1"]}


def test_a_key_of_json_may_be_there_twice(tmp_path: Path) -> None:
    """Both count."""
    text = (
        '{"plugin": {"raw_exec": {"config": {"enabled": true}}},'
        ' "plugin": {"nvidia-vgpu": {"config": {"vgpus": 4}}}}'
    )
    assert read(tmp_path, text, "a.json") == {"vgpus": 4}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('plugin "other" {}\nplugin "another" {}', "another, other"),
        ('{"plugin": {"other": {}}}', "other"),
    ],
)
def test_a_file_without_our_block_is_a_config_error(tmp_path: Path, text: str, found: str) -> None:
    """An agent's file that configures other plugins only is refused with their names."""
    with pytest.raises(ConfigError, match=f'has no plugin "nvidia-vgpu" block, only {found}'):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        'plugin "nomad-nvidia-vgpu-plugin" {}',
        'plugin "gpus" {\n config {\n  vgpus = 2\n }\n}\nplugin "other" {}',
    ],
)
def test_a_block_of_ours_with_another_label_is_known(tmp_path: Path, text: str) -> None:
    """A second block beside it would be wrong advice."""
    with pytest.raises(
        ConfigError, match=r'the label must be the name of .*: write "nvidia-vgpu"$'
    ):
        read(tmp_path, text)


def test_options_outside_of_the_config_block_are_named(tmp_path: Path) -> None:
    """An empty config would be read, and nobody told of what was written."""
    with pytest.raises(ConfigError, match=r"vgpus stands outside of the config block: move it"):
        read(tmp_path, 'plugin "nvidia-vgpu" {\n vgpus = 8\n}\n')
    with pytest.raises(ConfigError, match=r"vgpus, mps stand outside of .*: move them"):
        read(tmp_path, '{"plugin": {"nvidia-vgpu": {"mps": {}, "vgpus": 8, "config": {}}}}')


def test_unknown_options_are_kept(tmp_path: Path) -> None:
    """Options that Nomad would refuse are read, so that all problems can be told together."""
    found = read(tmp_path, "vgpu = 4\nvgpus = 4\nenable = true")
    assert found == {"vgpu": 4, "vgpus": 4, "enable": True}


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """A file that holds none of our options and no plugin block is another's."""
    with pytest.raises(ConfigError, match=r'has no plugin "nvidia-vgpu" block: add one'):
        read(tmp_path, "vgpu = 4\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=40)
    | st.text(st.sampled_from(list('vgpus plugin"nvidia-vgpu"{}=\n[]1,.$<')), max_size=40).map(
        str.encode
    )
)
def test_any_file_is_options_or_a_config_error(tmp_path: Path, content: bytes) -> None:
    """Whatever a file holds, reading it ends in options or a ConfigError."""
    path = tmp_path / "agent.hcl"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        assert isinstance(read_config_file(path), dict)


WRONG = """\
plugin "nvidia-vgpu" {
  config {
    vgpus = 1
    vgpus = 0
    health {
      end_tasks = "x"
    }
    gpu "*L4*" { vgpus = 0 }
    gpu "*T4*" {
      vgpus = 0
    }
  }
}
"""
AS_JSON = """\
{"plugin": {"nvidia-vgpu": {"config": {
  "vgpus": 0, "sharing": 1,
  "gpu": {"*T4*": {
    "vgpus": 0}}
}}}}
"""


@pytest.mark.parametrize(
    ("name", "text", "said", "line"),
    [
        ("a.hcl", WRONG, "vgpus must be", 4),
        ("a.hcl", WRONG, "health.end_tasks must be", 6),
        ("a.hcl", WRONG, 'gpu "*L4*".vgpus must be', 8),
        ("a.hcl", WRONG, 'gpu "*T4*".vgpus must be', 10),
        ("a.hcl", WRONG, 'gpu "*T4*" must be', 9),
        ("a.hcl", WRONG, "vgpus_and must be", None),
        ("a.hcl", "\nvgpus = 0\n", "vgpus must be", 2),
        ("a.json", AS_JSON, "sharing must be", 2),
        ("a.json", AS_JSON, 'gpu "*T4*".vgpus must be', 4),
        ("a.hcl", "plugin {", "vgpus must be", None),
    ],
)
def test_a_wrong_value_is_told_with_its_line(
    tmp_path: Path, name: str, text: str, said: str, line: int | None
) -> None:
    """That of the option which counts; of what stands nowhere the file alone."""
    file = tmp_path / name
    file.write_text(text)
    assert where(file, Problem(said)) == (f"{file} line {line}" if line else str(file))
