"""The inside of the sandbox: a program of its own (`python -I -S jail.py`), which imports nothing of Bucle.

Reads one job as JSON from standard input and writes one verdict to standard output. Three processes: this one makes the
namespaces; the second is process 1 in there, has a file system of its own built and judges; the third has every right
taken away and runs the code.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys

NOBODY = 65534
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
NO_ATIME, NO_DIRATIME, REL_ATIME = 1024, 2048, 1 << 21
DETACH = 2
SET_PDEATHSIG, SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVS = 1, 4, 22, 38
CLONE_THREAD = 0x00010000
SAID = 4096  # bytes that the code's process may tell the judge

# audit architecture, and the numbers of: pivot_root, capset, clone, then of what is forbidden
ARCHITECTURES = {
    "x86_64": (0xC000003E, 155, 126, 56, (
        41, 57, 58, 59, 322, 101, 165, 166, 155, 161, 272, 308, 29, 319, 321, 298, 248, 249, 250, 323, 425, 310, 311,
        428, 429, 430, 431, 432, 433, 442)),
    "aarch64": (0xC00000B7, 41, 91, 220, (
        198, 221, 281, 117, 40, 39, 41, 51, 97, 268, 194, 279, 280, 241, 217, 218, 219, 282, 425, 270, 271,
        428, 429, 430, 431, 432, 433, 442)),
}
"""Forbidden: socket, fork, vfork, execve, execveat, ptrace, mount, umount2, pivot_root, chroot, unshare, setns, shmget,
memfd_create, bpf, perf_event_open, add_key, request_key, keyctl, userfaultfd, io_uring_setup, process_vm_readv and
_writev, open_tree to fspick, mount_setattr. (aarch64 has no fork and vfork.)"""
CLONE3 = 435  # everywhere

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """A function of libc; OSError with its name where it fails."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    call("mount", source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode() or None)


def enter() -> None:
    """New namespaces; as a user without rights, with a user namespace in which it has them."""
    spaces = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    if os.geteuid() == 0 and libc.unshare(spaces) == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    call("unshare", spaces | NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def show(path: str, root: str, *, device: bool = False) -> None:
    """`path` in the new root, for reading only."""
    if not os.path.exists(path):
        return
    target = root + path
    if os.path.islink(path):  # /lib -> usr/lib
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(path, target, None, BIND | REC)
    if not device:
        has = os.statvfs(target).f_flag  # flags that the outside has locked must stay
        kept = has & (NO_EXEC | NO_ATIME | NO_DIRATIME) | (REL_ATIME if has & 4096 else 0)
        mount("none", target, None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV | kept)
        if not os.statvfs(target).f_flag & READ_ONLY:
            raise OSError(errno.EPERM, f"{path} cannot be shown for reading only")


def build(root: str, shown: list[str], hidden: list[str], box_mb: int) -> None:
    """A file system with the standard library and the system's libraries, and an empty folder to write in; the old one
    is gone."""
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEV, "size=1m,nr_inodes=4000,mode=755")
    for path in shown:
        show(path, root)
    for path in hidden:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", NO_SUID | NO_DEV | NO_EXEC | READ_ONLY, "size=4k,mode=555")
    show("/dev/null", root, device=True)
    show("/dev/urandom", root, device=True)
    for name in ("/box", "/tmp"):  # noqa: S108 -- a file system of its own
        os.mkdir(root + name)
        mount("tmpfs", root + name, "tmpfs", NO_SUID | NO_DEV | NO_EXEC, f"size={box_mb}m,nr_inodes=1000,mode=777")
    os.chdir(root)
    libc.syscall.restype = ctypes.c_long
    if libc.syscall(ctypes.c_long(ARCHITECTURES[platform.machine()][1]), b".", b".") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    call("umount2", b".", DETACH)
    os.chdir("/")
    mount("none", "/", None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV)
    os.chdir("/box")


