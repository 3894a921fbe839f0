"""E-mail: who wrote what to whom, the body in any encoding, and the attachments that can be read."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.html import page_blocks, parse_tree
from bucle.data.parse.inner import inner_blocks, inner_name
from bucle.data.parse.source import Raw, decode, tidy

__all__ = ["message_blocks", "read"]

MAX_PARTS = 100


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Subject and blocks of an .eml. Attachments follow the body as blocks placed `attachment NAME, page 3`.

    An attachment that cannot be read is a note that says why; pictures are passed over.
    """
    return message_blocks(raw.data, raw)


def message_blocks(data: bytes, raw: Raw) -> tuple[str, list[Block]]:
    """Subject and blocks of the message in `data`, which stands in `raw`."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not isinstance(message, EmailMessage) or not message.keys():
        raise Quarantined("corrupt", "The file has no e-mail header.")
    head = [f"{name}: {_header(message, name)}" for name in ("From", "To", "Date", "Subject") if _header(message, name)]
    blocks = [Block(text="\n".join(head), place="header")] if head else []
    body = _body(message)
    if body is not None:
        blocks += _body_blocks(body)
    for count, part in enumerate(message.walk()):
        if count > MAX_PARTS:
            break
        if part is not body and not part.is_multipart() and part.get_filename():
            blocks += _attachment(part, raw)
    return _header(message, "Subject"), blocks


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
