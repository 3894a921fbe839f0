"""Slack's export: a file of messages for each channel and day, `users.json` with the names of who wrote."""

from __future__ import annotations

import datetime
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.records import Block
from bucle.data.parse.source import decode, tidy

__all__ = ["is_index", "is_slack", "people", "read_day", "read_messages"]

_NOTICES = {"channel_join", "channel_leave", "channel_topic", "channel_purpose", "channel_name", "channel_archive"}
_NOTICES |= {"group_join", "group_leave", "bot_add", "bot_remove", "pinned_item", "tombstone", "channel_convert"}
_INDEXES = {"users.json", "org_users.json", "channels.json", "groups.json", "dms.json", "mpims.json"}
_INDEXES |= {"integration_logs.json", "canvases.json", "lists.json"}
_INLINE = {"text", "link", "user", "emoji", "channel", "usergroup", "broadcast", "date", "color"}
_TIME = re.compile(r"\d{9,10}\.\d{1,9}")
_LINK = re.compile(r"<([@#!]?)([^<>|\s]+)(?:\|([^<>]*))?>")


def is_slack(value: Any) -> bool:
    """Whether `value` is a day of a channel: objects that all have a type and a time stamp like `1710000000.0001`."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and "type" in one for one in value)
        and all(_TIME.fullmatch(str(one.get("ts", ""))) for one in value)
    )


def is_index(name: str, value: Any) -> bool:
    """Whether the file is one of the export's lists (of people, of channels), which hold nothing that was said."""
    return (
        name in _INDEXES
        and isinstance(value, list)
        and all(isinstance(one, dict) and ("id" in one or "service_id" in one) for one in value)
        and any({"profile", "team_id", "members", "creator", "service_type"} & set(one) for one in value)
    )


def people(data: bytes) -> dict[str, str]:
    """The name to show for each user of a `users.json`; empty where it cannot be read."""
    try:
        users = json.loads(decode(data)) if data else []
    except (ValueError, RecursionError):
        return {}
    return {str(one["id"]): _shown(one) for one in users if isinstance(one, dict) and "id" in one}


def read_day(data: bytes, names: Mapping[str, str]) -> list[Block]:
    """The blocks of a day's file; none for one without messages."""
    value = json.loads(decode(data))
    return read_messages(value, names) if is_slack(value) else []


def read_messages(messages: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Block]:
    """One block a day (UTC), placed `date D`, each line `who: what`; the answers of a thread follow what began it."""
    days: dict[str, list[str]] = {}
    began: dict[str, str] = {}
    for one in sorted(messages, key=lambda one: (float(_thread(one)), float(one["ts"]))):
        thread = _thread(one)
        moment = datetime.datetime.fromtimestamp(float(one["ts"]), datetime.UTC)
        day = began.setdefault(thread, moment.date().isoformat())
        said = _said(one, names)
        if said and one.get("subtype") not in _NOTICES:
            days.setdefault(day, []).append(f"{_who(one, names)}: {said}")
    return [Block(text="\n".join(lines), place=f"date {day}") for day, lines in sorted(days.items())]


def _thread(one: Mapping[str, Any]) -> str:
    """The time stamp of the message that began the thread: its own where it answers none."""
    began = str(one.get("thread_ts") or "")
    return began if _TIME.fullmatch(began) else str(one["ts"])


def _who(one: Mapping[str, Any], names: Mapping[str, str]) -> str:
    user = str(one.get("user") or one.get("bot_id") or "")
    profile = one.get("user_profile")
    shown = _shown(profile) if isinstance(profile, dict) else ""
    return names.get(user) or shown or tidy(str(one.get("username") or "")) or user or "?"


def _shown(user: Mapping[str, Any]) -> str:
    profile = user.get("profile")
    held = {**user, **profile} if isinstance(profile, dict) else user
    keys = ("display_name", "real_name", "name", "id")
    return next((tidy(str(held[key])) for key in keys if held.get(key)), "")


def _said(one: Mapping[str, Any], names: Mapping[str, str]) -> str:
    def link(found: re.Match[str]) -> str:
        mark, target, label = found[1], found[2], found[3]
        if mark == "@":
            return "@" + (names.get(target) or label or target)
        return {"#": "#", "!": "@"}.get(mark, "") + (label or target)

    parts = [str(one.get("text") or "") or _block_text(one.get("blocks"))]
    for extra in _dicts(one.get("attachments")):
        said = [str(extra.get(key) or "") for key in ("pretext", "title", "text")]
        fields = _dicts(extra.get("fields"))
        said += [": ".join(str(field[key]) for key in ("title", "value") if field.get(key)) for field in fields]
        said.append(_block_text(extra.get("blocks")))
        parts += said if any(said) else [str(extra.get("fallback") or "")]
    parts += [f"[{file.get('title') or file.get('name')}]" for file in _dicts(one.get("files")) if file.get("name")]
    return tidy("\n".join(html.unescape(_LINK.sub(link, part)) for part in parts if part))


def _block_text(value: Any, depth: int = 0) -> str:
    """The words of Block Kit blocks, in order: what stands under `text` and for links, people and emoji their name."""
    if depth > 12:
        return ""
    if isinstance(value, list):
        inline = all(isinstance(one, dict) and one.get("type") in _INLINE for one in value)
        return ("" if inline else "\n").join(found for one in value if (found := _block_text(one, depth + 1)))
    if not isinstance(value, dict):
        return ""
    if value.get("type") == "user" and value.get("user_id"):
        return f"<@{value['user_id']}>"
    if value.get("type") == "emoji":
        return f":{value.get('name', '')}:"
    if isinstance(value.get("text"), str):
        return str(value["text"])
    parts = [_block_text(value.get(key), depth + 1) for key in ("title", "text", "fields", "elements")]
    return "\n".join(one for one in parts if one) or str(value.get("url") or value.get("alt_text") or "")


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
