"""The other side of `operations.toml`: plays the operations that a folder declares, from its templates and fixtures.

A request is recognised by its template; the answer is the documented one of the fixture, with the values that were
asked for in the places where the fixture has its own, and an id of its own. Must never know a provider by name.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from providers.declared import Declared
from providers.fixtures import ApiCase, api_cases
from providers.manifest import OperationSpec
from providers.manifest.operations import RequestTemplate
from providers.provider import Provider
from providers.reading import at
from providers.sdk import HttpRequest, HttpResponse
from sandbox.behaviours.base import Answer, Call, Remembered, same
from sandbox.world import World

CONFLICT: Final = 409
# A name of a template; `{ id }`, as queries of GraphQL have it, is none.
_HOLE: Final = re.compile(r"\{[a-z][a-z0-9_.]*\??(?:\|[^{}]*)?\}")
_NAMESPACE: Final = uuid.UUID("2f0f0a52-4a53-5e0c-8a6e-2b7f4f7f9f11")
_SHORTEST_VALUE: Final = 2


@dataclass(frozen=True, slots=True)
class Route:
    """One request that a provider knows: by its method and path, and by what is constant in it."""

    spec: OperationSpec
    case: ApiCase
    template: RequestTemplate
    documented: HttpRequest
    path: re.Pattern[str]
    looks_up: bool
    # Values that every request of this kind has.
    constants: frozenset[str] = frozenset()

    def fits(self, call: Call) -> bool:
        """Tell whether a call is this request."""
        if call.method != self.template.method or self.path.fullmatch(call.path) is None:
            return False
        constant = {name: text for name, text in self.template.query.items() if not _HOLE.search(text)}
        if any(call.query.get(name) != text for name, text in constant.items()):
            return False
        written = {name: text for name, text in (self.template.form or {}).items() if not _HOLE.search(text)}
        if any(call.form.get(name) != text for name, text in written.items()):
            return False
        if self.template.json_body is None:
            return True
        try:
            return _agrees(self.template.json_body, json.loads(call.body or b"null"))
        except ValueError:
            return False


@dataclass(slots=True)
class Thing:
    """Something that an operation made: its id, the values it was asked for with, and what is told of it."""

    ref: str
    values: dict[str, Any]
    operation: str


@dataclass(slots=True)
class _Account:
    answers: dict[tuple[str, str], Remembered] = field(default_factory=dict)
    things: list[Thing] = field(default_factory=list)


class DeclaredApi:
    """The declared operations of one provider; state by account."""

    def __init__(self, provider: Provider, world: World) -> None:
        self._provider = provider
        self._world = world
        self._routes = list(_routes(provider))
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)

    def route(self, call: Call) -> Route | None:
        """Return the request that a call is, or None for one that nobody declared."""
        return next((route for route in self._routes if route.fits(call)), None)

    def answer(self, route: Route, account: str, call: Call) -> Answer:
        """Answer a call of a known account, applying what it asks for."""
        values = _values(route, call)
        state = self._accounts[account]
        if route.looks_up:
            # Several operations may be looked up by one request.
            alike = (one for one in self._routes if one.looks_up and one.fits(call) and _things(one, state, call))
            return self._found(next(alike, route), state, call)
        if not route.spec.writes:
            return _answer(_success(route.case), _substituted(_success(route.case).json, values, "", ""))
        key = self._key(route.spec, call)
        known = state.answers.get((route.spec.name, key)) if key else None
        if known is None:
            answer = self._apply(route, account, values, key)
            if key:
                state.answers[route.spec.name, key] = Remembered(call.fingerprint, answer)
            return answer
        if not same(known.fingerprint, call.fingerprint):
            return Answer(CONFLICT, {"error": "this idempotency key was used for another request"})
        return known.answer

    def refusal(self, route: Route) -> Answer | None:
        """Return the documented refusal of an operation, or None if the fixtures show none."""
        for response, expect in route.case.responses:
            if isinstance(expect, dict) and "declined" in expect:
                return Answer(response.status, response.json, response.headers)
        return None

    def _key(self, spec: OperationSpec, call: Call) -> str:
        kind, name = spec.idempotency.kind, spec.idempotency.name
        if kind == "header":
            return call.headers.get(name.lower(), "")
        if kind == "query":
            return call.query.get(name, "")
        if kind == "body":
            return call.form.get(name, "") or str(at(_json(call), name if name.startswith("/") else f"/{name}") or "")
        return call.fingerprint if kind == "natural" else ""

    def _apply(self, route: Route, account: str, values: dict[str, Any], key: str) -> Answer:
        response = _success(route.case)
        documented = _documented_ref(route.case)
        in_answer = documented and documented in json.dumps(response.json, ensure_ascii=False) + str(response.headers)
        made = in_answer and documented not in values
        ref = self._new_ref(documented, account) if made else _moved(documented, values)
        state = self._accounts[account]
        state.things.append(Thing(ref, values, route.spec.name))
        asked = [value for documented, value in values.items() if documented not in route.constants]
        subject = next((str(value) for value in asked if not isinstance(value, bool)), "")
        self._world.apply(
            *(self._provider.slug, route.spec.name), account=account, subject=subject, ref=ref, key=key, asked=asked
        )
        body = _substituted(response.json, values, documented, ref)
        headers = {name: _substituted(text, values, documented, ref) for name, text in response.headers.items()}
        return Answer(response.status, body, headers)

    def _found(self, route: Route, state: _Account, call: Call) -> Answer:
        """Answer a look-up from the things whose making held every value that is looked for."""
        look_up = route.spec.look_up
        found_case = next(
            (r for r, e in route.case.read_back_responses if isinstance(e, dict) and "applied" in e), None
        )
        absent = next((r for r, e in route.case.read_back_responses if e is None), None)
        if look_up is None or found_case is None or absent is None:
            return Answer(404, {})
        documented = _documented_ref(route.case)
        things = _things(route, state, call)
        if look_up.items is None:
            if not things:
                return _answer(absent, absent.json)
            return _answer(found_case, _substituted(found_case.json, things[-1].values, documented, things[-1].ref))
        items = at(found_case.json, look_up.items)
        shown = next((one for one in items if documented in json.dumps(one)), items[0])
        filled = [_substituted(shown, one.values, documented, one.ref) for one in reversed(things)]
        return _answer(found_case, _with(found_case.json, look_up.items, filled))

    def _new_ref(self, documented: str, account: str) -> str:
        """Return an id of the documented one's form that nobody has yet."""
        number = len(self._world.effects) + 1
        made = uuid.uuid5(_NAMESPACE, f"{self._provider.slug}:{account}:{number}")
        if documented.isdecimal():
            return str(int("9" + "0" * (len(documented) - 1)) + number) if len(documented) < 19 else str(made.int)[:18]  # noqa: PLR2004
        try:
            uuid.UUID(documented)
        except ValueError:
            prefix = re.match(r"[A-Za-z]{1,8}[_-]", documented)
            return f"{prefix[0] if prefix else ''}{made.hex}"
        return str(made)


