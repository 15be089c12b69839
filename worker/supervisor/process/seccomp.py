"""Linux's seccomp, for a process that needs no network: it can make no socket but local ones, of whatever protocol.

Landlock keeps TCP away where it is new enough; this keeps UDP and all else away too, and on any kernel.
"""

import ctypes
import errno
import platform
import socket
import struct
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EACCES

# Classic BPF: load a word, jump if equal or greater, return.
_LOAD, _EQUAL, _GREATER, _RETURN = 0x20, 0x15, 0x35, 0x06
# Offsets in struct seccomp_data.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

#: By machine: the kernel's name for it, and the numbers of socket() and io_uring_setup(), which can make sockets too.
_MACHINES: Final = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
#: From here on numbers belong to x86-64's other calling convention.
_X32: Final = 0x40000000
#: Sockets within the machine, and the kernel's own: libraries ask it for the machine's interfaces.
_LOCAL: Final = (socket.AF_UNIX, 16)

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_network() -> bool:
    """For this process and all that come of it, for ever. False where this kernel or machine cannot."""
    if platform.machine() not in _MACHINES:
        return False
    program = _program(*_MACHINES[platform.machine()])
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(_libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0) == 0)


def _program(machine: int, make_socket: int, make_ring: int) -> bytes:
    """Refuses what comes by another convention, rings, and sockets of families that are not local."""
    family_one, family_two = _LOCAL
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER, 6, 0, _X32),
        (_EQUAL, 5, 0, make_ring),
        (_EQUAL, 0, 3, make_socket),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, family_one),
        (_EQUAL, 0, 1, family_two),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("HBBI", *each) for each in instructions)
