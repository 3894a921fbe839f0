"""A provider that speaks the OpenAI wire, answers after a fixed time and refuses (429) what is beyond its limit.

    python benchmarks/mock_provider.py SECONDS LIMIT

Prints its port. GET /stats tells how many requests it answered and refused, and the most that were under way at once.
"""

from __future__ import annotations

import asyncio
import json
import sys


async def main(seconds: float, limit: int) -> None:
    stats = {"answered": 0, "refused": 0, "peak": 0}
    now = 0

    def reply(status: str, value: object) -> bytes:
        data = json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        return head.encode() + data

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                sizes = [int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")]
                body = await reader.readexactly(sizes[0]) if sizes else b""
                if lines[0].startswith("GET /stats"):
                    writer.write(reply("200 OK", stats))
                    stats.update(answered=0, refused=0, peak=0)
                elif now >= limit:
                    stats["refused"] += 1
                    writer.write(reply("429 Too Many Requests", {"error": {"message": "too many at once"}}))
                else:
                    now += 1
                    stats["peak"] = max(stats["peak"], now)
                    await asyncio.sleep(seconds)
                    now -= 1
                    stats["answered"] += 1
                    asked = json.loads(body)["messages"][-1]["content"]
                    said = {"index": 0, "message": {"role": "assistant", "content": "alta"}, "finish_reason": "stop"}
                    writer.write(reply("200 OK", {
                        "id": "1", "object": "chat.completion", "created": 1, "model": "mock", "choices": [said],
                        "usage": {"prompt_tokens": len(asked) // 4, "completion_tokens": 1, "total_tokens": 1}}))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2])))
