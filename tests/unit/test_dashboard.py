# SPDX-License-Identifier: MPL-2.0
"""The dashboard and the queries in the docs ask for what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from nomad_nvidia_vgpu.metrics.families import FAMILIES
from scripts.metric_table import BEGIN, PAGE, with_table

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "examples/grafana-dashboard.json").read_text())

BY_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus puts on every series."""
KEYWORDS = {"and", "or", "unless", "bool", "offset"}
LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}


def declared() -> dict[str, set[str]]:
    """The labels of each metric, the process's own among them."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    own = {sample.name for family in registry.collect() for sample in family.samples}
    assert own
    return {**{f.name: set(f.labels) for f in FAMILIES}, **{name: set() for name in own}}


METRICS = declared()


class Query:
    """What a PromQL expression asks for; no parser, but enough of one for ours."""

    def __init__(self, expression: str) -> None:
        """Takes the expression apart."""
        text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
        text = re.sub(r"\[[^\]]*\]", "", text)
        self.selectors: list[tuple[str, set[str]]] = []
        self.labels: set[str] = set()
        """Those in `by (…)`, `on (…)` and the like."""

        def listed(match: re.Match[str]) -> str:
            self.labels |= set(re.findall(r"\w+", match["labels"]))
            return " "

        text = re.sub(rf"\b(?:{'|'.join(LISTS)})\s*\((?P<labels>[^)]*)\)", listed, text)
        name = r"(?<![\w$.])(?P<name>[a-zA-Z_:][\w:]*)\s*(?P<next>\{(?P<in>[^}]*)\}|\()?"
        for match in re.finditer(name, text):
            if match["next"] == "(" or match["name"] in KEYWORDS:
                continue
            inner = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match["in"] or ""))
            self.selectors.append((match["name"], inner))

    def mistakes(self, known: Mapping[str, set[str]] | None = None) -> Iterator[str]:
        """What it asks for and there is not; `known` are the labels of each metric there is."""
        metrics = METRICS if known is None else known
        if not self.selectors:
            yield "it asks for no metric"
        shown = set(BY_PROMETHEUS)
        for name, labels in self.selectors:
            if name not in metrics:
                yield f"there is no metric {name}"
                continue
            shown |= metrics[name]
            for label in labels - metrics[name] - BY_PROMETHEUS:
                yield f"{name} has no label {label}"
        for label in self.labels - shown:
            yield f"no metric here has a label {label}"


def panels() -> list[dict[str, Any]]:
    """All that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


TARGETS = [(panel["title"], target) for panel in panels() for target in panel["targets"]]


@pytest.mark.parametrize(("title", "target"), TARGETS)
def test_a_panel_asks_for_metrics_and_labels_that_exist(title: str, target: Any) -> None:
    """Each expression of the dashboard, and the labels that its legend names."""
    query = Query(target["expr"])
    assert list(query.mistakes()) == [], target["expr"]
    known = BY_PROMETHEUS.union(*(METRICS[name] for name, _ in query.selectors))
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known


def test_variables_ask_for_what_exists() -> None:
    """The choices at the top are values of labels that there are, and panels use no others."""
    variables = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
    for variable in variables.values():
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert asked is not None
            query = Query(asked[1])
            assert list(query.mistakes()) == []
            assert asked[2] in METRICS[query.selectors[0][0]] | BY_PROMETHEUS
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used - {"__rate_interval"} <= set(variables)


def test_every_metric_that_an_operator_watches_is_on_the_dashboard() -> None:
    """What is measured of tasks, GPUs and the guard has a panel."""
    shown = {name for _, target in TARGETS for name, _ in Query(target["expr"]).selectors}
    details = (
        "_bar1_",
        "coder_utilization",
        "_power_limit_",
        "_sample_timestamp",
        "unattributed_mem",
        "_mps_server_mem",
    )
    missing = {name for name in METRICS if name.startswith("nvidia_vgpu")} - shown
    assert {name for name in missing if not any(part in name for part in details)} == {
        "nvidia_vgpu_gpu_processes"
    }


def test_panels_do_not_overlap() -> None:
    """Each place of Grafana's 24 columns is taken once."""
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert 0 <= x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_the_docs_list_every_metric() -> None:
    """`make docs` would change nothing."""
    page = PAGE.read_text()
    assert BEGIN in page
    assert with_table(page) == page


@pytest.mark.parametrize(
    "expression",
    [
        *re.findall(
            r"^\| [^|`]* \| `([^`]+)`", PAGE.read_text().split("Questions they")[1], re.MULTILINE
        ),
        *re.findall(r"```promql\n(.*?)```", PAGE.read_text(), re.DOTALL),
    ],
)
def test_queries_in_the_docs_ask_for_what_exists(expression: str) -> None:
    """An operator copies them."""
    assert list(Query(expression).mistakes()) == []


@pytest.mark.parametrize(
    ("expression", "mistake"),
    [
        ("nvidia_vgpu_gpu_heat", "there is no metric nvidia_vgpu_gpu_heat"),
        ('nvidia_vgpu_gpu_vgpus{vgpu="a"}', "nvidia_vgpu_gpu_vgpus has no label vgpu"),
        ("sum by (task) (nvidia_vgpu_processes)", "no metric here has a label task"),
        ("sum(rate(nvidia_vgpu_reservation_total[5m]))", "there is no metric"),
        ("1 + 1", "it asks for no metric"),
    ],
)
def test_a_mistake_would_be_found(expression: str, mistake: str) -> None:
    """The reader of queries is itself tested: it finds what is wrong."""
    assert any(mistake in found for found in Query(expression).mistakes())
