"""Operations around people: messages, appointments, contacts, tickets, signatures."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from contracts.operations.base import Arguments, Line, Moment, Reference, Text, Zone, personal


class MessageSend(Arguments):
    """Send a text message; `reference` is a short token inside `text` by which a look-up finds it."""

    OPERATION: ClassVar[str] = "message.send"
    CAPABILITY: ClassVar[str] = "messaging.sms"

    recipient: Line = personal(description="phone number, E.164")
    text: Text = personal(description="the message, with `reference` somewhere inside")
    reference: Reference = Field(description="a short token by which a look-up finds the message")


class EmailSend(Arguments):
    """Send an e-mail as plain text; without `sender` the connection's own."""

    OPERATION: ClassVar[str] = "email.send"
    CAPABILITY: ClassVar[str] = "messaging.email"

    recipient: Line = personal(description="e-mail address")
    subject: Line = personal(description="the subject line")
    text: Text = personal(description="the message as plain text")
    sender: Line | None = Field(default=None, description="the sender's address; without it, the connection's own")


class ChatPost(Arguments):
    """Post a message to a channel of a chat."""

    OPERATION: ClassVar[str] = "chat.post"
    CAPABILITY: ClassVar[str] = "messaging.chat"

    channel: Reference = Field(description="the provider's id of the channel")
    text: Text = personal(description="what it says")


class _Slot(Arguments):
    """A stretch of time in a calendar."""

    start: Moment = Field(description="instant at which it begins")
    end: Moment = Field(description="instant at which it ends, after `start`")
    zone: Zone = Field(default="UTC", description="IANA time zone to show it in")

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> _Slot:
        if self.end <= self.start:
            raise ValueError("end is not after start")
        return self


class CalendarHold(_Slot):
    """Keep a time free, tentatively."""

    OPERATION: ClassVar[str] = "calendar.hold"
    CAPABILITY: ClassVar[str] = "calendar"

    calendar: Reference = Field(default="primary", description="the provider's id of the calendar")
    title: Line = personal(description="what it is called")
    description: Text | None = personal(None, description="what stands below the title")


class CalendarConfirm(Arguments):
    """Make a held time a firm one."""

    OPERATION: ClassVar[str] = "calendar.confirm"
    CAPABILITY: ClassVar[str] = "calendar"

    calendar: Reference = Field(default="primary", description="the provider's id of the calendar")
    event: Reference = Field(description="the provider's id of the event")


class CalendarMove(_Slot):
    """Move an event to another time."""

    OPERATION: ClassVar[str] = "calendar.move"
    CAPABILITY: ClassVar[str] = "calendar"

    calendar: Reference = Field(default="primary", description="the provider's id of the calendar")
    event: Reference = Field(description="the provider's id of the event")


class CalendarCancel(Arguments):
    """Take an event out of a calendar."""

    OPERATION: ClassVar[str] = "calendar.cancel"
    CAPABILITY: ClassVar[str] = "calendar"

    calendar: Reference = Field(default="primary", description="the provider's id of the calendar")
    event: Reference = Field(description="the provider's id of the event")


class BookingCreate(_Slot):
    """Book a service for a customer, at a location or with a member of the team."""

    OPERATION: ClassVar[str] = "booking.create"
    CAPABILITY: ClassVar[str] = "booking"

    service: Reference = Field(description="the provider's id of the service")
    service_version: int | None = Field(
        default=None, description="the version of the service that was seen, where the provider asks for it"
    )
    location: Reference | None = Field(default=None, description="the provider's id of the location")
    staff: Reference | None = Field(default=None, description="the provider's id of the member of the team")
    customer: Reference | None = Field(default=None, description="the provider's id of the customer")
    name: Line | None = personal(None, description="the person's name")
    email: Line | None = personal(None, description="the person's e-mail address")


