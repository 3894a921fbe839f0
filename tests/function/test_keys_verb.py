"""`bucle keys` and `bucle spend` beside a running `bucle serve`, each a process of its own."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import httpx
from command import Running, answer, bucle

from bucle.serve.server import BackgroundServer
from bucle.serve.upstream import create_upstream

ASK = {"model": "draft", "messages": [{"role": "user", "content": "hola"}], "max_tokens": 8}


def test_a_key_is_made_spent_and_revoked_while_the_server_runs(tmp_path: Path) -> None:
    with BackgroundServer(create_upstream()) as provider:
        (tmp_path / "bucle.yaml").write_text(
            "project: p\ntasks:\n  t: {kind: classify, data: rows.tsv}\nmodels:\n"
            f"  draft: {{kind: openai, base_url: '{provider.url}/v1', model: draft, api_key_env: '', "
            "usd_per_million_in: 10, usd_per_million_out: 100}\n"
            "serve:\n  port: 0\n  teams:\n    soporte: {usd_per_month: 0.004}\n", "utf-8")
        with Running("serve", tmp_path, log=tmp_path / "log") as server:
            url = re.findall(r"API +(\S+)", server.wait_for("curl", 60))[0]

            def asked(secret: str = "") -> tuple[int, str]:
                headers = {"authorization": f"Bearer {secret}"} if secret else {}
                reply = httpx.post(f"{url}/chat/completions", json=ASK, headers=headers, timeout=20)
                return reply.status_code, reply.json().get("error", {}).get("code", "")

            assert asked() == (200, "")
            made = bucle("keys", "create", "app", "--team", "soporte", "-p", tmp_path)
            secret = made.stdout.strip()
            time.sleep(1)
            assert asked() == (401, "invalid_api_key")
            answers = [asked(secret) for _ in range(6)]
            assert answers[0] == (200, "")
            assert answers[-1] == (429, "budget_exceeded")
            paid = answers.count((200, ""))
            assert bucle("keys", "revoke", "app", "-p", tmp_path).returncode == 0
            time.sleep(1)
            assert asked(secret) == (401, "key_revoked")
            assert "Traceback" not in server.text
            assert secret not in server.text
        rows = answer("spend", "--by", "team", "-p", tmp_path)["rows"]
        assert [(r["name"], r["nano_usd"], r["requests"]) for r in rows] == [
            ("soporte", paid * 810_000, paid + 1), ("no team", 810_000, 1)]
    wrong = bucle("keys", "create", "x", "--team", "nadie", "-p", tmp_path, "--json")
    assert wrong.returncode == 2
    assert json.loads(wrong.stdout)["error"]["kind"] == "ConfigError"
