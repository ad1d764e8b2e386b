"""What an operator may configure on an endpoint, checked before it is stored. Pure.

Must never accept what the gateway would have to guess about: a record that cannot be obeyed fails closed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_network
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, SecretStr, StringConstraints, model_validator

from contracts.errors import Invalid
from contracts.events.base import Slug
from contracts.events.sync import ArrivalProfile, EndpointLaneRule, RateLimit, TenantRoutes
from contracts.topics import Lane
from providers.provider import Provider

# The provider publishes its addresses, and the manifest holds them.
PROVIDER_RANGES: Final = "provider"
MAX_RANGES: Final = 500
MAX_RULES: Final = 50
MAX_POINTERS: Final = 100
# A compacted record must stay far below 1 MiB: 5,000 accounts of 100 bytes are half of it.
MAX_ACCOUNTS: Final = 5_000
# A burst is what may come at once; ten seconds of the greatest rate is more than any provider batches.
BURST_S: Final = 10
MAX_GAP_S: Final = 90 * 86_400.0

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
# RFC 6901, without the empty pointer and without control characters, which Postgres and logs would choke on.
Pointer = Annotated[str, StringConstraints(pattern=r"^(/([^/~\x00-\x1f\x7f]|~[01])*)+$", max_length=200)]
# An fnmatch pattern over event types; a bracket without its partner would silently match itself only.
Glob = Annotated[str, StringConstraints(pattern=r"^([!-Z\\^-~]|\[[!-Z\\^-~]+\])+$", max_length=200)]
Account = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=200)]


@dataclass(frozen=True, slots=True)
class Limits:
    """The platform's maximum for what an operator may set on one endpoint or tenant."""

    max_body_bytes: int
    max_per_s: float


class Rate(RateLimit):
    """A rate limit as an operator gives it."""

    model_config = _STRICT


class LaneRule(EndpointLaneRule):
    """A lane rule as an operator gives it; every condition must be complete."""

    model_config = _STRICT

    types: Annotated[tuple[Glob, ...], Field(max_length=MAX_RULES)] = ("*",)
    amount: Pointer | Literal[""] = ""
    due: Pointer | Literal[""] = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.types:
            raise ValueError("types needs a glob, such as *")
        if bool(self.amount) != (self.min_amount is not None):
            raise ValueError("amount and min_amount go together")
        if self.timezone not in _timezones():
            raise ValueError("timezone is no IANA name")
        return self


class Routes(TenantRoutes):
    """Tenant routing as an operator gives it: only what a signature covers may say whose delivery it is."""

    model_config = _STRICT

    source: Annotated[str, StringConstraints(pattern=r"^(body:(/([^/~\x00-\x1f\x7f]|~[01])*)+|form:[!-~]+)$")]
    accounts: Annotated[dict[Account, Slug], Field(min_length=1, max_length=MAX_ACCOUNTS)]


class Arrivals(ArrivalProfile):
    """An arrival profile as an operator gives it."""

    model_config = _STRICT

    max_gap_s: float | None = Field(default=None, gt=0, le=MAX_GAP_S)

    @model_validator(mode="after")
    def _fixed_has_a_gap(self) -> Self:
        if (self.mode == "fixed") != (self.max_gap_s is not None):
            raise ValueError("max_gap_s goes with the mode fixed, and with no other")
        return self


def _ranges(value: Any) -> Any:
    """Return address ranges in canonical form, or the word for the provider's own; raises `ValueError`."""
    if value == PROVIDER_RANGES:
        return value
    if not isinstance(value, list | tuple) or len(value) > MAX_RANGES or not all(isinstance(one, str) for one in value):
        raise ValueError(f'must be "{PROVIDER_RANGES}" or at most {MAX_RANGES} CIDR ranges')
    networks: list[str] = []
    for text in value:
        try:
            networks.append(str(ip_network(text)))
        except ValueError:
            rule = f"number {len(networks) + 1} is no CIDR range, or has bits set behind its prefix"
            raise ValueError(rule) from None
    return tuple(dict.fromkeys(networks))


