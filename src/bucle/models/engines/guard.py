"""Runs a program that is not ours and ends it, with all that it started, when this process's standard input closes:
when the server that wanted it is gone. Standard library only; run as `python -I -S guard.py FOLDER PROGRAM …`."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0


def main() -> int:
    """The program's exit status (128 and the signal's number where a signal ended it)."""
    folder, *command = sys.argv[1:]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  (our caller's own command, no shell)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        return 127

    unwanted = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(0, 4096):
            pass
        unwanted.set()
        os.killpg(0, signal.SIGTERM)
        until = time.monotonic() + GRACE_S
        while time.monotonic() < until and child.poll() is None:
            time.sleep(0.05)
        if os.path.basename(folder).startswith("bucle-engine-"):
            shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, lambda *_: None)  # the program has it too: it is of this group
    ender = threading.Thread(target=wait_for_the_end, daemon=True)
    ender.start()
    code = child.wait()
    if unwanted.is_set():
        ender.join()  # which ends this process too
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
