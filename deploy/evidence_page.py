"""The evidence pack as one self-contained page: no script, no outside request, made to be printed as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def write_page(file: Path, facts: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        file: Where.
        facts: As :func:`deploy.evidence.evidence_of` gathers them.

    Raises:
        OSError: It cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("deploy", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = lambda value: "" if value is None else format(value, ".3g")
    page = environment.get_template("evidence.html").render(**facts)
    file.write_text(page, encoding="utf-8")
