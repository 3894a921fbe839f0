"""Folders, globs, access labels and what changed: all on real files."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from bucle.core.errors import Quarantined
from bucle.core.sources import FolderSource
from bucle.data.connect import SourceFile, Synced, access_of, changes, list_files, source_name, sync
from bucle.data.connect.globs import matches


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def synced(project: Path, **source: object) -> Synced:
    return sync(FolderSource.model_validate({"path": "docs", **source}), project, project / "mirrors")


def paths(found: Synced) -> list[str]:
    return [file.path for file in found.files]


@pytest.mark.parametrize(("path", "pattern", "yes"), [
    ("a/b/c.pdf", "**/*.pdf", True), ("c.pdf", "**/*.pdf", True), ("a/c.pdf", "*.pdf", False),
    ("a1.txt", "a[0-9].txt", True), ("ab.txt", "a[!0-9].txt", True), ("a/.txt", "a[!0-9].txt", False),
    ("a[1].txt", "a[[]1].txt", True), ("a\nb.txt", "**", True), ("x.txt", "x.t[z-a]t", False),
])
def test_globs(path: str, pattern: str, yes: bool) -> None:
    assert matches(path, pattern) is yes


def test_accents_match_however_they_are_written() -> None:
    assert matches(unicodedata.normalize("NFD", "año/información.md"), "año/**")


def test_a_path_may_be_a_folder_a_glob_or_one_file(tmp_path: Path) -> None:
    write(tmp_path / "docs", {"a.md": "1", "b/c.pdf": "2", "b/d/e.pdf": "3", "raro[1]*.md": "4"})
    assert paths(synced(tmp_path)) == ["a.md", "b/c.pdf", "b/d/e.pdf", "raro[1]*.md"]
    assert paths(synced(tmp_path, path="docs/**/*.pdf")) == ["b/c.pdf", "b/d/e.pdf"]
    assert paths(synced(tmp_path, path="docs/b/*.pdf")) == ["c.pdf"]
    assert paths(synced(tmp_path, path="docs/a.md")) == ["a.md"]
    assert paths(synced(tmp_path, path=str(tmp_path / "docs" / "**" / "*.pdf"))) == ["b/c.pdf", "b/d/e.pdf"]


def test_labels_of_rules_and_sidecars_add_up_and_sidecars_are_no_documents(tmp_path: Path) -> None:
    write(tmp_path / "docs", {
        "libre.md": "1", "rrhh/nomina.md": "2", "rrhh/actas/enero.md": "3", "rrhh/.access": "rrhh\n",
        "rrhh/actas/.access": "\ufeff# quien\r\ndireccion, consejo\r\n", "rrhh/nomina.md.access": "pagos",
    })
    found = synced(tmp_path, access={"rrhh/actas": ["actas"], "**/enero.md": ["rrhh"], "nada/**": ["x"]})
    assert {file.path: file.access for file in found.files} == {
        "libre.md": (), "rrhh/nomina.md": ("pagos", "rrhh"),
        "rrhh/actas/enero.md": ("actas", "consejo", "direccion", "rrhh"),
    }
    assert "`nada/**` matches no file" in found.note
    assert access_of("rrhh/nomina.md", {}, tmp_path / "docs") == ("pagos", "rrhh")


def test_a_link_needs_what_its_file_needs(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"rrhh/n.md": "1", "rrhh/.access": "rrhh", "libre/a.md": "2"})
    (docs / "libre" / "n.md").symlink_to("../rrhh/n.md")
    assert {f.path: f.access for f in synced(tmp_path).files}["libre/n.md"] == ("rrhh",)


def test_a_sidecar_above_the_source_holds_below_it(tmp_path: Path) -> None:
    write(tmp_path / "docs", {".access": "interno", "a/b.md": "1"})
    assert synced(tmp_path, path="docs/a").files[0].access == ("interno",)


@pytest.mark.parametrize("content", [b"", b"\n # nothing\n", b"\xff\xfe\x00", b"<script>", b"a" * 70_000])
def test_a_sidecar_that_cannot_be_understood_closes_what_it_protects(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "docs", {"a/secreto.md": "1", "a/b/c.md": "2", "libre.md": "3", "a/.access": content})
    found = synced(tmp_path)
    assert paths(found) == ["libre.md"]
    assert {(p.path, p.reason) for p in found.problems} == {("a/secreto.md", "access"), ("a/b/c.md", "access")}
    with pytest.raises(Quarantined):
        access_of("a/secreto.md", {}, tmp_path / "docs")


def test_sidecars_that_are_links_folders_or_pipes_close(tmp_path: Path) -> None:
    write(tmp_path, {"outside": "todos"})
    docs = write(tmp_path / "docs", {"a.md": "1", "b.md": "2", "c.md": "3", "d.md": "4"})
    (docs / "a.md.access").symlink_to(tmp_path / "outside")
    (docs / "b.md.access").mkdir()
    os.mkfifo(docs / "c.md.access")
    (docs / "d.md.access").symlink_to("nowhere")
    found = synced(tmp_path)
    assert paths(found) == []
    assert len(found.problems) == 4


def test_links_out_of_the_folder_pipes_and_hidden_files_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"secret.txt": "x"})
    docs = write(tmp_path / "docs", {"a.txt": "1", ".git/config": "2", "~$a.docx": "3"})
    (docs / "leak.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(docs / "pipe.txt")
    (docs / "loop").symlink_to("loop")
    assert [file.path for file in list_files(docs)] == ["a.txt"]


def test_what_changed_is_seen_by_content(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.md": "uno", "b.md": "dos", "c.md": "tres", "e.md": "cinco", "f.md": "cinco"})
    assert synced(tmp_path).changes.added == ["a.md", "b.md", "c.md", "e.md", "f.md"]
    (docs / "a.md").rename(docs / "z.md")
    (docs / "b.md").write_text("más")
    (docs / "c.md").unlink()
    (docs / "e.md").rename(docs / "x.md")
    (docs / "d.md").write_text("nuevo")
    seen = synced(tmp_path).changes
    assert (seen.added, seen.changed, seen.deleted, seen.unchanged) == (["d.md"], ["b.md"], ["c.md"], 1)
    assert seen.renamed == [("a.md", "z.md"), ("e.md", "x.md")]
    assert not synced(tmp_path).changes


def test_a_label_that_changes_is_a_change(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.md": "uno"})
    synced(tmp_path)
    write(docs, {"a.md.access": "rrhh"})
    assert synced(tmp_path).changes.changed == ["a.md"]


def test_a_file_rewritten_with_its_size_and_time_is_read_again(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.md": "uno"})
    os.utime(docs / "a.md", ns=(10**18, 10**18))
    first = synced(tmp_path).files[0].sha256
    (docs / "a.md").write_text("dos")
    os.utime(docs / "a.md", ns=(10**18, 10**18))
    assert synced(tmp_path).files[0].sha256 != first


def test_changes_takes_mappings_and_does_not_pair_files_too_large_to_read() -> None:
    before = [{"path": "a", "size": 5, "sha256": ""}, {"path": "b", "size": 1, "sha256": "0" * 64, "access": ["x"]}]
    after = [SourceFile("c", 5, ""), SourceFile("b", 1, "0" * 64, ("x",))]
    made = changes(before, after)
    assert (made.added, made.deleted, made.renamed, made.unchanged) == (["c"], ["a"], [], 1)


def test_names_of_sources() -> None:
    assert source_name(FolderSource(path="../otros docs/")) == "folder-..-otros-docs"
    assert source_name(FolderSource(path="x", name="mio")) == "mio"


def test_nothing_is_skipped_without_a_word(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("hola")
    (docs / "link").symlink_to("/etc")
    (docs / "gone").symlink_to("nowhere")
    os.mkfifo(docs / "pipe")
    try:
        with open(os.fsencode(docs) + b"/informe_a\xf1o.txt", "w") as file:
            file.write("x")
    except OSError:  # a file system that takes UTF-8 names only
        (docs / "informe_a?o.txt").unlink(missing_ok=True)
    found = sync(FolderSource(path="docs"), tmp_path, tmp_path / "mirrors")
    assert [f.path for f in found.files] == ["a.txt"]
    reasons = {p.path: p.reason for p in found.problems}
    assert reasons.pop("informe_a?o.txt", "bad-name") == "bad-name"
    assert reasons == {"gone": "not-a-file", "link": "outside", "pipe": "not-a-file"}
    assert sync(FolderSource(path="docs"), tmp_path, tmp_path / "mirrors").changes.unchanged == 1
