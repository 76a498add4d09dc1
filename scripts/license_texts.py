# SPDX-License-Identifier: MPL-2.0
"""The texts of licences that wheels bring: every licence here asks to be handed on with the work."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

_FILE = re.compile(
    r"[^/]+\.dist-info/(?:.*/)?[^/]*(?:LICEN[CS]E|COPYING|NOTICE)[^/]*", re.IGNORECASE
)
_HEADER = re.compile(r"(?:#[^\n]*\n)+")
_GRANTS = ("Redistribution and use", "Permission is hereby granted", "Licensed under")


def license_texts(path: Path) -> dict[str, str]:
    """The texts by their names in the wheel; AssertionError if it has none.

    Where a wheel has no file of its licence, but a module begins with it, the text of that is to be
    written to a file beside METADATA.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        found = {
            name: archive.read(name).decode("utf-8", "replace")
            for name in names
            if _FILE.fullmatch(name)
        }
        if found:
            return found
        for name in sorted(names):
            header = _HEADER.match(archive.read(name).decode("utf-8", "replace"))
            if name.endswith(".py") and header and any(said in header[0] for said in _GRANTS):
                place = next(n for n in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
                text = re.sub(r"^#+ ?", "", header[0], flags=re.MULTILINE)
                return {f"{place.removesuffix('METADATA')}licenses/LICENSE": f"{text.strip()}\n"}
    raise AssertionError(f"{path.name} has no text of its licence, which must be handed on with it")
