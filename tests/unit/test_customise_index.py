"""The index of passages against the real LanceDB: updates, languages, filters, access labels, versions, processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bucle.core.errors import BadInput, NotFound, WrongEncoder
from bucle.core.ports import SearchIndex
from bucle.core.records import Chunk
from bucle.customise.retrieve.index import Index
from bucle.customise.retrieve.index_build import write_index

BOSS = frozenset({"dirección"})


class Hashing:
    """Vectors of words: texts that share words are near. `asked` counts the texts it was given."""

    name = "hashing"
    identity = "a" * 64

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_array(self, texts: Sequence[str]) -> Any:
        self.asked += texts
        rows = np.zeros((len(texts), 32), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[hashlib.sha256(word.encode()).digest()[0] % 32] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)


def passage(name: str, text: str, **more: Any) -> Chunk:
    return Chunk(**{"id": f"chunk:{name}", "document_id": f"document:{name}", "path": f"{name}.md", "text": text,
                    "language": "es", **more})


def build(chunks: Sequence[Chunk], out: Path, previous: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    out.mkdir(parents=True)
    encoder = Hashing()
    meta = write_index(chunks, out, encoder, language="es", previous=previous, report=lambda done, total, note="": None)
    return meta, encoder.asked


def names(index: Index, question: str, weight: float = 0.0, **more: Any) -> list[str]:
    vector = Hashing().embed_array([question])[0]
    hits = index.search(question, weight=weight, vector=vector, **{"k": 50, **more})
    return [hit.chunk.id.removeprefix("chunk:") for hit in hits]


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob("*") if p.is_file()}


BASE = [
    passage("factura", "Las facturas se pagan el día 5. El cobro es mensual."),
    passage("baja", "La baja se pide con 15 días. Luego nada más."),
    passage("averia", "Una avería se repara en 48 horas.", heading="Averías"),
    passage("ingles", "Invoices are being paid monthly.", language="en"),
    passage("o'brien ñandú/100%_x", "El contrato de O'Brien vence pronto.", heading="Contrato \"raro\""),
    passage("secreto", "La factura secreta del consejo.", access=("dirección",)),
    passage("doble", "La factura del comité.", access=("dirección", "comité")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "index"
    meta, asked = build(BASE, out)
    assert (meta["chunks"], meta["added"], meta["kept"], meta["embedded"]) == (7, 7, 0, 7)
    assert len(asked) == len(set(asked))
    return out


def test_each_language_is_searched_in_its_own_way_and_both_scores_are_told(folder: Path) -> None:
    index = Index(folder, None)
    assert isinstance(index, SearchIndex)
    assert index.meta["columns"] == ["es", "en"]
    assert names(index, "facturación factura")[:1] == ["factura"]
    assert names(index, "pay invoice") == ["ingles"], "English is stemmed as English"
    assert names(index, "averias") == ["averia"], "accents are folded"
    assert names(index, "la de los") == []
    vector = Hashing().embed_array([BASE[1].text])[0]
    best, *others = index.search("baja", k=3, weight=0.5, vector=vector)
    assert best.chunk == BASE[1]
    assert best.words is not None
    assert best.meaning == pytest.approx(1.0, abs=1e-3)
    assert best.words > 0
    assert all(hit.words is None and hit.meaning is not None for hit in others)
    assert [h.score for h in (best, *others)] == sorted((h.score for h in (best, *others)), reverse=True)


def test_an_update_leaves_nothing_stale_embeds_nothing_again_and_never_touches_the_old(
    folder: Path, tmp_path: Path
) -> None:
    before = hashes(folder)
    shorter = passage("factura", "Las facturas llegan por correo.", id="chunk:factura2")
    more = [passage(f"p{i}", f"El texto número {i} habla de trenes.") for i in range(30)]
    first, asked = build([*BASE, *more], tmp_path / "1", folder)
    assert (first["added"], first["removed"], first["kept"], first["embedded"]) == (30, 0, 7, 30)
    assert not {c.text for c in BASE} & set(asked)
    held = Index(tmp_path / "1", None)
    at_first = hashes(tmp_path / "1")
    renamed = BASE[1].model_copy(update={"id": "chunk:baja2", "document_id": "document:new"})
    second, asked = build([shorter, renamed, *BASE[2:], *more], tmp_path / "2", tmp_path / "1")
    assert (second["added"], second["removed"], second["kept"], second["embedded"]) == (2, 2, 35, 1)
    assert BASE[1].text not in asked, "the same text in a changed document is not embedded again"
    index = Index(tmp_path / "2", None)
    assert "factura" not in names(index, "facturas cobro mensual", access=BOSS)
    assert names(index, "facturas correo")[:1] == ["factura2"], "what was added after the index was made is found"
    assert names(index, "baja") == ["baja2"]
    assert index.get(["chunk:factura", "chunk:baja2"]) == {"chunk:baja2": renamed}
    assert set(index.chunks) == {c.id for c in (shorter, renamed, *BASE[2:], *more)}
    assert len(index.chunks) == 37
    assert index.sentences("chunk:baja2") == ["La baja se pide con 15 días.", "Luego nada más."]
    fresh, _ = build([shorter, renamed, *BASE[2:], *more], tmp_path / "fresh")
    for name in ("buckets", "counts", "ends", "passages"):
        assert (np.load(tmp_path / "2" / f"lexicon-{name}.npy") == np.load(tmp_path / "fresh" / f"lexicon-{name}.npy")
                ).all(), "rarities are as of an index made afresh"
    assert fresh["chunks"] == second["chunks"]
    assert names(held, "facturas cobro")[:1] == ["factura"], "who holds the old one open goes on reading it"
    assert hashes(tmp_path / "1") == at_first, "nothing that two versions share was written into"
    assert hashes(folder) == before
    shared = set(hashes(tmp_path / "1").values()) & set(hashes(tmp_path / "2").values())
    data = list((tmp_path / "1" / "lance").rglob("data/*.lance"))
    assert data
    assert all(hashlib.sha256(p.read_bytes()).hexdigest() in shared for p in data), "unchanged data files are the same"


def test_updates_do_not_pile_up(tmp_path: Path) -> None:
    texts = {i: f"La nota número {i} trata de gatos." for i in range(400)}
    last = tmp_path / "0"
    build([passage(f"n{i}", t) for i, t in texts.items()], last)
    sizes = []
    for step in range(1, 27):
        at = 20 * (step % 5)
        texts |= {i: f"La nota número {i} trata de perros {step}." for i in range(at, at + 20)}
        folder = tmp_path / str(step)
        meta, asked = build([passage(f"n{i}", t) for i, t in texts.items()], folder, last)
        assert len({t for t in asked if t in texts.values()}) == 20
        sizes.append(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))
        shutil.rmtree(last)
        last = folder
    index = Index(last, None)
    assert index.count() == 400
    assert meta["pieces"] < 24
    for step in (22, 23, 24, 25, 26):
        assert len(names(index, f"perros {step}", k=400)) >= 20
    assert len(names(index, "gatos", k=400)) == 300
    assert max(sizes) < 3 * sizes[0]
    assert len(list((last / "lance" / "chunks.lance" / "_indices").iterdir())) <= 2, "old indexes are dropped"


def test_updates_of_many_rows_bring_the_indexes_up_to_date_and_rewrite_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bucle.customise.retrieve import index_build

    monkeypatch.setattr(index_build, "VECTOR_INDEX_FROM", 500)
    chunks = [passage(f"n{i}", f"La nota número {i} trata de gatos.") for i in range(1500)]
    build(chunks, tmp_path / "0")
    first = {str(p.relative_to(tmp_path / "0")): p.stat().st_ino for p in (tmp_path / "0").rglob("data/*.lance")}
    for step in (1, 2):
        before = hashes(tmp_path / str(step - 1))
        more = [passage(f"u{step}-{i}", f"El perro {i} ladra en {step}.") for i in range(60)]
        chunks = chunks[10:] + more
        meta, asked = build(chunks, tmp_path / str(step), tmp_path / str(step - 1))
        assert (meta["added"], meta["removed"], meta["pieces"]) == (60, 10, step)
        assert {c.text for c in more} <= set(asked)
        assert hashes(tmp_path / str(step - 1)) == before, "the version before is as it was"
        now = {str(p.relative_to(tmp_path / str(step))): p.stat().st_ino for p in tmp_path.rglob(f"{step}/**/data/*")}
        assert first.items() <= now.items(), "the passages first written are the same files on the disk"
        index = Index(tmp_path / str(step), None)
        stats = [index._table.index_stats(one.name) for one in index._table.list_indices()]
        assert [one.num_unindexed_rows for one in stats] == [0, 0], "words and vectors"
        assert index.count() == len(index.chunks) == 1500 + 50 * step
        assert len(names(index, "perro", k=500)) == min(60 * step, 500)
        assert names(index, chunks[-1].text, 1.0, k=1) == [f"u{step}-59"]
        assert names(index, "nota 5", where={"path": "n5.md"}) == []
    assert len(list((tmp_path / "2" / "lance" / "chunks.lance" / "data").iterdir())) == 2, "what came later is one file"


def test_todays_labels_are_those_of_the_moment_of_the_question(folder: Path) -> None:
    class Today(dict[str, Sequence[str]]):
        def now(self) -> dict[str, Sequence[str]]:
            return told[-1]

    told: list[dict[str, Sequence[str]]] = [{}]
    index = Index(folder, None, labels=Today())
    assert "factura" in names(index, "factura")
    told.append({"factura.md": ["nuevo"]})
    assert "factura" not in names(index, "factura")
    assert index.get(["chunk:factura"]) == {}
    assert index.sentences("chunk:factura") == []
    assert index.count() == 4
    assert "factura" in names(index, "factura", access=frozenset({"nuevo"}))
    told.append({})
    assert "factura" in names(index, "factura")


def test_a_remote_encoder_that_fails_half_way_is_not_asked_again_for_what_it_gave(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from bucle.core.errors import BucleError
    from bucle.customise.retrieve.index_build import build_index

    came: list[str] = []
    broken = True

    class Peer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
            refuse = broken and any("300" in text for text in texts)
            said: dict[str, Any] = {"error": {"message": "no more today"}}
            if not refuse:
                came.extend(texts)
                vectors = Hashing().embed_array(texts).tolist()
                said = {"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)],
                        "usage": {"prompt_tokens": 1, "total_tokens": 1}}
            body = json.dumps(said).encode()
            self.send_response(400 if refuse else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    far = tmp_path / "far"
    far.mkdir()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    (far / "remote.json").write_text(json.dumps({"base_url": url, "model": "m", "api_key_env": ""}))
    chunks = [passage(f"n{i}", f"La nota {i} trata de gatos.") for i in range(400)]
    kept = tmp_path / "vectors.db"

    def again(out: Path) -> dict[str, Any]:
        out.mkdir()
        return build_index(chunks, out, encoder=far, language="es", report=lambda *_: None, vectors=kept)

    with pytest.raises(BucleError) as caught:
        again(tmp_path / "1")
    assert "kept" in caught.value.hint
    assert 64 <= len(came) < 400, "some were paid for before it failed"
    broken = False
    assert again(tmp_path / "2")["dimensions"] == 32
    assert sorted(came) == sorted(c.text for c in chunks), "each once"
    server.shutdown()
    server.server_close()


def test_filters_take_any_text_and_nothing_else(folder: Path) -> None:
    index = Index(folder, None)
    odd = "o'brien ñandú/100%_x"
    for weight in (0.0, 0.5, 1.0):
        assert names(index, "contrato", weight, where={"path": f"{odd}.md"}) == [odd]
        assert names(index, "contrato", weight, where={"path": "o'brien*%_x*"}) == [odd]
        assert names(index, "contrato", weight, where={"path": "o'brien*%__x*"}) == [], "% and _ are themselves"
        assert names(index, "contrato", weight, where={"heading": "Contrato \"raro\""}) == [odd]
        assert names(index, "invoice paid", weight, where={"language": "en"}) == ["ingles"]
        assert names(index, "baja", weight, where={"document": "document:baja", "path": "*"}) == ["baja"]
        for value in ("' OR 1=1 --", "') OR ('1'='1", "\\", "(", "[", "a.md"):
            assert names(index, "factura", weight, where={"path": value}) == []
            assert names(index, "factura", weight, where={"path": value + "*"}) == []
    assert "secreto" not in names(index, "factura", where={"path": "*"})
    with pytest.raises(BadInput, match="`access`") as caught:
        index.search("x", k=1, weight=0, where={"access": "dirección"})
    assert "path, language, document, heading" in caught.value.hint
    for value in ("\0", "x" * 3000, 5):
        with pytest.raises(BadInput, match="no text"):
            index.search("x", k=1, weight=0, where={"path": value})  # type: ignore[dict-item]


@pytest.mark.parametrize("scalar", [False, True], ids=["", "with scalar indexes"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0], ids=["words", "both", "meaning"])
def test_labels_hold_in_both_searches_and_nothing_of_them_is_told(
    folder: Path, tmp_path: Path, weight: float, scalar: bool
) -> None:
    if scalar:  # the filter of a full-text search was once ignored where a scalar index exists
        import lancedb
        from lancedb.index import Bitmap, BTree

        folder = Path(shutil.copytree(folder, tmp_path / "index"))
        table = lancedb.connect(str(folder / "lance")).open_table("chunks")
        table.create_index("audience", config=Bitmap())
        table.create_index("path", config=BTree())
    index = Index(folder, None)
    assert {"secreto", "doble"}.isdisjoint(names(index, "factura secreta comité", weight))
    assert len(names(index, "factura secreta comité", weight, k=1)) == 1, "hidden passages cost no hit"
    assert names(index, "factura secreta comité", weight, k=1) != ["secreto"]
    held = names(index, "factura secreta comité", weight, access=BOSS)
    assert "secreto" in held
    assert "doble" not in held
    assert "doble" in names(index, "factura comité", weight, access=BOSS | {"comité"})
    assert [index.count(a) for a in (frozenset(), BOSS, frozenset({"comité"}), BOSS | {"comité"})] == [5, 6, 5, 7]
    assert names(index, "factura", weight, access=BOSS, where={"path": "secreto*"}) == ["secreto"]
    late = Index(folder, None, labels={"factura.md": ["nuevo"], "it's": ["x"]})
    assert "factura" not in names(late, "factura", weight)
    assert "factura" in names(late, "factura", weight, access=frozenset({"nuevo"}))
    assert late.count() == 4
    assert index.get(["chunk:secreto"]) == {}
    assert index.sentences("chunk:secreto") == []


def test_a_passage_whose_labels_cannot_be_read_is_nobodys(folder: Path, tmp_path: Path) -> None:
    import lancedb

    folder = Path(shutil.copytree(folder, tmp_path / "index"))
    table = lancedb.connect(str(folder / "lance")).open_table("chunks")
    table.update(where="id = 'chunk:factura'", values_sql={"access": "NULL"})
    table.update(where="id = 'chunk:baja'", values={"audience": 99})
    table.update(where="id = 'chunk:averia'", values={"audience": -1})
    every = BOSS | {"comité"}
    index = Index(folder, None)
    for weight in (0.0, 0.5, 1.0):
        for asked in ("factura", "baja", "avería"):
            assert {"factura", "baja", "averia"}.isdisjoint(names(index, asked, weight, access=every))
    assert index.get(["chunk:factura", "chunk:baja", "chunk:averia"], every) == {}
    # the rows' own labels hold where the numbers lie
    table.update(where="id = 'chunk:secreto'", values={"audience": 0})
    assert "secreto" not in names(Index(folder, None), "secreta")


def test_many_passages_have_an_index_of_vectors_that_finds_what_exact_search_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bucle.customise.retrieve import index_build

    monkeypatch.setattr(index_build, "VECTOR_INDEX_FROM", 500)
    words = [hashlib.sha256(str(i).encode()).hexdigest()[:4] for i in range(300)]
    rng = np.random.default_rng(7)
    chunks = [passage(f"v{i}", " ".join(rng.choice(words, 12)) + ".") for i in range(900)]
    meta, _ = build(chunks, tmp_path / "many")
    assert meta["vectors"] == "ivf"
    index = Index(tmp_path / "many", None)
    matrix = Hashing().embed_array([c.text for c in chunks])
    recalls = []
    for i in range(0, 900, 15):
        best = np.sort(matrix @ matrix[i])[-10]
        found = names(index, chunks[i].text, 1.0, k=10)
        recalls.append(np.mean([float(matrix[int(n[1:])] @ matrix[i]) >= best - 1e-4 for n in found]))
    # 0.950 to 0.967 in eight builds: where partitions begin is drawn anew, and vectors of chance are the hardest.
    # benchmarks/index.py measures 0.95 on texts.
    assert np.mean(recalls) >= 0.92
    assert names(index, chunks[5].text, 1.0, k=3, where={"path": "v77.md"}) == ["v77"], "a narrow filter finds its row"


def test_an_index_of_one_passage_grows_and_a_broken_one_is_told(tmp_path: Path) -> None:
    one, two = passage("uno", "Solo hay un texto."), passage("dos", "Ahora hay elefantes.")
    build([one], tmp_path / "1")
    build([one, two], tmp_path / "2", tmp_path / "1")
    assert names(Index(tmp_path / "2", None), "elefante") == ["dos"]
    meta, _ = build([two], tmp_path / "3", tmp_path / "nowhere")
    assert meta["added"] == 1
    with pytest.raises(NotFound, match="holds no index"):
        Index(tmp_path / "nowhere", None)
    (tmp_path / "2" / "audiences.json").write_text("{")
    meta, _ = build([two], tmp_path / "4", tmp_path / "2")
    assert (meta["added"], meta["kept"]) == (1, 0), "one that cannot be read is not grown from"


def test_another_encoder_is_told_with_the_command(folder: Path, tmp_path: Path) -> None:
    from bucle.models.encoder import encoder_folder

    with pytest.raises(WrongEncoder, match="hashing") as caught:
        Index(folder, encoder_folder()).search("baja", k=1, weight=1)
    assert "bucle run" in caught.value.hint
    assert Index(folder, encoder_folder()).search("baja", k=1, weight=0)


def test_an_index_from_before_this_format_still_opens(tmp_path: Path) -> None:
    import lancedb
    import pyarrow as pa

    from bucle.customise.classic.features import save_arrays

    old = tmp_path / "index-abc"
    old.mkdir()
    vectors = Hashing().embed_array([c.text if not c.heading else f"{c.heading}\n{c.text}" for c in BASE])
    columns = pa.table({"id": [c.id for c in BASE], "text": [c.text for c in BASE], "audience": [0] * len(BASE),
                        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 32)})
    lancedb.connect(str(old / "lance")).create_table("chunks", columns)
    (old / "chunks.jsonl").write_text("".join(c.model_dump_json() + "\n" for c in BASE))
    (old / "sentences.json").write_text(json.dumps({"spans": [BASE[0].text], "of": {}}))
    save_arrays({"vectors": vectors[:1]}, old / "sentences.safetensors")
    (old / "index.json").write_text(json.dumps({"chunks": len(BASE), "dimensions": 32, "language": "es"}))
    before = hashes(old)
    for _ in range(2):
        index = Index(old, None)
        assert names(index, BASE[1].text, 1.0, k=1) == ["baja"]
        assert "secreto" not in names(index, "factura secreta")
    assert hashes(old) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index-abc", "index-abc-format3"]


READER = """
import sys, time
from pathlib import Path
from bucle.loop.indexing import search
from bucle.loop.workspace import Workspace
root = Path(sys.argv[1]); ws = Workspace.open(root); asked = 0; seen = set()
while not (root / "done").exists() or asked < 5:
    floor = int((root / "latest").read_text() or 0)
    hits = search(ws, "clave", k=5, weight=0)
    said = [int(h.chunk.text.split()[-1].rstrip(".")) for h in hits]
    assert len(said) == 1 and said[0] >= floor, (said, floor)
    asked += 1; seen.add(said[0])
