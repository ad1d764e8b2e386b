"""`patchbay api-versions`: which versions of providers' APIs calls use, and when one goes away."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from patchbay import output
from patchbay.client import Platform
from patchbay.environment import load_environment
from patchbay.routes import SERVICE

_SHOWN: Final = ("provider", "version", "in use", "deprecated", "sunset", "days left", "last seen")


def api_versions(
    *,
    ending: Annotated[bool, typer.Option("--ending", help="only those that are deprecated or go away")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 200,
) -> None:
    """List the versions of providers' APIs that answers named, by what their Deprecation and Sunset headers say."""
    with Platform(load_environment()) as platform:
        found = platform.get(SERVICE, "/v1/api-versions", limit=limit)["items"]
    rows = [_row(one) for one in found if not ending or one["deprecated"] or one["sunset_at"] is not None]
    output.console().print(output.table(_SHOWN, rows))


def _row(version: dict[str, Any]) -> tuple[Any, ...]:
    deprecated = version["deprecation_at"] or ("yes" if version["deprecated"] else "")
    left = ("yes" if version["in_traffic"] else "no", deprecated, version["sunset_at"], version["days_to_sunset"])
    return (version["provider"], version["version"] or "-", *left, version["last_seen"])
