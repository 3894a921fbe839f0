"""docs/chains.md: its examples run as they stand there, and every setting of every step is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from chain_peer import Asked, Shelf, api
from chat_peer import remote

from bucle.customise.chain import Chain, ChainEnv, ChainSpec, load_chain
from bucle.customise.chain import spec as kinds

DOCS = (Path(__file__).parents[2] / "docs" / "chains.md").read_text("utf-8")


def block(title: str) -> str:
    found = [body for body in re.findall(r"```\w+\n(.*?)```", DOCS, re.DOTALL) if body.startswith(f"# {title}\n")]
    assert len(found) == 1
    return found[0]


def test_the_answer_from_documents(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(block("chains/preguntas.yaml"), "utf-8")
    spec = load_chain(tmp_path / "c.yaml", tmp_path, models=["gpt"])
    pages = Shelf(("La baja se pide por escrito.", ()), ("La cuota es de 30 euros.", ()))
    replies = iter(["Son 30 euros.", "Son 30 euros [1]."])
    with remote(lambda messages, body: next(replies)) as (gpt, peer):
        made = Chain(spec, ChainEnv(models={"gpt": gpt}, index=pages))
        found = made.predict(["qué cuota hay"])[0]
        assert (found.output, found.citations) == ("Son 30 euros [1].", ("chunk:001",))
        assert "no valía: it cites no passage" in peer.asked[1]["messages"][0]["content"]
        nothing = made.predict(["zzz"])[0]
    assert nothing.abstained
    assert nothing.output == ""
    assert [span["name"] for span in nothing.spans] == ["buscar", "hay"]


def test_orders_and_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEDIDOS_TOKEN", "abcd1234")
    (tmp_path / "precios.py").write_text(block("precios.py"), "utf-8")
    (tmp_path / "chains").mkdir()

    def answers(one: Asked) -> Any:
        assert one.headers["authorization"] == "Bearer abcd1234"
        if one.path.startswith("/entregas"):
            return {"fecha": "3 de mayo"} if "4512" in one.path else (404, {}, b"")
        return {"pedido": {"estado": "en camino"}}

    def says(messages: Any, body: Any) -> str:
        text = messages[-1]["content"]
        return "pedido" if "pedido" in text else "precio" if "fibra" in text else "otro"

    with api(answers) as peer, remote(says) as (gpt, _):
        text = block("chains/pedidos.yaml").replace("https://api.example.com", peer.url)
        path = tmp_path / "chains" / "pedidos.yaml"
        path.write_text(text.replace("kind: http", "kind: http\n        allow_private: true"), "utf-8")
        spec = load_chain(path, tmp_path, models=["gpt"])
        made = Chain(spec, ChainEnv(models={"gpt": gpt}, project=tmp_path, trusted=True))
        asked = ["¿Y el pedido 4512?", "¿Y el pedido 9999?", "¿Cuánto es la fibra?", "¿Qué pedido?", "Hola"]
        found = made.predict(asked)
    assert [one.error for one in found] == [""] * 5
    assert [one.output for one in found] == [
        "El pedido 4512 está en camino y llega el 3 de mayo.", "El pedido 9999 está en camino.",
        "fibra: 36.3 € al mes.", "Le paso con una persona.", "Le paso con una persona."]
    assert [one.abstained for one in found] == [False, False, False, True, True]


def test_the_chain_in_python() -> None:
    code = block("in Python")
    replies = iter(["Claro: IBAN ES91", '{"iban": "ES91", "importe": 12.5}'])
    with remote(lambda messages, body: next(replies)) as (gpt, _):
        names: dict[str, Any] = {"gpt": gpt, "iban_valido": lambda text: text.startswith("ES"), "text": "Factura ES91"}
        exec(code, names)  # noqa: S102 - the documentation's own example
    assert names["found"].output == '{"iban": "ES91", "importe": 12.5}'
    assert names["found"].error == ""


def test_every_setting_is_explained() -> None:
    prose = re.sub(r"```.*?```", "", DOCS, flags=re.DOTALL)
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", prose))))
    steps = [getattr(kinds, f"{kind}Step") for kind in (
        "Retrieve", "Http", "Python", "Classify", "Prompt", "Parse", "Check", "Text", "Parallel")]
    names = {name for model in (*steps, kinds.Retry, kinds.OnFail) for name in model.model_fields}
    assert (names | set(ChainSpec.model_fields)) - told == {"files"}  # which is filled in, and not written
