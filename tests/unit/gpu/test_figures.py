# SPDX-License-Identifier: MPL-2.0
"""The table of figures: a line that does not fit fails here."""

from __future__ import annotations

import re

import pynvml
import pytest

from nomad_nvidia_vgpu.gpu.figures import FIGURES, Figure


def test_each_figure_has_its_own_names() -> None:
    """Its field, its stat and its metrics, unless a label tells them apart."""
    fields = [figure.field for figure in FIGURES]
    stats = [figure.stat for figure in FIGURES if figure.stat]
    exports = [(e.name, e.location) for figure in FIGURES for e in figure.exports]
    for names in (fields, stats, exports):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.field)
def test_the_driver_can_be_asked(figure: Figure) -> None:
    """The binding has each function and constant that the table names."""
    assert callable(getattr(pynvml, figure.query.function))
    assert all(hasattr(pynvml, name) for name in figure.query.constants)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.field)
def test_metrics_are_in_base_units(figure: Figure) -> None:
    """As Prometheus advises, and a counter says so in its name."""
    for export in figure.exports:
        assert re.search(r"_(bytes|ratio|celsius|watts|total)$", export.name)
        assert (export.kind == "counter") is export.name.endswith("_total")
