"""The frame of a web page: menus, cookie banners, its header and footer. What is not surely that is content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

__all__ = ["drop", "likely_chrome", "surely_chrome"]

_CONTENT = {"main", "article"}
_COOKIES = re.compile(r"cookie|consent|gdpr|rgpd|onetrust", re.IGNORECASE)
_MENU = re.compile(r"(^|[\s_-])(menu|nav|navbar|navigation|breadcrumbs?|migas|skip)([\s_-]|$)", re.IGNORECASE)
_EXTRA = re.compile(
    r"(^|[\s_-])(sidebar|widget|related|relacionad\w+|share|sharing|social|newsletter|subscribe|promo|advert\w*|ads?)"
    r"([\s_-]|$)",
    re.IGNORECASE,
)
_FOOTER = re.compile(r"(^|[\s_-])(site|page|main)?-?(footer|pie)([\s_-]|$)", re.IGNORECASE)
_NAMED = re.compile(f"{_COOKIES.pattern}|{_MENU.pattern}|{_FOOTER.pattern}", re.IGNORECASE)
_RIGHTS = re.compile(r"©|\(c\)\s*\d{4}|copyright|derechos reservados|rights reserved", re.IGNORECASE)
_GROUPS = {"ul", "ol", "div", "section", "aside", "p"}
_MENU_SHARE = 0.8
"""Share of the words of a list that are in links, of which it has three or more of few words, for it to be a menu."""


def drop(elements: Iterator[Any]) -> None:
    """Take `elements` out of their tree; the text after each stays."""
    for element in list(elements):
        if element.getparent() is not None:
            element.drop_tree()


def surely_chrome(tree: Any) -> Iterator[Any]:
    """What the page itself says is its frame: `nav`, the header and footer of the page, menus set aside, cookies."""
    whole = _words(tree)
    for element in tree.iter():
        if not isinstance(element.tag, str) or element.tag in ("html", "body", "main", "article"):
            continue
        tag, role, named = element.tag, element.get("role", "").lower(), _names(element)
        if tag == "nav" or role in ("navigation", "search"):
            yield element
            continue
        framing = tag in ("header", "footer", "aside") or role in ("banner", "contentinfo") or _NAMED.search(named)
        if not framing or _inside(element) or _holds_content(element):
            continue
        if _is_frame(element, tag, role, named, whole):
            yield element


def _is_frame(element: Any, tag: str, role: str, named: str, whole: int) -> bool:
    if tag == "footer" or role == "contentinfo" or ((tag == "header" or role == "banner") and not _heads(element)):
        return not any(one.tag in ("blockquote", "figure", "section") for one in element.iterancestors())
    if tag == "aside" and _link_share(element) >= 0.5 and len(element.findall(".//a")) >= 2:
        return True
    if _COOKIES.search(named) and not _heads(element) and _words(element) < min(200, 0.5 * whole):
        return True
    if _FOOTER.search(named) and (_RIGHTS.search(element.text_content()) or _link_share(element) > 0.5):
        return True
    return bool(_MENU.search(named)) and (_link_share(element) > 0.5 or _words(element) <= 2)


def likely_chrome(tree: Any, text: str) -> Iterator[Any]:
    """What reads like a menu, outside the content; and what is named like an extra and trafilatura leaves out too."""
    known: set[tuple[str, str, str]] | None = None
    counted = _counted(tree)
    for element in tree.iter(*_GROUPS):
        words, linked, links, longest, barred = counted[element]
        if not links or barred:
            continue
        share = linked / max(1, words)
        if links >= 3 and longest <= 5 and share >= _MENU_SHARE and not _inside(element):
            yield element
        elif share > 0.3 and _EXTRA.search(_names(element)) and not _holds_content(element):
            if known is None:
                known = set(_triples(_extracted(text)))
            own = _triples(element.text_content())
            if sum(one in known for one in own) < 0.3 * max(1, len(own)):
                yield element


def _counted(tree: Any) -> dict[Any, tuple[int, int, int, int, bool]]:
    """For each element its words, those in links, its links, the words of the longest, and whether it has a table or
    a first heading. One pass from the leaves up: pages can be nested deep."""
    counted: dict[Any, tuple[int, int, int, int, bool]] = {}
    for element in reversed(list(tree.iter())):
        if not isinstance(element.tag, str):
            counted[element] = (0, 0, 0, 0, False)
            continue
        words, linked, links, longest, barred = len((element.text or "").split()), 0, 0, 0, False
        for child in element:
            inner = counted[child]
            words += inner[0] + len((child.tail or "").split())
            linked, links, longest = linked + inner[1], links + inner[2], max(longest, inner[3])
            barred = barred or inner[4]
        if element.tag == "a":
            linked, links, longest = words, 1, words
        counted[element] = (words, linked, links, longest, barred or element.tag in ("table", "h1"))
    return counted


def _extracted(text: str) -> str:
    import trafilatura

    return trafilatura.extract(text, include_comments=False, include_links=False, favor_recall=True) or ""


def _triples(text: str) -> list[tuple[str, str, str]]:
    words = re.findall(r"\w+", text.lower())
    return list(zip(words, words[1:], words[2:], strict=False))


def _names(element: Any) -> str:
    return f"{element.get('class', '')} {element.get('id', '')}"


def _inside(element: Any) -> bool:
    return any(one.tag in _CONTENT or one.get("role") == "main" for one in element.iterancestors())


def _holds_content(element: Any) -> bool:
    found = element.iterdescendants("main", "article", "div")
    return any(one.tag in _CONTENT or one.get("role") == "main" for one in found)


def _heads(element: Any) -> bool:
    return element.find(".//h1") is not None


def _words(element: Any) -> int:
    return len((element.text_content() or "").split())


def _link_share(element: Any) -> float:
    return sum(_words(link) for link in element.iterdescendants("a")) / max(1, _words(element))
