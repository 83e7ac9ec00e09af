"""Where pages' templates come from."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def template_environment() -> Environment:
    """Names that a template does not get are errors, and all text is escaped."""
    return Environment(
        loader=PackageLoader("failwise.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
