"""Make a provider folder that passes lint, `providers_check` and the conformance suite at once.

`python tools/new_provider.py NAME [--root DIR]`. It writes real, signed fixtures for a generic HMAC scheme, to be
replaced by what the vendor documents. Never overwrites an existing folder.
"""

from __future__ import annotations

import argparse
import hmac
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import providers
from contracts.errors import Invalid
from providers import golden
from providers.manifest import load
from providers.provider import Provider

MANIFEST: Final = """\
schema = 1
slug = "{slug}"
name = "{name}"
category = "generic"
docs = "https://example.com/{slug}"
owners = ["@patchbay/platform"]
tier = "bronze"

[secrets.webhook]
description = "Secret that the sender signs deliveries with"
use = ["webhook"]
required = true

[webhook]
signature = {{ scheme = "hmac", header = "X-Signature", encoding = "hex", template = "{{timestamp}}.{{body}}", \
timestamp = "header:X-Timestamp", tolerance_s = 300 }}
event_id = ["body:/id"]
event_type = ["body:/type"]

[[webhook.entities]]
match = ["thing.*"]
kind = "thing"
id = ["body:/data/id"]
"""
QUALITY: Final = """\
tier = "bronze"

[rules]
readme = "done"
fixtures = "done"
golden = "done"
vectors = "done"
"""
README: Final = """\
# {name}

What it sends, in one sentence.

## Set up
1. Create a Patchbay connection for provider `{slug}`; it answers with the endpoint's URL.
2. Register the URL at {name} and give the signing secret to the connection as `webhook`.

## Limits
- The timestamp may be 300 s old or ahead.

## Quirks
- The signature covers the timestamp, a dot and the body.

## Not confirmed
- Everything: replace the manifest and the fixtures by what the vendor documents.
"""
BODY: Final[dict[str, Any]] = {"id": "evt_1", "type": "thing.created", "data": {"id": "thing_1"}}
SECRET: Final = "scaffold-secret"  # noqa: S105 (a test value for the vectors)
STAMP: Final = 1_700_000_000


def vectors(slug: str) -> str:
    """Return `vectors.toml` with a valid and a stale delivery, computed from the scheme itself."""
    body = json.dumps(BODY, separators=(",", ":"))
    digest = hmac.new(SECRET.encode(), f"{STAMP}.{body}".encode(), "sha256").hexdigest()
    entry = """\
[[vectors]]
id = "{id}"
source = "computed by tools/new_provider.py for {slug}; replace it by the vendor's own"
origin = "computed"
secret = "{secret}"
payload = '{body}'
headers = {{ "X-Signature" = "{digest}", "X-Timestamp" = "{stamp}" }}
now = {now}
valid = {valid}
"""
    common = {"slug": slug, "secret": SECRET, "body": body, "digest": digest, "stamp": STAMP}
    return "\n".join(
        entry.format(**common, id=name, now=now, valid=valid)
        for name, now, valid in (("fresh", STAMP, "true"), ("stale", STAMP + 301, "false"))
    )


def create(root: Path, slug: str) -> Path:
    """Write the folder and return it; raises `Invalid` for a bad name or a folder that exists."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,39}", slug):
        raise Invalid("bad_name", "a provider's name is lower case: letters, digits, underscores")
    folder = root / slug
    if folder.exists() or (root / f"{slug}.py").exists():
        raise Invalid("exists", f"{folder} or a module of that name exists already")
    name = slug.replace("_", " ").title()
    fixture = {"source": f"https://example.com/{slug}", "body": BODY}
    files = {
        "manifest.toml": MANIFEST.format(slug=slug, name=name),
        "quality.toml": QUALITY,
        "README.md": README.format(slug=slug, name=name),
        "fixtures/vectors.toml": vectors(slug),
        "fixtures/webhooks/thing.created.json": f"{json.dumps(fixture, indent=2)}\n",
    }
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    golden.write(Provider(folder, load(folder / "manifest.toml")))
    return folder


def main(arguments: list[str]) -> int:
    """Run the scaffold; see the module docstring."""
    parser = argparse.ArgumentParser(prog="new_provider", description="Make a provider folder.")
    parser.add_argument("name", help="the provider's slug, e.g. acme_pay")
    parser.add_argument("--root", type=Path, default=Path(providers.__path__[0]), help="folder of provider folders")
    given = parser.parse_args(arguments)
    try:
        folder = create(given.root, given.name)
    except Invalid as error:
        print(error.detail, file=sys.stderr)
        return 1
    print(f"{folder}\nnext: docs/how-to/add-a-provider.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
