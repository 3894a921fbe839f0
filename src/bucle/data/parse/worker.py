"""The process that parses: one JSON request a line on standard input, one JSON reply a line on standard
output.

Replies are JSON, not pickles: a parser that a file has taken over can then say something wrong, but run
nothing in the parent. Started by bucle.data.parse.pool with a scrubbed environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from bucle.core.errors import Quarantined
from bucle.data.parse.single import read_file


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be taken for a reply
    limit_memory(int(sys.argv[1]))
    seconds = float(sys.argv[2])
    for line in sys.stdin:
        limit_time(seconds)
        request = json.loads(line)
        try:
            sha256, title, blocks = read_file(
                Path(request["path"]),
                request["rel"],
                password=request["password"],
                parser=request["parser"],
                limit_bytes=request["limit_bytes"],
            )
            reply: dict[str, object] = {
                "sha256": sha256,
                "title": title,
                "blocks": [{"text": block.text, "place": block.place, "kind": block.kind} for block in blocks],
            }
        except Quarantined as refused:
            reply = {"reason": refused.reason, "message": refused.message}
        except MemoryError:
            reply = {
                "reason": "out-of-memory",
                "message": "Reading the file needs more memory than a file may use.",
            }
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def limit_memory(megabytes: int) -> None:
    """Caps this process's address space, and forbids core dumps. Does nothing where the system has no such
    limits.
    """
    try:
        import resource
    except ImportError:  # not on Windows: the parent's clock is then the only limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time(seconds: float) -> None:
    """Ends this process should it compute for well over `seconds` from now: its parent may have been killed."""
    with contextlib.suppress(ImportError):
        import resource

        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + 2 * seconds) + 2, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
