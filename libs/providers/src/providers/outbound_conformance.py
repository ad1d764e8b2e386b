"""Conformance of what a provider's folder says about its API: golden requests, answers, keys, errors, limits.

Used by tests, `tools/providers_check` and `patchbay conformance --outbound`. Production paths never call this.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from contracts.errors import PatchbayError
from contracts.operations import arguments_of
from providers.classify import classify
from providers.fixtures import ApiCase, api_cases
from providers.manifest import OperationSpec
from providers.manifest.operations import MONEY
from providers.money import currency_of
from providers.provider import Provider
from providers.reading import at
from providers.sdk import Applied, Declined, HttpRequest, HttpResponse

# When golden requests are signed; it only matters to schemes that sign the time.
NOW: Final = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Check:
    """One check of an operation or of the whole API; `problem` is None when it holds, `exempt` why it was not."""

    operation: str
    name: str
    problem: str | None = None
    exempt: str = ""


def checks(provider: Provider) -> Iterator[Check]:
    """Yield every check of a provider's operations; nothing for a provider without any."""
    cases = api_cases(provider.folder)
    for spec in provider.manifest.operations:
        own = [case for case in cases if case.operation_name == spec.name]
        if not own:
            yield Check(spec.name, "fixture", "there is none under fixtures/api")
        for case in own:
            yield from _of_case(provider, spec, case)
        yield from _coverage(spec, own)
    if provider.manifest.operations:
        yield from _of_api(provider)


def golden(provider: Provider, case: ApiCase) -> HttpRequest:
    """Return the request of a case with credentials, as it would be sent."""
    request = provider.operations(case.operation_name).build(case.arguments, case.account)
    return provider.authorise(request, case.account, NOW)


def as_json(request: HttpRequest) -> dict[str, Any]:
    """Return a request as fixtures write it: absent parts left out, bytes as text."""
    values = asdict(request)
    if values["content"] is not None:
        values["content"] = values["content"].decode("utf-8", "replace")
    values = json.loads(json.dumps(values))
    always = {"method", "path", "headers"}
    return {name: value for name, value in values.items() if name in always or value not in (None, "", {}, [])}


def outcome(read: Callable[[], Applied | Declined | None]) -> Any:
    """Return what reading an answer gave, as fixtures write it."""
    try:
        found = read()
    except PatchbayError as error:
        return {"raises": error.code}
    if isinstance(found, Applied):
        return {"applied": {"provider_ref": found.provider_ref, "result": dict(found.result)}}
    if isinstance(found, Declined):
        return {"declined": {"code": found.code}}
    return None


def _of_case(provider: Provider, spec: OperationSpec, case: ApiCase) -> Iterator[Check]:
    label = case.name
    try:
        request = golden(provider, case)
    except PatchbayError as error:
        yield Check(spec.name, f"request of {label}", f"it cannot be built: {error}")
        return
    yield Check(spec.name, f"request of {label}", _difference(case.request, as_json(request)))
    yield Check(spec.name, f"same key of {label}", None if request == golden(provider, case) else "two builds differ")
    yield Check(spec.name, f"key of {label}", _key_problem(spec, request))
    operations = provider.operations(spec.name)
    for number, (response, expected) in enumerate(case.responses):
        found = outcome(lambda response=response: operations.parse(case.arguments, response))  # type: ignore[misc]
        yield Check(spec.name, f"answer {number} of {label}", _difference(expected, found))
        yield Check(spec.name, f"money in answer {number} of {label}", money_problem(spec, found))
    asked = operations.read_back(case.arguments, case.account)
    documented = as_json(provider.authorise(asked, case.account, NOW)) if asked else None
    yield Check(spec.name, f"look-up of {label}", _difference(case.read_back, documented))
    for number, (response, expected) in enumerate(case.read_back_responses):
        found = outcome(lambda response=response: operations.parse_read_back(case.arguments, response))  # type: ignore[misc]
        yield Check(spec.name, f"look-up answer {number} of {label}", _difference(expected, found))
        yield Check(spec.name, f"money in look-up answer {number} of {label}", money_problem(spec, found))


