"""Operations on things: stock, documents, pages, measurements, reports."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from contracts.events.base import Currency
from contracts.operations.base import Amount, Arguments, Line, Moment, Reference, Text, personal

Base64 = Annotated[str, Field(min_length=1, max_length=1_400_000, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
Path = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9_./-]+$")]


class ItemUpsert(Arguments):
    """Put an article on sale, or change it: `item` is the provider's id of one that exists."""

    OPERATION: ClassVar[str] = "item.upsert"
    CAPABILITY: ClassVar[str] = "catalog"

    item: Reference | None = None
    version: int | None = None
    sku: Reference
    name: Line
    price: Amount
    currency: Currency


class StockAdjust(Arguments):
    """Change how much of an article a location has; `delta` may be negative."""

    OPERATION: ClassVar[str] = "stock.adjust"
    CAPABILITY: ClassVar[str] = "catalog"

    item: Reference
    location: Reference
    delta: Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
    at: Moment


class DocumentPut(Arguments):
    """Store a document under a path, replacing one that is there; `content` is base64, a mebibyte at most."""

    OPERATION: ClassVar[str] = "document.put"
    CAPABILITY: ClassVar[str] = "documents"

    path: Path
    content: Base64 = personal()
    content_type: Line = "application/octet-stream"


class DocumentGet(Arguments):
    """Read what is known of a document, and its content where the provider gives it."""

    OPERATION: ClassVar[str] = "document.get"
    CAPABILITY: ClassVar[str] = "documents"
    WRITES: ClassVar[bool] = False

    path: Path


class DocumentDelete(Arguments):
    """Remove a document; one that is not there is removed already."""

    OPERATION: ClassVar[str] = "document.delete"
    CAPABILITY: ClassVar[str] = "documents"

    path: Path


class PageCreate(Arguments):
    """Write a page below another one."""

    OPERATION: ClassVar[str] = "page.create"
    CAPABILITY: ClassVar[str] = "pages"

    parent: Reference
    title: Line
    text: Text = personal()


class FormRead(Arguments):
    """Read the first page of answers to a form."""

    OPERATION: ClassVar[str] = "form.read"
    CAPABILITY: ClassVar[str] = "forms"
    WRITES: ClassVar[bool] = False

    form: Reference


class WeatherRead(Arguments):
    """Read the weather at a place now, in metric units."""

    OPERATION: ClassVar[str] = "weather.read"
    CAPABILITY: ClassVar[str] = "weather"
    WRITES: ClassVar[bool] = False

    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]


class EventTrack(Arguments):
    """Count something that a visitor did; `client` is the visitor's pseudonym at the provider."""

    OPERATION: ClassVar[str] = "event.track"
    CAPABILITY: ClassVar[str] = "analytics"

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]
    client: Reference = personal()
    at: Moment
    value: Amount | None = None
    currency: Currency | None = None


class QueryRun(Arguments):
    """Run a query that changes nothing and read its first rows."""

    OPERATION: ClassVar[str] = "query.run"
    CAPABILITY: ClassVar[str] = "warehouse"
    WRITES: ClassVar[bool] = False

    query: Text


class DatasetRefresh(Arguments):
    """Have a report's data read anew."""

    OPERATION: ClassVar[str] = "dataset.refresh"
    CAPABILITY: ClassVar[str] = "reports"

    dataset: Reference


class ReportRead(Arguments):
    """Read a report, a list of reviews or campaigns: the first page."""

    OPERATION: ClassVar[str] = "report.read"
    CAPABILITY: ClassVar[str] = "reports"
    WRITES: ClassVar[bool] = False

    report: Reference


class TextComplete(Arguments):
    """Have a language model write a text; the prompt holds aggregates only, never a person's data."""

    OPERATION: ClassVar[str] = "text.complete"
    CAPABILITY: ClassVar[str] = "language"
    WRITES: ClassVar[bool] = False

    prompt: Text
    max_tokens: Annotated[int, Field(ge=1, le=8_192)] = 512
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    format: Literal["text", "json"] = "text"


class NotificationPublish(Arguments):
    """Publish a message to a topic of a notification service."""

    OPERATION: ClassVar[str] = "notification.publish"
    CAPABILITY: ClassVar[str] = "notifications"

    topic: Reference
    subject: Line | None = None
    text: Text = personal()
