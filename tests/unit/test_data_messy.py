"""Every real messy file: its facts, taken down by looking into it with other tools, or the true reason it has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucle.core.records import Document
from bucle.data.connect import list_files
from bucle.data.parse import ParseResult, parse_all

MESSY = Path(__file__).parents[2].parent / "shared" / "data" / "messy"
pytestmark = pytest.mark.skipif(not MESSY.is_dir(), reason=f"{MESSY} is absent: real messy files cannot be tried")

# path -> (place, kind or "" for any, text that a block of that place and kind holds)
FACTS: dict[str, list[tuple[str, str, str]]] = {
    "2023-half-year-analyses-by-segment.xlsx": [
        ("sheet OS-Rev.and results 30 06 2023", "", "3.1 Operating segments"),
        ("sheet Prod.Rev.and results 30 06 2023", "table", "| Water | 1706 | 187 | 57 | -130 | -6 | -94 |"),
        ("sheet Prod.Rev.and results 30 06 2023", "table", "Powdered and Liquid Beverages | 12339 | 2607"),
    ],
    "docx-tables.docx": [
        ("", "table", "| Header Col 1 | Header Col 2 |\n| --- | --- |\n| Lorem ipsum | A link example |"),
        ("", "table", "| d | e, f; g&t, h | i |"),
        ("", "table", "| j | k | l |"),
        ("", "text", "Table with merged cells"),
    ],
    "duplicate-paragraphs.docx": [
        ("section This document contains duplicates", "heading", "This document contains duplicates"),
        ("section This document contains duplicates", "text", "some text"),
    ],
    "email-no-utf8-2014-03-17.111517.eml": [
        ("header", "text", "Subject: Google Account password changed"),
        ("body", "text", "recently changed."),
        ("body", "text", "The Google Accounts team"),
    ],
    "embedded-link.pdf": [
        ("page 1", "text", "This is the phone number."),
        ("page 1", "text", "2. Now, what would happen if the embedded url is across two lines"),
    ],
    "eng_spa_mult.pptx": [
        ("slide 1", "heading", "Testing multiple languages"),
        ("slide 6", "text", "Todos los seres humanos nacen libres e iguales"),
        ("slide 2", "text", "All human beings are born free and equal"),
    ],
    "example-10k-1p.html": [
        ("", "text", "Commission file number: 000-30653"),
        ("", "table", "| Common stock | GLXZ | OTCQB marketplace |"),
        ("", "text", "23,718,968 common shares as of March 28, 2022"),
    ],
    "example-with-scripts.html": [
        (
            "section Russian Offensive Campaign Assessment, December 13",
            "heading",
            "Russian Offensive Campaign Assessment",
        ),
        ("section Russian Offensive Campaign Assessment, December 13", "text", "over 23,000 Russian prisoners"),
        ("section Russian Offensive Campaign Assessment, December 13", "text", "December 13, 6:30pm ET"),
    ],
    "fake-email-image-embedded.eml": [
        ("header", "text", "From: Mallori Harrell <mallori@unstructured.io>"),
        ("body", "text", "- Roses are red\n- Violets are blue"),
    ],
    "fake-memo.pdf": [
        ("page 1", "text", "May 5, 2023"),
        ("page 1", "text", "20,000 bottles of water, 10,000 blankets, and 200 laptops delivered on January 23, 2023."),
    ],
    "fake-power-point-malformed.pptx": [
        ("slide 1", "heading", "Test Slide"),
        ("slide 1", "text", "Problem Date Placeholder"),
    ],
    "fake-power-point-table.pptx": [
        ("slide 1", "heading", "A Slide with a Table"),
        ("slide 1", "table", "| Purple | Orange | Yellow |"),
    ],
    "fake-power-point.pptx": [
        ("slide 1", "heading", "Adding a Bullet Slide"),
        ("slide 1", "text", "Use _TextFrame.text for first bullet"),
        ("slide 1", "text", "Here is some text in a text box!"),
    ],
    "fake.docx": [("", "text", "Lorem ipsum dolor sit amet.")],
    "fake_table.docx": [("", "table", "| Lorem ipsum | A Link example |"), ("", "text", "Dolor sit amet")],
    "list-item-example.pdf": [
        ("page 1", "heading", "Module One - Introduction to Product Development and Quality Assurance"),
        ("page 1", "text", "● Ensuring standards and efficiency in development"),
        ("page 2", "text", "● How will the product meet market needs?"),
    ],
    "multi-column-2p.pdf": [
        ("page 1", "heading", "Dense Passage Retrieval for Open-Domain Question Answering"),
        ("page 1", "text", "relies on efficient passage retrieval"),
        ("page 2", "text", "First, ICT pretraining is computationally intensive"),
    ],
    "norwich-city.txt": [
        ("line 1", "text", "Position(s) Forward"),
        ("line 1", "text", "Date of birth 26 June 1968"),
    ],
    "vodafone.xlsx": [
        ("sheet Index", "table", "| Quarterly revenue | Nine quarters to 30 June 2023 |  | 1 |"),
        ("sheet Index", "table", "| Guidance rates | FY 23/24 | 14 |"),
    ],
    "winter-sports.epub": [
        ("section CHAPTER III TEES AND CRAMPITS", "text", "No. 3. Can you get round their guard with out-handle?"),
        ("section CHAPTER I THE SUN-SEEKER", "heading", "THE SUN-SEEKER"),
    ],
}
REASONS = {"password.pdf": ("encrypted", "password"), "single_table.pdf": ("empty", "OCR")}


@pytest.fixture(scope="module")
def result() -> ParseResult:
    return parse_all(list_files(MESSY), MESSY)


def test_each_file_is_read_or_in_quarantine_and_none_is_without_its_facts(result: ParseResult) -> None:
    assert {one.path for one in result.documents} | {one.path for one in result.quarantined} == set(FACTS) | set(
        REASONS
    ), "a file of the folder has no facts here: look into it with another tool and write them down"
    assert {one.path: one.reason for one in result.quarantined} == {path: told[0] for path, told in REASONS.items()}
    for one in result.quarantined:
        assert REASONS[one.path][1] in one.message
        assert ".." not in one.message


@pytest.mark.parametrize("path", FACTS)
def test_the_facts_are_found_where_they_stand(result: ParseResult, path: str) -> None:
    document = next(one for one in result.documents if one.path == path)
    missing = [fact for fact in FACTS[path] if not _found(document, *fact)]
    assert not missing


def test_the_password_opens_the_encrypted_one() -> None:
    files = [file for file in list_files(MESSY) if file.path == "password.pdf"]
    wrong = parse_all(files, MESSY, passwords={"password.pdf": "otra"})
    assert wrong.quarantined[0].message == "The PDF is encrypted. The password given does not open it."
    opened = parse_all(files, MESSY, passwords={"password.pdf": "password"})
    assert _found(opened.documents[0], "page 1", "text", "File with password")


def test_languages_are_told(result: ParseResult) -> None:
    told = {one.path: one.language for one in result.documents}
    assert told["winter-sports.epub"] == told["multi-column-2p.pdf"] == told["example-10k-1p.html"] == "en"


def _found(document: Document, place: str, kind: str, text: str) -> bool:
    return any(
        block.place == place and (not kind or block.kind == kind) and text in block.text for block in document.blocks
    )