def renounce() -> None:
    """No root, no capability, none to be had."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, none = struct.pack("Ii", 0x20080522, 0), b"\0" * 24
    if libc.syscall(ctypes.c_long(ARCHITECTURES[platform.machine()][2]), header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    call("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", SET_DUMPABLE, 0, 0, 0, 0)
    call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def forbid() -> None:
    """A seccomp filter: no socket, no new process or program (threads may be), no way to another process."""
    audit, _, _, clone, numbers = ARCHITECTURES[platform.machine()]
    load, equal, above, both, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, deny, absent, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
    program = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill),
               (load, 0, 0, 0), (above, 0, 1, 0x40000000), (give, 0, 0, deny),
               (equal, 0, 1, CLONE3), (give, 0, 0, absent)]
    for number in numbers:
        program += [(equal, 0, 1, number), (give, 0, 0, deny)]
    program += [(equal, 0, 3, clone), (load, 0, 0, 16), (both, 1, 0, CLONE_THREAD), (give, 0, 0, deny),
                (give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    wrapped = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    call("prctl", SET_SECCOMP, 2, wrapped, 0, 0)


def bound(limits: dict[str, int]) -> None:
    for what, most in (
        (resource.RLIMIT_AS, limits["memory_mb"] << 20), (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_FSIZE, limits["file_mb"] << 20), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_NPROC, 32),
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_MSGQUEUE, 0), (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (most, most))


def try_out(job: dict[str, object], secret: int, said: int) -> None:
    """Run the code, then its tests; say how it ended, with the secret that can only be read at the end."""
    import builtins
    import types
    import unittest

    kept = [(where, dict(vars(where))) for where in (builtins, unittest.case.TestCase, unittest, sys)]
    told: dict[str, object]
    try:
        solution = types.ModuleType("solution")
        sys.modules["solution"] = solution
        exec(compile(str(job["code"]), "solution.py", "exec"), solution.__dict__)  # noqa: S102 -- what all this is for
        sys.settrace(None)
        sys.setprofile(None)
        for where, was in kept[:3]:  # what the code has put in the place of what tests stand on
            for name, value in was.items():
                if vars(where).get(name) is not value and not name.startswith("__"):
                    setattr(where, name, value)
        builtins.__import__ = kept[0][1]["__import__"]
        tests: dict[str, object] = {**solution.__dict__, "__name__": "tests"}
        before = set(tests)
        exec(compile(str(job["tests"]), "tests.py", "exec"), tests)  # noqa: S102
        for name in [name for name in tests if name not in before]:
            found = tests[name]
            if isinstance(found, types.FunctionType) and name.startswith("test") and not found.__code__.co_argcount:
                found()
            elif isinstance(found, type) and issubclass(found, unittest.TestCase):
                result = unittest.TestResult()
                unittest.defaultTestLoader.loadTestsFromTestCase(found).run(result)
                for _, trace in [*result.errors, *result.failures]:
                    raise AssertionError(trace.strip().splitlines()[-1])
        told = {"secret": os.read(secret, 64).decode()}
    except BaseException as error:  # whatever it is, the tests have not run to their end
        told = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    os.write(said, json.dumps(told)[:SAID].encode())
    os._exit(0)


def judge(job: dict[str, object]) -> dict[str, str]:
    """Process 1: build, fork what runs the code, and listen to it."""
    limits = job["limits"]
    assert isinstance(limits, dict)  # noqa: S101
    build(str(job["root"]), list(job["shown"]), list(job["hidden"]), limits["file_mb"])  # type: ignore[call-overload]
    renounce()
    secret = os.urandom(16).hex()
    reading, writing = os.pipe()
    os.write(writing, secret.encode())
    os.close(writing)
    hearing, saying = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(hearing)
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.close(null)
            call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            bound(limits)
            forbid()
        except BaseException as error:
            os.write(saying, json.dumps({"broken": str(error)}).encode())
            os._exit(0)
        try_out(job, reading, saying)
    os.close(saying)
    os.close(reading)
    text = b""
    while len(text) <= SAID and (more := os.read(hearing, SAID)):
        text += more
    while True:
        try:
            ended, status = os.waitpid(child, 0)
            break
        except InterruptedError:
            continue
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if isinstance(told, dict) and told.get("broken"):
        return {"broken": str(told["broken"])}
    if isinstance(told, dict) and told.get("secret") == secret and status == 0 and ended == child:
        return {"passed": "yes"}
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return {"error": "it took too much processor time or memory" if name in ("SIGXCPU", "SIGKILL") else
                f"ended by {name}"}
    if isinstance(told, dict) and isinstance(told.get("error"), str):
        return {"error": told["error"]}
    return {"error": "it ended before its tests did"}


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        enter()
        call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # who asked is gone: so is all of this
        signal.alarm(job["limits"]["wall_s"] + 2)
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os._exit(0)
        verdict = judge(job)
    except BaseException as error:
        verdict = {"broken": str(error)}
    os.write(1, json.dumps(verdict).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
