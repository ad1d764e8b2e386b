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

    item: Reference | None = Field(
        default=None, description="the provider's id of one that exists; without it, a new one"
    )
    version: int | None = Field(default=None, description="the version that was seen, where the provider asks for it")
    sku: Reference = Field(description="our own number of the article")
    name: Line = Field(description="what it is called")
    price: Amount = Field(description="in the currency's minor unit")
    currency: Currency = Field(description="ISO 4217 code")


class StockAdjust(Arguments):
    """Change how much of an article a location has; `delta` may be negative."""

    OPERATION: ClassVar[str] = "stock.adjust"
    CAPABILITY: ClassVar[str] = "catalog"

    item: Reference = Field(description="the provider's id of the article")
    location: Reference = Field(description="the provider's id of the location")
    delta: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = Field(description="how many more; negative for fewer")
    at: Moment = Field(description="instant of the count")


class DocumentPut(Arguments):
    """Store a document under a path, replacing one that is there; `content` is base64, a mebibyte at most."""

    OPERATION: ClassVar[str] = "document.put"
    CAPABILITY: ClassVar[str] = "documents"

    path: Path = Field(description="where it lies, below the account's own place")
    content: Base64 = personal(description="the document, in base64, a mebibyte at most")
    content_type: Line = Field(default="application/octet-stream", description="its media type")


class DocumentGet(Arguments):
    """Read what is known of a document, and its content where the provider gives it."""

    OPERATION: ClassVar[str] = "document.get"
    CAPABILITY: ClassVar[str] = "documents"
    WRITES: ClassVar[bool] = False

    path: Path = Field(description="where it lies, below the account's own place")


class DocumentDelete(Arguments):
    """Remove a document; one that is not there is removed already."""

    OPERATION: ClassVar[str] = "document.delete"
    CAPABILITY: ClassVar[str] = "documents"

    path: Path = Field(description="where it lies, below the account's own place")


class PageCreate(Arguments):
    """Write a page below another one."""

    OPERATION: ClassVar[str] = "page.create"
    CAPABILITY: ClassVar[str] = "pages"

    parent: Reference = Field(description="the provider's id of the page above it")
    title: Line = Field(description="what it is called")
    text: Text = personal(description="what it says")


class FormRead(Arguments):
    """Read the first page of answers to a form."""

    OPERATION: ClassVar[str] = "form.read"
    CAPABILITY: ClassVar[str] = "forms"
    WRITES: ClassVar[bool] = False

    form: Reference = Field(description="the provider's id of the form")


class WeatherRead(Arguments):
    """Read the weather at a place now, in metric units."""

    OPERATION: ClassVar[str] = "weather.read"
    CAPABILITY: ClassVar[str] = "weather"
    WRITES: ClassVar[bool] = False

    latitude: Annotated[float, Field(ge=-90, le=90)] = Field(description="degrees, north is positive")
    longitude: Annotated[float, Field(ge=-180, le=180)] = Field(description="degrees, east is positive")


class EventTrack(Arguments):
    """Count something that a visitor did; `client` is the visitor's pseudonym at the provider."""

    OPERATION: ClassVar[str] = "event.track"
    CAPABILITY: ClassVar[str] = "analytics"

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")] = Field(
        description="what happened, in letters, digits and underscores"
    )
    client: Reference = personal(description="the visitor's pseudonym at the provider")
    at: Moment = Field(description="instant at which it happened")
    value: Amount | None = Field(default=None, description="what it was worth, in the currency's minor unit")
    currency: Currency | None = Field(default=None, description="ISO 4217 code, beside `value`")


class QueryRun(Arguments):
    """Run a query that changes nothing and read its first rows."""

    OPERATION: ClassVar[str] = "query.run"
    CAPABILITY: ClassVar[str] = "warehouse"
    WRITES: ClassVar[bool] = False

    query: Text = Field(description="the query, in the provider's own language")


class DatasetRefresh(Arguments):
    """Have a report's data read anew."""

    OPERATION: ClassVar[str] = "dataset.refresh"
    CAPABILITY: ClassVar[str] = "reports"

    dataset: Reference = Field(description="the provider's id of the dataset")


class ReportRead(Arguments):
    """Read a report, a list of reviews or campaigns: the first page."""

    OPERATION: ClassVar[str] = "report.read"
    CAPABILITY: ClassVar[str] = "reports"
    WRITES: ClassVar[bool] = False

    report: Reference = Field(description="the provider's id of the report, account or list")


class TextComplete(Arguments):
    """Have a language model write a text; the prompt holds aggregates only, never a person's data."""

    OPERATION: ClassVar[str] = "text.complete"
    CAPABILITY: ClassVar[str] = "language"
    WRITES: ClassVar[bool] = False

    prompt: Text = Field(description="what is asked; never a person's data")
    max_tokens: Annotated[int, Field(ge=1, le=8_192)] = Field(default=512, description="greatest length of the answer")
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(default=0.0, description="how free it may be")
    format: Literal["text", "json"] = Field(default="text", description="whether the answer is JSON")


class NotificationPublish(Arguments):
    """Publish a message to a topic of a notification service."""

    OPERATION: ClassVar[str] = "notification.publish"
    CAPABILITY: ClassVar[str] = "notifications"

    topic: Reference = Field(description="the provider's id of the topic")
    subject: Line | None = Field(default=None, description="the subject line")
    text: Text = personal(description="what it says")
