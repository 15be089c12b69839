"""Linux's Landlock, for a process that gives rights up: files it may read or write, TCP, signals to others.

Everything that the service owns is hidden from a trainer: database, broker, keys, other jobs, other people's blobs. It
also cannot trace or signal the worker, which has the signing key in memory.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

# System calls, with one number on every architecture that has them.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1
_NET_PORT: Final = 2
_PR_SET_NO_NEW_PRIVS: Final = 38

_CAPABILITY_VERSION: Final = 0x20080522

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_READ: Final = EXECUTE | READ_FILE | READ_DIR
#: Rights over files by the version that brought them: thirteen, links across folders, truncation, ioctl.
_FILE_RIGHTS: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
#: What a rule about a file, and not a folder, may grant.
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15
_TCP: Final = 0b11  # bind, connect; since version 4
_SCOPES: Final = 0b11  # abstract sockets and signals stay within the sandbox; since version 6

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """What this kernel offers; 0 where it has no Landlock or keeps it off."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def restrict(*, read: Iterable[Path], write: Iterable[Path], ports: Iterable[int] = ()) -> bool:
    """Takes every other right over files and TCP from this process, for ever. False where there is no Landlock."""
    offered = version()
    if offered == 0:
        return False
    every = sum(rights for since, rights in _FILE_RIGHTS.items() if since <= offered)
    ruleset = _create(every, offered)
    try:
        for path in read:
            _allow(ruleset, path, _READ & every)
        for path in write:
            _allow(ruleset, path, every)
        for port in ports if offered >= 4 else ():
            rule = struct.pack("=QQ", _TCP, port)
            _checked(_libc.syscall(_ADD_RULE, ruleset, _NET_PORT, rule, 0))
        # Without this the kernel would let a setuid program escape, and so refuses.
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def drop_capabilities() -> None:
    """Leaves root with what any user has. A root that may measure performance could read another's environment."""
    header, nothing = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _checked(_libc.capset(header, nothing))


def ephemeral_ports() -> list[int]:
    """Those that the kernel hands out, and 0, by which one asks for one. Services have their fixed ports below."""
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()
    return [0, *range(int(low), int(high) + 1)]


def around(root: Path, hidden: Iterable[Path]) -> Iterator[Path]:
    """The fewest paths below `root` that together are everything but the hidden ones. Landlock knows no exceptions."""
    hidden = [path.resolve() for path in hidden]
    yield from _around(root.resolve(), hidden)


def _around(root: Path, hidden: list[Path]) -> Iterator[Path]:
    if root in hidden:
        return
    if not any(root in path.parents for path in hidden):
        yield root
        return
    try:
        children = sorted(root.iterdir())
    except PermissionError:
        return
    for child in children:
        # A link is an entry of its folder; what it leads to has a path of its own.
        if not child.is_symlink():
            yield from _around(child, hidden)


def _create(every: int, offered: int) -> int:
    tcp = _TCP if offered >= 4 else 0
    scopes = _SCOPES if offered >= 6 else 0
    attributes = struct.pack("QQQ", every, tcp, scopes)[: 24 if offered >= 6 else 16 if offered >= 4 else 8]
    return _checked(_libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0))


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # gone since it was listed
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, file)
        _checked(_libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(file)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