def _routes(provider: Provider) -> Iterator[Route]:
    cases = api_cases(provider.folder)
    for spec in provider.manifest.operations:
        own = [one for one in cases if one.operation_name == spec.name]
        operations = provider.operations(spec.name)
        if not own or not isinstance(operations, Declared):
            continue
        case = own[0]
        for template in (*spec.request_with.values(), spec.request):
            shown = next((one for one in own if operations.template(one.arguments) is template), None)
            if shown is not None and template is not None:
                yield _route(spec, shown, template, operations)
        asked = operations.read_back(case.arguments, case.account)
        if spec.look_up is not None and asked is not None:
            pattern = _pattern(spec.look_up.request.path)
            yield Route(spec, case, spec.look_up.request, asked, pattern, looks_up=True)


def _route(spec: OperationSpec, case: ApiCase, template: RequestTemplate, operations: Declared) -> Route:
    built = operations.build(case.arguments, case.account)
    constants = frozenset(_constants(template.json_body) | set((template.form or {}).values()))
    return Route(spec, case, template, built, _pattern(template.path), looks_up=False, constants=constants)


def _things(route: Route, state: _Account, call: Call) -> list[Thing]:
    """Return what a look-up asks for among the things of its operation."""
    wanted = set(_asked_for(route, call))
    return [one for one in state.things if one.operation == route.spec.name and _has(one, wanted)]


def _constants(template: Any) -> set[str]:
    if isinstance(template, Mapping):
        return set().union(*(_constants(part) for part in template.values())) if template else set()
    if isinstance(template, list | tuple):
        return set().union(*(_constants(part) for part in template)) if template else set()
    return set() if isinstance(template, str) and _HOLE.search(template) else {str(template)}


def _pattern(path: str) -> re.Pattern[str]:
    """Return what paths of a template look like; holes with `|raw` may hold slashes."""
    out, place = "", 0
    for hole in _HOLE.finditer(path):
        out += re.escape(path[place : hole.start()]) + ("(.*)" if "|raw" in hole[0] else "([^/]+)")
        place = hole.end()
    return re.compile(out + re.escape(path[place:]))


def _agrees(template: Any, value: Any) -> bool:
    """Tell whether a JSON value has everything that is constant in a template."""
    if isinstance(template, Mapping):
        if "each" in template:
            return isinstance(value, list)
        return isinstance(value, Mapping) and all(
            _agrees(part, value[name]) if name in value else _optional(part) for name, part in template.items()
        )
    if isinstance(template, list | tuple):
        return isinstance(value, list) and len(value) <= len(template) and all(map(_agrees, template, value))
    if isinstance(template, str) and _HOLE.search(template):
        literal = "(.|\n)*".join(re.escape(part) for part in _HOLE.split(template))
        return not isinstance(value, str) or re.fullmatch(literal, value) is not None
    return bool(template == value)


