"""How templates of pages become HTML."""

from __future__ import annotations

import datetime
from typing import Any

from ..._version import __version__


def render(template: str, **values: Any) -> str:
    """Return a page with all values escaped; each name in the template must have a value."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("citrus_lirpa.reports", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = {"version": __version__, "date": datetime.date.today().isoformat()}
    return environment.get_template(template).render(**values, **made)
