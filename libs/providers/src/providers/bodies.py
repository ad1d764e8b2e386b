"""Bodies that are neither JSON nor an ordinary form: multipart fields, and XML without anything that could expand.

Must never follow an entity, keep a file part, or raise anything but `Invalid` for what a stranger sent.
"""

from __future__ import annotations

from email.errors import MessageError
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Final
from xml.parsers import expat

from contracts.errors import Invalid

# Documents of callbacks are shallow; a deep one is made to exhaust whoever walks it.
MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 20_000


def multipart_fields(body: bytes, content_type: str, max_fields: int) -> dict[str, str]:
    """Return the text fields of a `multipart/form-data` body, the last one of a name; files are left out.

    Raises `Invalid` (`undecodable_body`).
    """
    head = b"Content-Type: " + content_type.encode("latin-1", "replace") + b"\r\n\r\n"
    try:
        message = BytesParser(_class=EmailMessage, policy=HTTP).parsebytes(head + body)
        parts = list(message.iter_parts())
        if not message.is_multipart() or len(parts) > max_fields:
            raise _unreadable("the body is no multipart form")
        fields: dict[str, str] = {}
        for part in parts:
            name = part.get_param("name", header="content-disposition")
            if isinstance(name, str) and part.get_filename() is None:
                data = part.get_payload(decode=True)
                fields[name] = data.decode() if isinstance(data, bytes) else ""
    except (MessageError, ValueError, LookupError, AttributeError, TypeError, IndexError):
        # The stdlib parser raises all of these for headers that nobody would write.
        raise _unreadable("the body is no multipart form") from None
    return fields


def xml_document(body: bytes) -> dict[str, Any]:
    """Return XML as nested objects by local name: text for a leaf, a list where a name is repeated.

    Raises `Invalid` (`undecodable_body`), also for any document type declaration: it could define entities.
    """
    builder = _Builder()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = builder.doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError):
        raise _unreadable("the body is no XML") from None
    return builder.root


class _Builder:
    def __init__(self) -> None:
        self.root: dict[str, Any] = {}
        self._open: list[tuple[str, dict[str, Any], list[str]]] = [("", self.root, [])]
        self._count = 0

    def doctype(self, *_: object) -> None:
        raise _unreadable("a document type is declared")

    def start(self, name: str, _attributes: object) -> None:
        self._count += 1
        if len(self._open) > MAX_DEPTH or self._count > MAX_ELEMENTS:
            raise _unreadable("the body is too deep or has too many elements")
        self._open.append((name.rpartition(" ")[2], {}, []))

    def text(self, data: str) -> None:
        self._open[-1][2].append(data)

    def end(self, _name: str) -> None:
        name, children, texts = self._open.pop()
        value: Any = children or "".join(texts).strip()
        siblings = self._open[-1][1]
        if name not in siblings:
            siblings[name] = value
        elif isinstance(siblings[name], list):
            siblings[name].append(value)
        else:
            siblings[name] = [siblings[name], value]


def _unreadable(detail: str) -> Invalid:
    return Invalid("undecodable_body", detail, field="/")