def _optional(template: Any) -> bool:
    if isinstance(template, Mapping):
        return "each" in template or all(_optional(part) for part in template.values())
    return isinstance(template, str) and "?" in template


def _values(route: Route, call: Call) -> dict[str, Any]:
    """Return what this call has in the places where the documented request has a value: by the documented value."""
    found: dict[str, Any] = {}
    pairs = list(_leaves(route.documented.json, _json(call) if route.documented.json is not None else None))
    pairs += [(text, call.form.get(name)) for name, text in (route.documented.form or {}).items()]
    pairs += [(text, call.query.get(name)) for name, text in route.documented.query.items()]
    known, here = (route.path.fullmatch(path) for path in (route.documented.path, call.path))
    pairs += list(zip(known.groups(), here.groups(), strict=True)) if known and here else []
    for documented, value in pairs:
        if value is not None and documented not in (None, "", True, False) and len(str(documented)) >= _SHORTEST_VALUE:
            found.setdefault(str(documented), value)
    return found


def _asked_for(route: Route, call: Call) -> Iterator[str]:
    """Yield what a look-up asks for: what the names of its template stand for in this call."""
    template = route.template
    pairs = list(_leaves(template.json_body, _json(call)))
    pairs += [(text, call.form.get(name)) for name, text in (template.form or {}).items()]
    pairs += [(text, call.query.get(name)) for name, text in template.query.items()]
    pairs.append((template.path, call.path))
    for text, value in pairs:
        if not isinstance(text, str) or value is None:
            continue
        found = _pattern(text).fullmatch(str(value)) if text.startswith("/") else _words(text).fullmatch(str(value))
        yield from (word for word in (found.groups() if found else ()) if len(word) >= _SHORTEST_VALUE)


def _words(text: str) -> re.Pattern[str]:
    """Return what a text looks like when the names in it are filled."""
    return re.compile("(.+)".join(re.escape(part) for part in _HOLE.split(text)), re.DOTALL)


def _leaves(documented: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(documented, Mapping):
        for name, part in documented.items():
            yield from _leaves(part, value.get(name) if isinstance(value, Mapping) else None)
    elif isinstance(documented, list):
        for number, part in enumerate(documented):
            inside = isinstance(value, list) and number < len(value)
            yield from _leaves(part, value[number] if inside else None)
    else:
        yield documented, value


def _substituted(documented: Any, values: Mapping[str, Any], ref: str, new_ref: str) -> Any:
    """Return a documented answer with this call's values and id in it."""
    if isinstance(documented, Mapping):
        return {name: _substituted(part, values, ref, new_ref) for name, part in documented.items()}
    if isinstance(documented, list):
        return [_substituted(part, values, ref, new_ref) for part in documented]
    if isinstance(documented, bool) or documented is None:
        return documented
    if ref and str(documented) == ref:
        return _like(documented, new_ref)
    found = _like(documented, values[str(documented)]) if str(documented) in values else documented
    inside = isinstance(found, str) and found is documented and ref and new_ref
    return found.replace(ref, new_ref) if inside else found


def _like(documented: Any, value: Any) -> Any:
    """Return a value in the documented one's type, where it fits."""
    if isinstance(documented, str):
        return value if isinstance(value, str) else str(value)
    if isinstance(documented, int) and str(value).lstrip("-").isdecimal():
        return int(value)
    return value


def _with(document: Any, pointer: str, value: Any) -> Any:
    steps = pointer.split("/")[1:]
    if not steps:
        return value
    copy = json.loads(json.dumps(document))
    place = copy
    for step in steps[:-1]:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[int(steps[-1]) if isinstance(place, list) else steps[-1]] = value
    return copy


def _has(thing: Thing, wanted: set[str]) -> bool:
    """Tell whether something was made with all the values, alone or inside of a longer text."""
    texts = [str(value) for value in thing.values.values()] + [thing.ref]
    return all(any(value == text or (len(value) > 7 and value in text) for text in texts) for value in wanted)  # noqa: PLR2004


def _success(case: ApiCase) -> HttpResponse:
    return next(response for response, expect in case.responses if isinstance(expect, dict) and "applied" in expect)


def _documented_ref(case: ApiCase) -> str:
    return next(str(e["applied"]["provider_ref"]) for _, e in case.responses if isinstance(e, dict) and "applied" in e)


def _moved(documented: str, values: Mapping[str, Any]) -> str:
    return str(values.get(documented, documented))


def _answer(response: HttpResponse, body: Any) -> Answer:
    return Answer(response.status, body, response.headers)


def _json(call: Call) -> Any:
    try:
        found = json.loads(call.body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}