class BookingCancel(Arguments):
    """Cancel a booking; `version` where the provider wants to know which state was seen."""

    OPERATION: ClassVar[str] = "booking.cancel"
    CAPABILITY: ClassVar[str] = "booking"

    booking: Reference = Field(description="the provider's id of the booking")
    version: int | None = Field(
        default=None, description="the version of the booking that was seen, where the provider asks for it"
    )
    reason: Line | None = Field(default=None, description="why, for the customer")


class MeetingCreate(_Slot):
    """Set up an online meeting."""

    OPERATION: ClassVar[str] = "meeting.create"
    CAPABILITY: ClassVar[str] = "meetings"

    title: Line = personal(description="what it is called")

    @property
    def minutes(self) -> int:
        """The length in whole minutes."""
        return int((self.end - self.start).total_seconds() // 60)


class ContactUpsert(Arguments):
    """Make a contact known to a CRM, or bring it up to date: the e-mail address tells which."""

    OPERATION: ClassVar[str] = "contact.upsert"
    CAPABILITY: ClassVar[str] = "crm"

    email: Line = personal(description="e-mail address; it tells which contact")
    first_name: Line | None = personal(None, description="the person's first name")
    last_name: Line | None = personal(None, description="the person's last name")
    phone: Line | None = personal(None, description="the person's phone number, E.164")
    company: Line | None = Field(default=None, description="name of the company")


class NoteAdd(Arguments):
    """Add a note to a contact."""

    OPERATION: ClassVar[str] = "note.add"
    CAPABILITY: ClassVar[str] = "crm"

    contact: Reference = Field(description="the provider's id of the contact")
    text: Text = personal(description="what it says")
    at: Moment = Field(description="instant at which it happened")


class DealMove(Arguments):
    """Move a deal to another stage of its pipeline."""

    OPERATION: ClassVar[str] = "deal.move"
    CAPABILITY: ClassVar[str] = "crm"

    deal: Reference = Field(description="the provider's id of the deal")
    stage: Line = Field(description="the stage, in the provider's own words")


class TicketCreate(Arguments):
    """Open a ticket or an issue in a project, queue or repository."""

    OPERATION: ClassVar[str] = "ticket.create"
    CAPABILITY: ClassVar[str] = "tickets"

    project: Reference | None = Field(
        default=None, description="the project, queue or repository, in the provider's own words"
    )
    title: Line = Field(description="what it is called")
    text: Text = personal(description="what it says")
    requester: Line | None = personal(None, description="e-mail address of whoever asks")


class AlertTrigger(Arguments):
    """Wake somebody up; alerts with the same `alias` are one."""

    OPERATION: ClassVar[str] = "alert.trigger"
    CAPABILITY: ClassVar[str] = "alerting"

    alias: Reference = Field(description="name of the alert; alerts with the same one are one")
    title: Line = Field(description="what it is called")
    source: Line = Field(default="patchbay", description="where it comes from")
    severity: Literal["critical", "error", "warning", "info"] = Field(default="critical", description="how bad it is")


class AlertResolve(Arguments):
    """Say that an alert is over."""

    OPERATION: ClassVar[str] = "alert.resolve"
    CAPABILITY: ClassVar[str] = "alerting"

    alias: Reference = Field(description="name that the alert was triggered with")


class SignatureRequest(Arguments):
    """Ask somebody to sign a document; its content is base64."""

    OPERATION: ClassVar[str] = "signature.request"
    CAPABILITY: ClassVar[str] = "signatures"

    subject: Line = Field(description="subject of the mail to the signer")
    document_name: Line = Field(description="file name of the document")
    content: Annotated[str, Field(min_length=1, max_length=14_000_000, pattern=r"^[A-Za-z0-9+/]+={0,2}$")] = personal(
        description="the document, in base64"
    )
    signer_name: Line = personal(description="the signer's name")
    signer_email: Line = personal(description="the signer's e-mail address")


class EmployeeList(Arguments):
    """Read the first page of a company's employees."""

    OPERATION: ClassVar[str] = "employee.list"
    CAPABILITY: ClassVar[str] = "payroll"
    WRITES: ClassVar[bool] = False
