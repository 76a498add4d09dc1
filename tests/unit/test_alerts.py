# SPDX-License-Identifier: MPL-2.0
"""The alerts ask for what there is, and lead to pages that there are."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from doc_pages import ROOT

from unit.test_dashboard import BY_PROMETHEUS, Query, declared
from unit.test_docs import anchors

METRICS = {**declared(), "up": set()}
"""Those of the plugin, and what Prometheus itself says of each scrape."""
FILE = ROOT / "examples/alerts.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    """And its texts name labels that its series have."""
    query = Query(rule["expr"])
    assert list(query.mistakes(METRICS)) == []
    known = BY_PROMETHEUS.union(*(METRICS[name] for name, _ in query.selectors))
    named = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
    assert set(named) <= known


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_leads_to_a_page_that_says_what_to_do(rule: dict[str, Any]) -> None:
    """A heading of the docs that is there."""
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor in anchors(ROOT / page)
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