def money_problem(spec: OperationSpec, found: Any) -> str | None:
    """Return how a result breaks the one shape of money, or None: integers in minor units beside a `currency`.

    Content whose form the contract states must have it.
    """
    if not isinstance(found, dict) or "applied" not in found:
        return None
    result, model = found["applied"]["result"], arguments_of(spec.name)
    if model.CONTENT is not None:
        try:
            model.CONTENT.model_validate_json(base64.b64decode(result["content"]), strict=True)
        except (KeyError, ValueError) as error:
            return f"the content is no {model.CONTENT.__name__}: {type(error).__name__}"
    if "currency" not in model.model_fields:
        return None
    money = {name: result[name] for name in MONEY & result.keys()}
    loose = sorted(name for name, value in money.items() if isinstance(value, bool) or not isinstance(value, int))
    if loose:
        return f"{', '.join(loose)} must be whole minor units"
    if money and (not isinstance(result.get("currency"), str) or currency_of(result["currency"]) != result["currency"]):
        return "an amount needs the ISO 4217 code of its currency beside it"
    return None


def _coverage(spec: OperationSpec, cases: list[ApiCase]) -> Iterator[Check]:
    expected = [expect for case in cases for _, expect in case.responses]
    looked = [expect for case in cases for _, expect in case.read_back_responses]
    applied = any(isinstance(one, dict) and "applied" in one for one in expected)
    refused = any(isinstance(one, dict) and "declined" in one for one in expected)
    yield Check(spec.name, "shows a success", None if applied else "no answer in fixtures/api is one")
    yield Check(spec.name, "shows a refusal", None if refused else "no answer in fixtures/api is one")
    if spec.read_back:
        both = None in looked and any(one is not None and "applied" in one for one in looked)
        yield Check(spec.name, "looks up", None if both else "fixtures/api need an effect that is found, and one not")
    elif spec.writes and spec.idempotency.kind == "none":
        yield Check(spec.name, "looks up", exempt="no key, no look-up: an unknown effect is settled by a person")


def _of_api(provider: Provider) -> Iterator[Check]:
    codes = provider.api.errors
    for status, meaning in ((401, "credential"), (403, "missing_scope"), (429, "throttled"), (503, "unclear")):
        found = classify(HttpResponse(status, {}, None), codes, NOW).meaning
        yield Check("", f"classifies {status}", None if found == meaning else f"as {found}")
    for word in sorted(codes.throttled):
        yield Check("", f"classifies {word}", _meaning(provider, word, "throttled"))
    for word in sorted(codes.unauthorised):
        yield Check("", f"classifies {word}", _meaning(provider, word, "credential"))
    if provider.api.rate is None and not provider.api.windows:
        yield Check("", "limits", exempt="no limit is published; the limiter learns it from answers")
    else:
        yield Check("", "limits")


def _meaning(provider: Provider, word: str, wanted: str) -> str | None:
    codes = provider.api.errors
    if not codes.codes:
        return "there is no pointer to codes"
    found = classify(HttpResponse(403, {}, _document(codes.codes[0], word)), codes, NOW).meaning
    return None if found == wanted else f"as {found}"


def _document(pointer: str, value: str) -> Any:
    document: Any = value
    for step in reversed(pointer.split("/")[1:]):
        document = [document] if step == "0" else {step: document}
    return document


def _key_problem(spec: OperationSpec, request: HttpRequest) -> str | None:
    kind, name = spec.idempotency.kind, spec.idempotency.name
    if kind in {"none", "natural"}:
        return None
    body = request.form if request.form is not None else request.json
    places: dict[str, Any] = {"header": request.headers, "query": request.query, "body": body}
    key = at(places[kind], name if name.startswith("/") else f"/{name}")
    if not isinstance(key, str) or not key:
        return f"there is no idempotency key at {kind} {name}"
    longest = spec.idempotency.max_length or 255
    return None if len(key) <= longest else f"the key has {len(key)} characters, {longest} are allowed"


def _difference(expected: Any, found: Any) -> str | None:
    wanted = json.loads(json.dumps(expected))
    if wanted == found:
        return None
    return f"expected {json.dumps(wanted, sort_keys=True)[:1500]}, found {json.dumps(found, sort_keys=True)[:1500]}"
