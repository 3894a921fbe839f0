#!/usr/bin/env python3
"""A peer that speaks vLLM's command line and API (0.12: serve, --uds, /health, /v1/models, completions, adapters):
strict about both, with `[MODEL] TEXT` for an answer. `die` ends it; an adapter's folder must hold its config."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiohttp import web


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    serve = parser.add_subparsers(required=True).add_parser("serve", allow_abbrev=False)
    serve.add_argument("model")
    for flag in ("--served-model-name", "--uds", "--load-format", "--generation-config", "--tool-call-parser"):
        serve.add_argument(flag)
    serve.add_argument("--dtype", choices=["auto", "bfloat16", "float16", "float32"])
    serve.add_argument("--gpu-memory-utilization", type=float)
    for flag in ("--max-model-len", "--max-loras", "--max-cpu-loras"):
        serve.add_argument(flag, type=int)
    serve.add_argument("--max-lora-rank", type=int, choices=[1, 8, 16, 32, 64, 128, 256, 320, 512])
    for flag in ("--enable-lora", "--enable-auto-tool-choice", "--disable-uvicorn-access-log"):
        serve.add_argument(flag, action="store_true")
    return parser.parse_args()


ARGS = arguments()
KEY = os.environ["VLLM_API_KEY"]
LORAS: dict[str, str] = {}
MOST = 0


def error(status: int, message: str, kind: str) -> web.Response:
    said = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": said}, status=status)


@web.middleware
async def keyed(request: web.Request, handler: Any) -> web.StreamResponse:
    if request.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {KEY}":
        return web.json_response({"error": "Unauthorized"}, status=401)
    return await handler(request)


async def health(request: web.Request) -> web.Response:
    return web.Response()


async def load(request: web.Request) -> web.Response:
    global MOST
    body = await request.json()
    name, path = body["lora_name"], Path(body["lora_path"])
    if not ARGS.enable_lora or os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "").lower() not in ("1", "true"):
        return web.Response(status=404)
    if name in LORAS:
        return error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
    if not (path / "adapter_config.json").is_file():
        return error(404, f"No adapter found for '{path}'", "NotFoundError")
    rank = json.loads((path / "adapter_config.json").read_text())["r"]
    if rank > ARGS.max_lora_rank:
        why = f"LoRA rank {rank} is greater than max_lora_rank {ARGS.max_lora_rank}."
        return error(500, why, "InternalServerError")
    LORAS[name] = str(path)
    MOST = max(MOST, len(LORAS))
    return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")


async def unload(request: web.Request) -> web.Response:
    name = (await request.json())["lora_name"]
    if name not in LORAS:
        return error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
    del LORAS[name]
    return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


async def models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": one} for one in (ARGS.served_model_name, *LORAS)]})


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    model, asked = body["model"], body["messages"][-1]["content"]
    if model != ARGS.served_model_name and model not in LORAS:
        return error(404, f"The model `{model}` does not exist.", "NotFoundError")
    if asked == "die":
        print(f"CUDA error: an illegal memory access was encountered ({KEY})", flush=True)
        os._exit(1)
    if asked == "long":
        return error(400, "This model's maximum context length is 10 tokens. However, you requested 12 tokens.",
                     "BadRequestError")
    text = f"[{model}] {asked} {json.dumps(body.get('structured_outputs') or body['temperature'])} most={MOST}"
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    if not body.get("stream"):
        message = {"role": "assistant", "content": text}
        return web.json_response({"id": "x", "object": "chat.completion", "created": 0, "model": model, "usage": usage,
                                  "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for choices in ([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
                    [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
                    [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]):
        event = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": choices}
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    await response.write(b"data: " + json.dumps({"choices": [], "usage": usage, "model": model}).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


if __name__ == "__main__":
    engine_core = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # as vLLM has one
    Path(ARGS.uds).with_name("core").write_text(str(engine_core.pid))
    app = web.Application(middlewares=[keyed])
    app.add_routes([web.get("/health", health), web.get("/v1/models", models), web.post("/v1/chat/completions", chat),
                    web.post("/v1/load_lora_adapter", load), web.post("/v1/unload_lora_adapter", unload)])
    web.run_app(app, path=ARGS.uds, print=None, access_log=None)
