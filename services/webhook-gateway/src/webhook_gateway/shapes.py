"""What the bodies of one provider, event type and API version look like, and when that changes; without I/O.

A shape is a set of paths with the types seen there. Arrays are one path (`[]`), keys that look like ids are one key
(`*`), and no shape has more than `MAX_PATHS` paths. Must never hold a value of a body, only its fields' names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

MAX_PATHS: Final = 500
# Bodies before anything is said; optional fields are rarely rarer than one in a hundred.
LEARN_BODIES: Final = 100
# A field that every body had is missing when so many in a row have it not.
WINDOW_BODIES: Final = 50
# A new field counts from its second sighting: one body alone may be a test of the provider's.
NEW_SIGHTINGS: Final = 2
_MAX_DEPTH: Final = 20
_MAX_PATH_CHARS: Final = 300
# Keys that name an instance, not a field: long numbers, hexadecimal ids, UUIDs, prefixed ids such as `pi_3N…`.
_ID_KEY: Final = re.compile(r"\d{4,}|[0-9a-f]{16,}|[0-9a-f-]{32,36}|[a-z]{1,8}_[0-9A-Za-z]{10,}")
# An object with more keys than this is a dictionary of instances.
_MAX_KEYS: Final = 60


@dataclass(slots=True)
class Path:
    """One field: the types seen there, and what tells a change from chance.

    `always` holds while no body lacked it, `fresh` says that it came after the shape was learnt. `lacking` counts
    bodies in a row without it, `pending` sightings of types that are not told yet.
    """

    types: set[str] = field(default_factory=set)
    always: bool = False
    fresh: bool = False
    missing: bool = False
    lacking: int = 0
    pending: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the path as the database holds it."""
        return asdict(self) | {"types": sorted(self.types)}

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> Path:
        """Return the path that `to_json` wrote."""
        return cls(**{**raw, "types": set(raw["types"])})


@dataclass(slots=True)
class Drift:
    """Paths that appeared, went missing or changed their type since the shape was learnt."""

    new: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    retyped: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.new or self.missing or self.retyped)


@dataclass(slots=True)
class ShapeModel:
    """The shape of one kind of event; `full` says that `MAX_PATHS` was reached, so new fields are no longer told."""

    bodies: int = 0
    known: bool = False
    full: bool = False
    paths: dict[str, Path] = field(default_factory=dict)

    def take(self, documents: Sequence[Any]) -> Drift:
        """Learn from bodies, in order, and return what drifted; a change is told once and then belongs to the shape."""
        drift = Drift()
        for document in documents:
            found = paths_of(document)
            self.bodies += 1
            if self.known:
                self._compare(found, drift)
            else:
                self._learn(found)
        return drift

    def _learn(self, found: Mapping[str, set[str]]) -> None:
        for path, types in found.items():
            known = self._path(path, always=self.bodies == 1)
            if known is not None:
                known.types |= types
        for path in self.paths.keys() - found.keys():
            self.paths[path].always = False
        self.known = self.bodies >= LEARN_BODIES

    def _compare(self, found: Mapping[str, set[str]], drift: Drift) -> None:
        for path, types in found.items():
            known = self._path(path, fresh=True)
            if known is not None:
                _see(path, known, types, drift)
        for path in self.paths.keys() - found.keys():
            known = self.paths[path]
            # Without its parent a field has no place to be: then the parent is what is missing.
            if known.always and "object" in found.get(_parent(path), ()):
                known.lacking += 1
                if known.lacking >= WINDOW_BODIES:
                    known.always, known.missing = False, True
                    drift.missing.append(path)

    def _path(self, path: str, *, always: bool = False, fresh: bool = False) -> Path | None:
        known = self.paths.get(path)
        if known is None:
            if len(self.paths) >= MAX_PATHS:
                self.full = True
                return None
            known = self.paths[path] = Path(always=always, fresh=fresh)
        return known


def _see(path: str, known: Path, types: set[str], drift: Drift) -> None:
    if known.lacking:
        known.always, known.lacking = False, 0
    known.missing = False
    real = bool(known.types - {"null"})
    # Null is the absence of a value: it says nothing about the type, and a field may be null at any time.
    for kind in sorted(types - known.types - {"null"}):
        known.pending[kind] = known.pending.get(kind, 0) + 1
        if known.pending[kind] < NEW_SIGHTINGS:
            continue
        if real or known.fresh:
            (drift.retyped if real else drift.new).append(path)
        known.types.add(kind)
        del known.pending[kind]
    known.types |= types & {"null"}


def _parent(path: str) -> str:
    return path[: max(path.rfind("."), path.rfind("[]"))]


def paths_of(document: Any) -> dict[str, set[str]]:
    """Return every path of a body with the types at it: object, array, string, number, boolean or null."""
    out: dict[str, set[str]] = {}
    for path, kind in _walk(document, "$", 0):
        if len(path) <= _MAX_PATH_CHARS:
            out.setdefault(path, set()).add(kind)
    return out


def _walk(node: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    yield path, _kind(node)
    if depth >= _MAX_DEPTH:
        return
    if isinstance(node, dict):
        many = len(node) > _MAX_KEYS
        for key, value in node.items():
            name = "*" if many or _ID_KEY.fullmatch(key) else key
            yield from _walk(value, f"{path}.{name}", depth + 1)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value, f"{path}[]", depth + 1)


def _kind(node: Any) -> str:
    # A boolean is an int to Python, so it is asked first.
    if isinstance(node, bool):
        return "boolean"
    if isinstance(node, int | float):
        return "number"
    if isinstance(node, str):
        return "string"
    if isinstance(node, dict):
        return "object"
    return "array" if isinstance(node, list) else "null"
