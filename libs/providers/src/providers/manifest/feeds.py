"""The `feeds.toml` of a provider: how missed events are fetched, and how webhooks are registered there, as data.

Must never hold a path, a window or a lifetime that a vendor does not document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from providers.manifest.base import Pointer, Strict
from providers.manifest.operations import RequestTemplate, Scalar
from providers.templates import names_in

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Documented = Annotated[str, StringConstraints(pattern=r"^(https://|pypi:|gh:|disco:)")]


class Paging(Strict):
    """How one page leads to the next.

    `cursor`: a text at `next` goes into the request as `{page?}`. `last_id`: the id at `id` of the last item does,
    while `more` is true. `links`: at `next` stands the address of the next request, or a list of `{rel, href}` of which
    the one with `rel` next is it. `none`: there is one page. A cursor that the vendor forgets after `expires_s` is not
    used beyond that.
    """

    kind: Literal["cursor", "last_id", "links", "none"]
    next: Pointer = ""
    id: Pointer = ""
    more: Pointer = ""
    expires_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _has_its_pointers(self) -> Self:
        needed = {"cursor": ("next",), "last_id": ("id", "more"), "links": ("next",), "none": ()}[self.kind]
        if any(not getattr(self, name) for name in needed):
            raise ValueError(f"paging by {self.kind} needs {' and '.join(needed)}")
        return self


class EventTemplate(Strict):
    """How an object of a list becomes the delivery that its vendor would have sent.

    `values` are pointers into the object; `way1`, `way2`, … are the keys that the stars of the feed's `items` stood
    for. Its id must follow from the object and its version alone, so that it is the same whenever it is read.
    """

    values: dict[Name, Pointer] = Field(default_factory=dict)
    maps: dict[str, dict[str, Scalar]] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    body: Any


class FeedSpec(Strict):
    """One feed of a provider: a log of the events that it sent (`events`), or a list of what changed (`objects`).

    The request may name `{since}`, `{until}`, `{page?}` and `{page_size}`. `items` points at the list, with `*` for
    the keys or elements on the way. `items_optional` says that the vendor leaves an empty list out. The provider keeps
    what is asked for `retention_h`, and it may take `lag_s` until it is there. An answer with `cap` items may be cut
    off. `enable` is a request that must have been made before the vendor keeps anything. `calls_per_day` is our budget
    for one connection.
    """

    name: Name
    kind: Literal["events", "objects"]
    source: Documented
    request: RequestTemplate
    items: Pointer
    items_optional: bool = False
    event: EventTemplate | None = None
    paging: Paging
    retention_h: float = Field(gt=0)
    lag_s: float = Field(default=120, ge=0, le=86_400)
    page_size: int = Field(default=100, ge=1, le=10_000)
    cap: int | None = Field(default=None, ge=1)
    calls_per_day: int = Field(default=500, ge=24)
    timeout_s: float = Field(default=20, gt=0, le=60)
    quota: str = Field(default="", pattern=r"^[a-z0-9_.-]*$")
    scopes: tuple[str, ...] = ()
    enable: RequestTemplate | None = None
    note: str = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.kind == "objects") != (self.event is not None):
            raise ValueError("a feed of objects has an event template, and one of events has not")
        if "since" not in _names(self.request):
            raise ValueError("the request of a feed names {since}")
        if self.paging.kind in {"cursor", "last_id"} and "page" not in _names(self.request):
            raise ValueError("paging by cursor or last_id needs {page?} in the request")
        return self

    @property
    def bounded(self) -> bool:
        """Whether the request says where the window ends, so that a window can be split."""
        return "until" in _names(self.request)


class SubscriptionAnswer(Strict):
    """Where an answer, or an entry of the inventory, says what a subscription is; times as `expires_format` says."""

    id: Pointer = ""
    url: Pointer = ""
    expires: Pointer = ""
    expires_format: Literal["rfc3339", "unix", "unix_ms"] = "rfc3339"
    more: dict[Name, Pointer] = Field(default_factory=dict)


class Inventory(Strict):
    """The list of what is registered at the provider: one page, or several by `paging`."""

    request: RequestTemplate
    items: Pointer
    items_optional: bool = False
    paging: Paging = Paging(kind="none")


class SubscriptionSpec(Strict):
    """One kind of webhook or watch that is registered by API.

    Requests may name `{url}` (where to send to), `{secret}` (what our endpoint verifies with), `{id}` (a name of our
    choice), `{expires}` (when it shall end), `{ext_id}` (the vendor's id), `{more.name}` (what `answer.more` read), and
    `{parameter.name}`. `parameters` are what an operator has to say, with the pattern of each. Without `renew` a
    subscription is renewed by making another one before it ends; one without `lifetime_s` does not end.
    """

    name: Name
    source: Documented
    parameters: dict[Name, str] = Field(default_factory=dict)
    lifetime_s: float | None = Field(default=None, gt=60)
    answer: SubscriptionAnswer
    create: RequestTemplate
    renew: RequestTemplate | None = None
    delete: RequestTemplate | None = None
    list: Inventory | None = None
    timeout_s: float = Field(default=20, gt=0, le=60)
    scopes: tuple[str, ...] = ()
    note: str = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.lifetime_s is None and self.renew is not None:
            raise ValueError("what does not end is not renewed")
        if self.list is not None and not (self.answer.id and self.answer.url):
            raise ValueError("an inventory needs answer.id and answer.url")
        if not self.answer.id and "id" not in _names(self.create):
            raise ValueError("a subscription has answer.id, or an {id} of our choice")
        return self


def _names(template: RequestTemplate) -> set[str]:
    parts = (template.path, template.query, template.headers, template.json_body, template.form, template.text)
    return set().union(*(names_in(part) for part in parts if part is not None))
