"""Failures whose class states the consumer loop's next move.

`Invalid` goes to the dead-letter topic at once, `Transient` to a delayed retry, `Terminal` ends the unit of work with a
reason; any other exception gets bounded retries and then a dead letter (design README §3, "Failure words").
"""

from __future__ import annotations

from collections.abc import Sequence


class PatchbayError(Exception):
    """Base of every expected failure.

    `code` is stable, lower_snake_case and safe to show to a caller; `detail` explains it to a person and never holds a
    secret or personal datum.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Invalid(PatchbayError):  # noqa: N818 (a failure word of the design, not an *Error)
    """The message itself is wrong and will never succeed: dead-letter it with the reason.

    `field` is the JSON path of the offending field, when there is one. `errors` are all of them with the rule that each
    breaks, where several were found at once; `detail` then begins with the first.
    """

    def __init__(
        self, code: str, detail: str, *, field: str | None = None, errors: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(code, detail)
        self.field = field
        self.errors = tuple(errors) or (((field, detail),) if field else ())


class Transient(PatchbayError):  # noqa: N818
    """The outside world is not ready: try again later, without counting against the message.

    `retry_after_s` is the wait in seconds that the other side asked for, if it did.
    """

    def __init__(self, code: str, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(code, detail)
        self.retry_after_s = retry_after_s


class Terminal(PatchbayError):  # noqa: N818
    """The operation was understood and refused; retrying the same request cannot help."""
