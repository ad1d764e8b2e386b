"""Operations around people: messages, appointments, contacts, tickets, signatures."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from contracts.operations.base import Arguments, Line, Moment, Reference, Text, Zone, personal


class MessageSend(Arguments):
    """Send a text message; `reference` is a short token inside `text` by which a look-up finds it."""

    OPERATION: ClassVar[str] = "message.send"
    CAPABILITY: ClassVar[str] = "messaging.sms"

    recipient: Line = personal()
    text: Text = personal()
    reference: Reference


class EmailSend(Arguments):
    """Send an e-mail as plain text; without `sender` the connection's own."""

    OPERATION: ClassVar[str] = "email.send"
    CAPABILITY: ClassVar[str] = "messaging.email"

    recipient: Line = personal()
    subject: Line = personal()
    text: Text = personal()
    sender: Line | None = None


class ChatPost(Arguments):
    """Post a message to a channel of a chat."""

    OPERATION: ClassVar[str] = "chat.post"
    CAPABILITY: ClassVar[str] = "messaging.chat"

    channel: Reference
    text: Text = personal()


class _Slot(Arguments):
    """A stretch of time in a calendar."""

    start: Moment
    end: Moment
    zone: Zone = "UTC"

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> _Slot:
        if self.end <= self.start:
            raise ValueError("end is not after start")
        return self


class CalendarHold(_Slot):
    """Keep a time free, tentatively."""

    OPERATION: ClassVar[str] = "calendar.hold"
    CAPABILITY: ClassVar[str] = "calendar"

    calendar: Reference = "primary"
    title: Line = personal()
    description: Text | None = personal(None)


class CalendarConfirm(Arguments):
    """Make a held time a firm one."""

    OPERATION: ClassVar[str] = "calendar.confirm"
    CAPABILITY: ClassVar[str] = "calendar"

    calendar: Reference = "primary"
    event: Reference


class CalendarMove(_Slot):
    """Move an event to another time."""

    OPERATION: ClassVar[str] = "calendar.move"
    CAPABILITY: ClassVar[str] = "calendar"

    calendar: Reference = "primary"
    event: Reference


class CalendarCancel(Arguments):
    """Take an event out of a calendar."""

    OPERATION: ClassVar[str] = "calendar.cancel"
    CAPABILITY: ClassVar[str] = "calendar"

    calendar: Reference = "primary"
    event: Reference


class BookingCreate(_Slot):
    """Book a service for a customer, at a location or with a member of the team."""

    OPERATION: ClassVar[str] = "booking.create"
    CAPABILITY: ClassVar[str] = "booking"

    service: Reference
    service_version: int | None = None
    location: Reference | None = None
    staff: Reference | None = None
    customer: Reference | None = None
    name: Line | None = personal(None)
    email: Line | None = personal(None)


class BookingCancel(Arguments):
    """Cancel a booking; `version` where the provider wants to know which state was seen."""

    OPERATION: ClassVar[str] = "booking.cancel"
    CAPABILITY: ClassVar[str] = "booking"

    booking: Reference
    version: int | None = None
    reason: Line | None = None


class MeetingCreate(_Slot):
    """Set up an online meeting."""

    OPERATION: ClassVar[str] = "meeting.create"
    CAPABILITY: ClassVar[str] = "meetings"

    title: Line = personal()

    @property
    def minutes(self) -> int:
        """The length in whole minutes."""
        return int((self.end - self.start).total_seconds() // 60)


class ContactUpsert(Arguments):
    """Make a contact known to a CRM, or bring it up to date: the e-mail address tells which."""

    OPERATION: ClassVar[str] = "contact.upsert"
    CAPABILITY: ClassVar[str] = "crm"

    email: Line = personal()
    first_name: Line | None = personal(None)
    last_name: Line | None = personal(None)
    phone: Line | None = personal(None)
    company: Line | None = None


class NoteAdd(Arguments):
    """Add a note to a contact."""

    OPERATION: ClassVar[str] = "note.add"
    CAPABILITY: ClassVar[str] = "crm"

    contact: Reference
    text: Text = personal()
    at: Moment


class DealMove(Arguments):
    """Move a deal to another stage of its pipeline."""

    OPERATION: ClassVar[str] = "deal.move"
    CAPABILITY: ClassVar[str] = "crm"

    deal: Reference
    stage: Line


class TicketCreate(Arguments):
    """Open a ticket or an issue in a project, queue or repository."""

    OPERATION: ClassVar[str] = "ticket.create"
    CAPABILITY: ClassVar[str] = "tickets"

    project: Reference | None = None
    title: Line
    text: Text = personal()
    requester: Line | None = personal(None)


class AlertTrigger(Arguments):
    """Wake somebody up; alerts with the same `alias` are one."""

    OPERATION: ClassVar[str] = "alert.trigger"
    CAPABILITY: ClassVar[str] = "alerting"

    alias: Reference
    title: Line
    source: Line = "patchbay"
    severity: Literal["critical", "error", "warning", "info"] = "critical"


class AlertResolve(Arguments):
    """Say that an alert is over."""

    OPERATION: ClassVar[str] = "alert.resolve"
    CAPABILITY: ClassVar[str] = "alerting"

    alias: Reference


class SignatureRequest(Arguments):
    """Ask somebody to sign a document; its content is base64."""

    OPERATION: ClassVar[str] = "signature.request"
    CAPABILITY: ClassVar[str] = "signatures"

    subject: Line
    document_name: Line
    content: Annotated[str, Field(min_length=1, max_length=14_000_000, pattern=r"^[A-Za-z0-9+/]+={0,2}$")] = personal()
    signer_name: Line = personal()
    signer_email: Line = personal()


class EmployeeList(Arguments):
    """Read the first page of a company's employees."""

    OPERATION: ClassVar[str] = "employee.list"
    CAPABILITY: ClassVar[str] = "payroll"
    WRITES: ClassVar[bool] = False
