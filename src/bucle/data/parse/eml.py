"""E-mail: who wrote what to whom, the body in any encoding, and the attachments that can be read."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.html import page_blocks, parse_tree
from bucle.data.parse.inner import MAX_DEPTH, inner_blocks, inner_name, note
from bucle.data.parse.source import Raw, decode, tidy

__all__ = ["message_blocks", "read"]

MAX_PARTS = 100


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Subject and blocks of an .eml. Attachments follow the body as blocks placed `attachment NAME, page 3`.

    An attached message is read like any other attachment. What cannot be read is a note that says why; pictures are
    passed over.
    """
    return message_blocks(raw.data, raw)


def message_blocks(data: bytes, raw: Raw) -> tuple[str, list[Block]]:
    """Subject and blocks of the message in `data`, which stands in `raw`."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not isinstance(message, EmailMessage) or not message.keys():
        raise Quarantined("corrupt", "The file has no e-mail header.")
    return _message(message, raw)


def _message(message: EmailMessage, raw: Raw) -> tuple[str, list[Block]]:
    head = [f"{name}: {_header(message, name)}" for name in ("From", "To", "Date", "Subject") if _header(message, name)]
    blocks = [Block(text="\n".join(head), place="header")] if head else []
    body = _body(message)
    if body is not None:
        blocks += _body_blocks(body)
    for count, (part, other) in enumerate(_parts(message)):
        if count >= MAX_PARTS:
            blocks.append(Block(text=note("message", Quarantined("too-large", "It has more parts.")), kind="notes"))
            break
        if part.get_content_type() == "message/rfc822":
            blocks += _attached(part, raw)
        elif part is not body and part.get_filename():
            blocks += _attachment(part, raw)
        elif part is not body and not other and part.get_content_maintype() == "text":
            blocks += _body_blocks(part)
    return _header(message, "Subject"), blocks


def _parts(message: EmailMessage, other: bool = False) -> Iterator[tuple[EmailMessage, bool]]:
    """The parts of a message, not those of messages attached to it, and whether each is one of several versions."""
    stack = [(message, other)]
    while stack:
        part, version = stack.pop()
        inner = part.get_payload() if part.get_content_maintype() == "multipart" else None
        if isinstance(inner, list):
            version = version or part.get_content_type() == "multipart/alternative"
            stack += [(one, version) for one in reversed(inner) if isinstance(one, EmailMessage)]
        else:
            yield part, version


def _attached(part: EmailMessage, raw: Raw) -> list[Block]:
    """The blocks of a message attached to another, placed `attachment SUBJECT, body` and the like."""
    inner = part.get_payload()
    found = inner[0] if isinstance(inner, list) and inner else None
    if not isinstance(found, EmailMessage):
        return inner_blocks(_bytes(part), inner_name(str(part.get_filename() or "message.eml")), raw, "attachment")
    name = inner_name(str(part.get_filename() or "")) or _header(found, "Subject")[:80] or "message"
    if raw.depth >= MAX_DEPTH:
        refused = Quarantined("too-large", "It stands too deep inside other files.")
        return [Block(text=note(name, refused), place=f"attachment {name}", kind="notes")]
    _, blocks = _message(found, replace(raw, depth=raw.depth + 1))
    return [block.model_copy(update={"place": f"attachment {name}, {block.place}".rstrip(", ")}) for block in blocks]


def _header(message: EmailMessage, name: str) -> str:
    try:
        return tidy(" ".join(str(message.get(name, "")).split()))
    except (
        ValueError,
        LookupError,
        IndexError,
        AttributeError,
    ):  # the header parser fails on some malformed headers
        return ""


def _body(message: EmailMessage) -> EmailMessage | None:
    best = message.get_body(preferencelist=("plain", "html"))
    return best if isinstance(best, EmailMessage) else None


def _bytes(part: EmailMessage) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _body_blocks(part: EmailMessage) -> list[Block]:
    data = _bytes(part)
    try:
        text = data.decode(part.get_content_charset() or "ascii")
    except (LookupError, UnicodeDecodeError):
        text = decode(data)
    if part.get_content_type() == "text/html":
        return page_blocks(parse_tree(text.encode()), prefix="body, ") if text.strip() else []
    paragraphs = [tidy(paragraph) for paragraph in text.replace("\r\n", "\n").split("\n\n")]
    return [Block(text=paragraph, place="body") for paragraph in paragraphs if paragraph]


def _attachment(part: EmailMessage, raw: Raw) -> list[Block]:
    name = inner_name(str(part.get_filename())).rsplit("/", 1)[-1]
    if part.get_content_maintype() in ("image", "audio", "video"):
        return []
    return inner_blocks(_bytes(part), name, raw, f"attachment {name}")
