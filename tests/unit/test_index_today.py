"""The index under today's labels and documents, and texts that are written without spaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_customise_index import BASE, BOSS, build, names, passage

from bucle.core.errors import BadInput
from bucle.customise.retrieve import index as module
from bucle.customise.retrieve.index import Index
from bucle.loop.versions import Today


def test_a_passage_of_a_document_that_is_gone_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    build(BASE, folder)
    here = Today({"baja.md": ("dirección",)})
    every = BOSS | {"comité"}
    documents = {c.path for c in BASE}
    for gone in ({"factura.md"}, documents - {"ingles.md", "baja.md"}, documents):
        here.paths = frozenset(documents - gone)
        index = Index(folder, None, labels=here)
        for weight in (0.0, 0.5, 1.0):
            for asked in ("factura", "baja", "avería", "invoices paid", "contrato"):
                assert not {f"{name}.md" for name in names(index, asked, weight, access=every)} & gone
        assert index.count(every) == len(documents - gone)
        assert index.get(["chunk:factura"], every) == {}
        assert index.sentences("chunk:factura", every) == []
    here.paths = frozenset(documents - {"factura.md"})
    index = Index(folder, None, labels=here)
    assert "averia" in names(index, "avería")
    assert "baja" not in names(index, "baja"), "today's labels count too"
    monkeypatch.setattr(module, "MOST_PATHS", 0)
    with pytest.raises(BadInput, match="1 are gone"):
        Index(folder, None, labels=here).count()
    here.paths = frozenset(documents | {"otro.md"})
    assert Index(folder, None, labels=here).count(every) == len(documents), "nothing is gone, nothing is listed"


def test_a_few_texts_without_spaces_are_found_by_their_words(tmp_path: Path) -> None:
    few = [passage("ja", "請求書は毎月五日に支払われます。"), passage("zh", "发票每月五日支付。合同三十天后到期。"),
           passage("th", "ใบแจ้งหนี้ชำระทุกวันที่ห้าของเดือน"), passage("mixto", "La factura 請求書 se paga el día 5.")]
    build([*BASE, *few, *(passage(f"r{i}", f"Relleno {i} de texto con ñ y “comillas”.") for i in range(300))],
          tmp_path / "index")
    index = Index(tmp_path / "index", None)
    assert index.meta["columns"] == ["es", "other"]
    for question, name in (("請求書", "ja"), ("合同", "zh"), ("ชำระ", "th")):
        assert name in names(index, question)[:2], question
    assert "mixto" in names(index, "請求書")
    assert names(index, "facturas", k=9)[:1] != []
    assert "mixto" in names(index, "facturas"), "in its own language too"
    assert len(names(index, "relleno", k=500)) == 300