print(asked, len(seen))
"""


def test_processes_read_while_one_writes_and_none_gets_an_old_answer(tmp_path: Path) -> None:
    from bucle.loop.indexing import index_versions, previous_folder, put_in_force, search
    from bucle.loop.workspace import Workspace

    (tmp_path / "docs").mkdir()
    (tmp_path / "bucle.yaml").write_text("project: p\ndata:\n  documents: docs\n")
    ws = Workspace.open(tmp_path)
    with pytest.raises(NotFound, match="no index yet"):
        search(ws, "clave")

    def write(number: int) -> None:
        key = passage("clave", f"La clave es {number}.", id=f"chunk:clave{number}")
        chunks = [key, *(passage(f"r{i}", f"Relleno {i} de texto.") for i in range(60))]
        out = tmp_path / f"out{number}"
        meta, _ = build(chunks, out, previous_folder(ws))
        put_in_force(ws, ws.ledger.put_folder("index", out, meta).id)
        shutil.rmtree(out)
        (tmp_path / "new").write_text(str(number))
        (tmp_path / "new").replace(tmp_path / "latest")

    write(1)
    readers = [subprocess.Popen([sys.executable, "-c", READER, str(tmp_path)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for number in range(2, 7):
        write(number)
    (tmp_path / "done").touch()
    for reader in readers:
        said, wrong = reader.communicate(timeout=60)
        assert reader.returncode == 0, wrong
        assert int(said.split()[0]) >= 5
    versions = index_versions(ws)
    assert [v.kept for v in versions] == [0, *[60] * 5]
    assert [v.current for v in versions] == [False] * 5 + [True]
    assert search(ws, "clave", weight=0, version="3")[0].chunk.text == "La clave es 3.", "any version can be opened"
    with pytest.raises(NotFound, match="no version `99`"):
        search(ws, "clave", weight=0, version="99")


def test_a_label_added_today_holds_at_the_next_question_even_before_its_run_has_finished(tmp_path: Path) -> None:
    from bucle.execute import Outcome, Runner, StepContext
    from bucle.loop.indexing import open_version, put_in_force, search
    from bucle.loop.workspace import Workspace

    (tmp_path / "docs").mkdir()
    (tmp_path / "bucle.yaml").write_text("project: p\ndata:\n  documents: docs\n")
    ws, reader = Workspace.open(tmp_path), Workspace.open(tmp_path)

    def read(runner: Runner, **labels: list[str]) -> None:
        lines = "".join(json.dumps({"path": f"{name}.md", "access": own}, separators=(",", ":")) + "\n"
                        for name, own in labels.items())

        def work(ctx: StepContext) -> Outcome:
            node = ctx.ledger.put("corpus", {"documents": len(labels)}, blobs={"documents.jsonl": lines.encode()})
            return Outcome({"corpus": node.id}, {})

        runner.step("documents", work, stage="data", params={"labels": labels})

    def found(access: frozenset[str] = frozenset()) -> set[str]:
        return {hit.chunk.path for hit in search(reader, "factura", weight=0, access=access)}

    build([passage("uno", "La factura uno."), passage("dos", "La factura dos.")], tmp_path / "out")
    put_in_force(ws, ws.ledger.put_folder("index", tmp_path / "out", {}).id)
    assert found() == {"uno.md", "dos.md"}
    held = open_version(reader)
    run = Runner(ws.ledger)
    read(run, uno=["hr"], dos=[])
    assert found() == {"dos.md"}, "as soon as the documents were read"
    assert found(frozenset({"hr"})) == {"uno.md", "dos.md"}
    run.finish()
    assert found() == {"dos.md"}
    later = Runner(ws.ledger)
    read(later, uno=[], dos=["dir"])
    assert found() == set(), "while a run goes on, the labels of both"
    later.finish()
    assert found() == {"uno.md"}
    back = Runner(ws.ledger)
    read(back, uno=["hr"], dos=[])
    back.finish()
    assert found() == {"dos.md"}, "a step that is not done again counts as well"
    assert open_version(reader) is held