class EndpointSettings(BaseModel):
    """Body of `PATCH /v1/endpoints/{id}`: a field that is given replaces what was set, empty or null resets it."""

    model_config = _STRICT

    lane: Lane = Lane.STANDARD
    allowed_ips: Annotated[Any, PlainValidator(_ranges)] = ()
    rate: Rate | None = None
    max_body_bytes: int | None = Field(default=None, ge=1)
    lane_rules: tuple[LaneRule, ...] = Field(default=(), max_length=MAX_RULES)
    tenant_routes: Routes | None = None
    arrivals: Arrivals = Arrivals()
    redact: tuple[Pointer, ...] = Field(default=(), max_length=MAX_POINTERS)
    card_numbers: Literal["mark", "mask"] = "mark"
    options: dict[str, str] = Field(default_factory=dict)

    def given(self) -> dict[str, Any]:
        """Return the fields that the operator gave, as JSON, without those that are columns of their own."""
        return self.model_dump(mode="json", include=self.model_fields_set - {"lane", "secret"})


class NewEndpoint(EndpointSettings):
    """Body of `POST /v1/connections/{id}/endpoints`; without `secret` the connection's own one verifies it too."""

    secret: SecretStr | None = None


def shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings with the defaults of all that was never set, as JSON."""
    return EndpointSettings().model_dump(mode="json", exclude={"lane"}) | dict(settings)


def check(settings: EndpointSettings, provider: Provider, options: Mapping[str, str], limits: Limits) -> None:
    """Raise `Invalid` that names the field unless the provider and the platform allow what is given.

    `options` are the connection's, under those of the endpoint. Whether tenants may be routed to is not looked at.
    """
    check_rate("rate", settings.rate, limits)
    if settings.max_body_bytes is not None and settings.max_body_bytes > limits.max_body_bytes:
        raise Invalid("over_limit", f"at most {limits.max_body_bytes}", field="max_body_bytes")
    if settings.allowed_ips == PROVIDER_RANGES and not provider.webhook.ip_ranges:
        raise Invalid("no_published_ranges", "the provider publishes no addresses; list them", field="allowed_ips")
    for place, rule in enumerate(settings.lane_rules):
        _check_lane(rule, provider, f"lane_rules.{place}")
    merged = {**options, **settings.options}
    provider.manifest.resolve_options(settings.options)
    try:
        provider.verifier(merged)
    except ValueError:
        raise Invalid("bad_option", "the provider's verifier cannot be built with these", field="options") from None


def check_rate(field: str, rate: RateLimit | None, limits: Limits) -> None:
    """Raise `Invalid` (`over_limit`) when a limit is above what the platform serves."""
    if rate is None:
        return
    if rate.per_s > limits.max_per_s:
        raise Invalid("over_limit", f"at most {limits.max_per_s:g} a second", field=field)
    if rate.burst > limits.max_per_s * BURST_S:
        raise Invalid("over_limit", f"a burst of at most {limits.max_per_s * BURST_S:g}", field=field)


def _check_lane(rule: LaneRule, provider: Provider, field: str) -> None:
    """Raise `Invalid` when a type that the provider does not sign would alone choose the critical lane (§3.3)."""
    if rule.lane is not Lane.CRITICAL or rule.types == ("*",) or rule.amount or rule.due:
        return
    unsigned = {f"header:{name}".lower() for name in provider.webhook.unsigned}
    choices = provider.webhook.event_type
    sources = [one for choice in choices for one in ((choice,) if isinstance(choice, str) else choice)]
    if unsigned & {source.lower() for source in sources}:
        detail = "the provider does not sign the type, so the type alone cannot make an event critical"
        raise Invalid("unsigned_type", detail, field=field)


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())
