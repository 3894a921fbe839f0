"""Zip archives: of documents, a Slack export, or a WhatsApp chat with its pictures. Nothing is written to disk."""

from __future__ import annotations

import re
import zipfile

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.inner import inner_blocks, inner_name, is_media, note
from bucle.data.parse.safety import open_zip
from bucle.data.parse.slack import people, read_day
from bucle.data.parse.source import MAX_TEXT, Raw

__all__ = ["read"]

_DAY = re.compile(r"(?P<channel>[^/]+)/(?P<day>\d{4}-\d{2}-\d{2})\.json")


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Blocks of every document in a .zip, each placed `file NAME, page 3`; an archive in it is opened, one in that not.

    A Slack export is read channel by channel (`channel NAME, date D`). Pictures, sounds and hidden files are passed
    over; a file that cannot be read is a note that says why. Raises Quarantined where none can be, with the first
    one's reason.
    """
    with open_zip(raw.data, raw.password) as archive:
        entries = {name: entry for entry in archive.infolist() if (name := _wanted(entry))}
        days = {name: found for name in entries if (found := _DAY.fullmatch(name))}
        if "users.json" in entries and days:
            return "", _slack(archive, entries, days)
        blocks: list[Block] = []
        for name in sorted(entries):
            try:
                data = archive.read(entries[name])
            except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
                blocks.append(_unread(name, Quarantined("corrupt", "It is damaged inside the archive."), error))
                continue
            blocks += inner_blocks(data, name, raw, f"file {name}")
            if sum(len(block.text) for block in blocks) > MAX_TEXT:
                raise Quarantined("too-large", f"The archive holds over {MAX_TEXT:,} characters.")
    if blocks and all(block.kind == "notes" and ": not read, " in block.text for block in blocks):
        reason = blocks[0].text.split(": not read, ", 1)[1].split(".", 1)[0]
        raise Quarantined(reason, f"No file in the archive can be read. {blocks[0].text.strip('[]')}")
    texts = {block.place.split(", ")[0] for block in blocks}
    if len(texts) == 1 and len(entries) == 1 and blocks[0].place.startswith("file "):
        chat = [block.place.partition(", date ")[2] for block in blocks]
        if all(chat):
            blocks = [
                block.model_copy(update={"place": f"date {day}"}) for block, day in zip(blocks, chat, strict=True)
            ]
    return "", blocks


def _wanted(entry: zipfile.ZipInfo) -> str:
    """The entry's name made harmless, or nothing for one to pass over."""
    name = inner_name(entry.filename)
    hidden = any(part.startswith((".", "__MACOSX", "~$")) for part in name.split("/"))
    return "" if entry.is_dir() or hidden or is_media(name) else name


def _unread(name: str, refused: Quarantined, error: Exception) -> Block:
    del error
    return Block(text=note(name, refused), place=f"file {name}", kind="notes")


def _slack(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], days: dict[str, re.Match[str]]
) -> list[Block]:
    names = people(archive.read(entries["users.json"]))
    blocks: list[Block] = []
    channel = ""
    for name in sorted(days):
        if days[name]["channel"] != channel:
            channel = days[name]["channel"]
            blocks.append(Block(text=f"#{channel}", place=f"channel {channel}", kind="heading"))
        for block in read_day(archive.read(entries[name]), names):
            blocks.append(block.model_copy(update={"place": f"channel {channel}, {block.place}"}))
    return [block for block in blocks if block.kind != "heading"] and blocks
