"""100,000 mutated deliveries over all schemes: none may be believed, none may be an error; genuine ones all pass.

What must be refused is known by construction, not by asking the verifier: one byte of something that the scheme's
manifest says it covers was changed. Prints the CPU of one verification per scheme beside that of the bare digest.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from providers import mutations as places
from providers import registry
from providers.conformance import fixtures_for, variants
from providers.provider import Provider
from providers.sdk import InboundRequest, KeyNeeded, Refused, Secret
from providers.signing import Traits
from providers.sources import FORM_TYPE

TOTAL = 100_000
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
URL = "https://hooks.bench.test/hooks/ep-bench"
GENUINE_EACH = 200
HALF = 0.5


@dataclass(frozen=True)
class Subject:
    """One scheme of one provider with a genuine delivery."""

    provider: Provider
    options: Mapping[str, str]
    traits: Traits
    genuine: InboundRequest
    secrets: tuple[Secret, ...]

    @property
    def name(self) -> str:
        """The provider, and the options that chose the scheme."""
        return " ".join([self.provider.slug, *self.options.values()])

    @property
    def scheme(self) -> str:
        """The scheme's name in manifests."""
        return str(self.provider.signature(self.options).scheme)

    def verdict(self, request: InboundRequest) -> str:
        """Return accepted, refused, or the name of an exception that would have been a 500."""
        try:
            reply = self.provider.handshake(request, self.secrets, self.options, NOW)
            if reply is None:
                self.provider.verifier(self.options).verify(request, self.secrets, NOW)
        except (Refused, KeyNeeded):
            return "refused"
        except Exception as error:  # noqa: BLE001 (finding these is the purpose)
            return type(error).__name__
        return "accepted"


def subjects() -> Iterator[Subject]:
    """Yield every scheme that authenticates."""
    for provider in registry.all_providers():
        if provider.manifest.webhook is None:
            continue
        for options in variants(provider):
            traits = provider.traits(options)
            if traits is None or not traits.authenticated:
                continue
            fixture = fixtures_for(provider, options)[0]
            chosen = {**fixture.options, **options}
            keys = provider.verifier(chosen).generate()
            genuine = provider.sign(
                fixture.request({}, URL), secret=keys.signing, now=NOW, message_id=fixture.message_id, options=chosen
            )
            yield Subject(provider, chosen, traits, genuine, (Secret("k1", keys.verifying),))


def mutated(rng: random.Random, subject: Subject) -> InboundRequest | None:
    """Return the genuine delivery with one covered byte changed; None when the change changed nothing."""
    place = subject.traits.places[0]
    for name, text in {**subject.provider.default_options, **subject.options}.items():
        place = place.replace(f"{{{name}}}", text)
    body = subject.genuine.body
    if subject.traits.covers == "body" and body and rng.random() < HALF:
        other_body = _changed(rng, body)
        # Where the fields of a form are signed, names and values joined, what joins alike is the same delivery.
        is_form = FORM_TYPE in str(subject.genuine.headers.get("content-type"))
        same = is_form and _fields(other_body) == _fields(body)
        return None if same else replace(subject.genuine, body=other_body)
    text = places.text_at(subject.genuine, place)
    other = _changed(rng, text.encode("latin-1")).decode("latin-1")
    return None if _meaning(other) == _meaning(text) else places.with_text(subject.genuine, place, other)


def _meaning(header: str) -> str:
    """Return what a header says: without blanks around it, nor the case of an authentication scheme (RFC 9110)."""
    scheme, blank, rest = header.strip().partition(" ")
    return scheme.lower() + blank + rest if scheme.lower() in {"bearer", "basic"} else header.strip()


def _fields(body: bytes) -> str:
    pairs = parse_qsl(body.decode("latin-1"), keep_blank_values=True)
    return "".join(name + value for name, value in sorted(set(pairs)))


def _changed(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[at + 1 :]
    if kind == 2:
        return data[:at] + bytes([rng.randrange(256)]) + data[at:]
    return data[:at]


async def mutations() -> None:
    """Mutate deliveries of every scheme, 100,000 in all; wrong accepts, wrong refusals, and errors, beside the cost."""
    rng = random.Random(20_261_121)
    tried = list(subjects())
    counts: Counter[str] = Counter()
    wrong: defaultdict[str, list[str]] = defaultdict(list)
    print(f"{len(tried)} schemes of {len({one.provider.slug for one in tried})} providers")
    print(f"{'provider':<34} {'scheme':<18} {'verify':>8} {'bare HMAC of the body':>22}   µs CPU")
    for subject in tried:
        genuine_us = _timed(subject)
        print(f"{subject.name:<34} {subject.scheme:<18} {genuine_us:8.1f} {_bare_us(subject.genuine.body):22.1f}")
        for _ in range(GENUINE_EACH):
            verdict = subject.verdict(subject.genuine)
            counts[f"genuine {verdict}"] += 1
    done = 0
    while done < TOTAL:
        subject = tried[done % len(tried)]
        request = mutated(rng, subject)
        if request is None:
            continue
        done += 1
        verdict = subject.verdict(request)
        counts[f"mutated {verdict}"] += 1
        if verdict != "refused" and len(wrong[subject.name]) < 3:
            wrong[subject.name].append(f"{verdict}: {request.headers} {request.body[:80]!r}")
    print(dict(counts))
    for name, examples in wrong.items():
        print(name, *examples, sep="\n  ")


def _timed(subject: Subject, rounds: int = 200) -> float:
    verifier = subject.provider.verifier(subject.options)
    started = time.process_time()
    for _ in range(rounds):
        verifier.verify(subject.genuine, subject.secrets, NOW)
    return (time.process_time() - started) / rounds * 1e6


def _bare_us(body: bytes, rounds: int = 2000) -> float:
    started = time.process_time()
    for _ in range(rounds):
        hmac.compare_digest(hmac.digest(b"key", body, hashlib.sha256), b"x" * 32)
    return (time.process_time() - started) / rounds * 1e6
