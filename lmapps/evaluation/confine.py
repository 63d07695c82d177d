"""A Python program on standard input -> its exit code, run where it can reach nothing.

Started by `sandbox.py` as `python -I confine.py FOLDER SECONDS MEMORY FILE PROCESSES`; uses the
standard library only. The kernel does the confining: namespaces for users, processes, mounts,
network, IPC and the host name; a root of its own with Python's files, read-only, and a small
folder in memory; no capabilities; a seccomp filter; resource limits. Exit codes above 120 are
this program's own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator

TIMED_OUT, REFUSED = 124, 125
OUTER = 65534  # who a sandbox of root's is on the outside: nobody
INNER = 1000

CLONE_NEW = 0x7E020080  # every kind of namespace
UNSHARED = 0x7C020000  # user, mount, process, network, IPC, host name
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38

# Numbers of system calls: (x86_64, aarch64).
CALLS = {
    "pivot_root": (155, 41), "clone": (56, 220), "clone3": (435, 435), "open_tree": (428, 428),
    "move_mount": (429, 429), "mount_setattr": (442, 442),
}  # fmt: skip
FORBIDDEN = (
    *((41, 198), (53, 199), (42, 203), (49, 200), (50, 201), (43, 202), (288, 242)),  # sockets
    *((44, 206), (45, 207), (46, 211), (47, 212), (299, 243), (307, 269)),  # and their messages
    *((101, 117), (310, 270), (311, 271), (312, 272), (438, 438), (434, 434)),  # other processes
    *((165, 40), (166, 39), (155, 41), (161, 51), (272, 97), (308, 268)),  # mounts, namespaces
    *((428, 428), (429, 429), (430, 430), (431, 431), (432, 432), (433, 433), (442, 442)),
    *((248, 217), (249, 218), (250, 219)),  # keys
    *((321, 280), (298, 241), (323, 282), (425, 425), (426, 426), (427, 427)),  # bpf, io_uring
    *((175, 105), (313, 273), (176, 106), (246, 104), (320, 294), (169, 142)),  # the kernel itself
    *((167, 224), (168, 225), (163, 89), (179, 60), (103, 116), (135, 92)),
    *((170, 161), (171, 162), (164, 170), (227, 112), (159, 171), (305, 266)),  # host name, clock
    *((303, 264), (304, 265), (300, 262), (301, 263), (319, 279)),  # file handles, memfd
)
NEWEST = 451
"""Calls from here on are younger than this list: there are none of them."""

PYTHON = os.path.realpath(sys.executable)
libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    folder = sys.argv[1]
    seconds, memory, file, processes = map(int, sys.argv[2:])
    limits = (seconds, memory, file, processes)
    ready, go = os.pipe(), os.pipe()
    outer = OUTER if os.getuid() == 0 else os.getuid()
    outer_group = OUTER if os.getuid() == 0 else os.getgid()
    child = os.fork()
    if child == 0:
        os._exit(guarded(lambda: inside(folder, limits, ready, go)))
    os.close(ready[1])
    os.close(go[0])
    if os.read(ready[0], 1) == b"1":
        # From outside, so that root may give away an identity other than its own: limits on the
        # number of processes do not hold for root.
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{INNER} {outer} 1"),
            ("gid_map", f"{INNER} {outer_group} 1"),
        ):
            with open(f"/proc/{child}/{name}", "w") as stream:
                stream.write(content)
        os.write(go[1], b"1")
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 255


def guarded(work: Callable[[], int]) -> int:
    """What the kernel refused, as a line and an exit code."""
    try:
        return work()
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        return REFUSED


Pipe = tuple[int, int]
Sizes = tuple[int, int, int, int]


def inside(folder: str, limits: Sizes, ready: Pipe, go: Pipe) -> int:
    """In the new namespaces: watch over process 1, and end it, and all with it, in time."""
    program = sys.stdin.buffer.read()
    os.close(go[1])  # else nobody would be heard to be gone
    os.close(ready[0])
    checked("unshare", libc.unshare(UNSHARED))
    os.write(ready[1], b"1")
    if os.read(go[0], 1) != b"1":
        return REFUSED
    first = os.fork()
    if first == 0:
        os._exit(guarded(lambda: first_process(folder, program, limits)))
    deadline = time.monotonic() + limits[0]
    while time.monotonic() < deadline:
        done, status = os.waitpid(first, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) & 255
        time.sleep(0.005)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    return TIMED_OUT


def first_process(folder: str, program: bytes, limits: Sizes) -> int:
    """Process 1 of the sandbox: builds its root, starts the program, takes all down with it."""
    new_root(folder)
    child = os.fork()
    if child == 0:
        read, write = os.pipe()
        if os.fork() == 0:  # feeds the program, which may be longer than a pipe holds
            os.close(read)
            with os.fdopen(write, "wb") as stream:
                stream.write(program)
            os._exit(0)
        os.close(write)
        os.dup2(read, 0)
        give_up_rights(limits)
        os.execve(PYTHON, [PYTHON, "-I", "-S", "-B", "-"], {"PATH": "/usr/bin", "HOME": "/work"})  # noqa: S606
    while True:
        done, status = os.wait()
        if done == child:
            return os.waitstatus_to_exitcode(status) & 255


def new_root(folder: str) -> None:
    """A root in memory that holds Python and its libraries, read-only, and /work."""
    checked("mount", libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    mount_memory(folder, "size=1m,nr_inodes=2k,mode=755")
    os.chdir(folder)
    # Root may look into folders that the user it becomes, who owns what is made next, may not.
    links = {path: os.readlink(path) for path in needed_paths() if os.path.islink(path)}
    trees = {
        path: (copied_mount(path), os.path.isdir(path))
        for path in needed_paths()
        if path not in links
    }
    os.setresgid(INNER, INNER, INNER)
    os.setresuid(INNER, INNER, INNER)
    for path, (tree, is_folder) in trees.items():
        place(tree, path.lstrip("/"), is_folder)
    for path, target in links.items():
        os.symlink(target, path.lstrip("/"))
    os.mkdir("work")
    mount_memory("work", "size=8m,nr_inodes=256,mode=755")
    checked("pivot_root", libc.syscall(call("pivot_root"), b".", b"."))
    checked("umount2", libc.umount2(b".", MNT_DETACH))
    set_read_only(AT_FDCWD, "/")
    os.chdir("/work")


def copied_mount(path: str) -> int:
    """A read-only copy of the tree at a path, all that is mounted in it included, as a file."""
    flags = AT_RECURSIVE | OPEN_TREE_CLONE | os.O_CLOEXEC
    tree = checked(
        f"open_tree {path}", libc.syscall(call("open_tree"), AT_FDCWD, path.encode(), flags)
    )
    if not path.startswith("/dev/"):
        set_read_only(tree, "", AT_RECURSIVE | AT_EMPTY_PATH)
    return tree


def place(tree: int, inner: str, is_folder: bool) -> None:
    os.makedirs(inner if is_folder else os.path.dirname(inner), exist_ok=True)
    if not is_folder:
        os.close(os.open(inner, os.O_CREAT | os.O_WRONLY))
    number, target = call("move_mount"), inner.encode()
    checked(
        f"move_mount {inner}",
        libc.syscall(
            number,
            ctypes.c_long(tree),
            b"",
            ctypes.c_long(AT_FDCWD),
            target,
            MOVE_MOUNT_F_EMPTY_PATH,
        ),
    )
    os.close(tree)


def needed_paths() -> Iterator[str]:
    prefix = os.path.realpath(sys.base_prefix)
    yield from (
        path for path in ("/usr", "/lib", "/lib64", "/etc/ld.so.cache") if os.path.lexists(path)
    )
    if not prefix.startswith("/usr/") and prefix != "/usr":
        yield prefix
    yield from ("/dev/null", "/dev/urandom", "/dev/zero")


def mount_memory(path: str, options: str) -> None:
    flags, options = MS_NOSUID | MS_NODEV, f"{options},uid={INNER},gid={INNER}"
    checked("mount", libc.mount(b"tmpfs", path.encode(), b"tmpfs", flags, options.encode()))


def set_read_only(at: int, path: str, flags: int = 0) -> None:
    attribute = struct.pack("QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(len(attribute))
    checked(
        "mount_setattr",
        libc.syscall(call("mount_setattr"), at, path.encode(), flags, attribute, size),
    )


def give_up_rights(limits: Sizes) -> None:
    """Limits, no capability, no way to get one, and fewer system calls."""
    seconds, memory, file, processes = limits
    for kind, value in (
        (resource.RLIMIT_CPU, seconds + 1),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    checked("prctl", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    checked("capset", libc.capset(header, nothing))
    os.setsid()
    filter = seccomp_filter()
    memory_of_filter = ctypes.create_string_buffer(filter)
    address = ctypes.addressof(memory_of_filter)
    header = struct.pack("HxxxxxxQ", len(filter) // 8, address)
    checked("prctl", libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0))


def seccomp_filter() -> bytes:
    """A BPF program (linux/filter.h): number of the call -> allowed, EPERM, ENOSYS or the end."""
    kill, allow, eperm, enosys = 0x80000000, 0x7FFF0000, 0x50001, 0x50026
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    lines: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),  # the architecture, lest numbers of another one be used
        (equal, 1, 0, (0xC000003E, 0xC00000B7)[machine()]),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the number
        (at_least, 0, 1, NEWEST),
        (give, 0, 0, enosys),
        (equal, 0, 1, call("clone3")),  # its flags cannot be looked at: the C library uses clone
        (give, 0, 0, enosys),
    ]
    for numbers in FORBIDDEN:
        lines += [(equal, 0, 1, numbers[machine()]), (give, 0, 0, eperm)]
    lines += [
        (equal, 0, 3, call("clone")),
        (load, 0, 0, 16),  # its flags
        (any_bit, 0, 1, CLONE_NEW),
        (give, 0, 0, eperm),
        (give, 0, 0, allow),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def machine() -> int:
    return ("x86_64", "aarch64").index(platform.machine())


def call(name: str) -> int:
    return CALLS[name][machine()]


def checked(what: str, result: int) -> int:
    """The result of a system call. Raises `OSError` with what was tried."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    sys.exit(guarded(main))
