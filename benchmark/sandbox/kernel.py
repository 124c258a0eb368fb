"""What Linux lets a process give up for good: files by Landlock, system calls by seccomp, no new rights ever.

Landlock: linux/landlock.h; seccomp: linux/seccomp.h and linux/filter.h. Both without privileges, both impossible to take back.
"""

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmark.base.errors import LoobenchError

NO_NEW_PRIVILEGES, SECCOMP, FILTER, DUMPABLE = 38, 22, 2, 4  # arguments of prctl
CAPSET = {"x86_64": 126, "aarch64": 91}
RULESET, RULE, RESTRICT = 444, 445, 446  # the system calls of Landlock, on every machine

# ---- Landlock ----------------------------------------------------------------------------------------------------
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a folder
ON_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # of the rights below, those that a file can have
RIGHTS = (13, 14, 15, 15, 16)  # how many rights over files there are in version 1, 2, 3 ... of Landlock


def landlock() -> int:
    """The version of Landlock that this kernel offers, 0 for none."""
    return max(0, _system(RULESET, None, 0, 1)) if platform.system() == "Linux" else 0


def keep_files(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """From now on this process may read the one and change the other, with all below them, and no other file.

    Nor may it signal processes outside, where the kernel knows how to forbid that. Raises LoobenchError where it cannot.
    """
    version = landlock()
    rights = (1 << RIGHTS[min(version, len(RIGHTS)) - 1]) - 1
    asked = struct.pack("<QQQ", rights, 0b11, 0b11)[: (8, 8, 8, 16, 16, 24)[min(version, 6) - 1]]
    ruleset = _system(RULESET, asked, len(asked), 0)
    for paths, allowed in ((readable, READ), (writable, rights)):
        for path in paths:
            _allow(ruleset, path, allowed & rights)
    if not _no_new_rights() or _system(RESTRICT, ruleset, 0) < 0:
        raise LoobenchError(f"Landlock could not be set up: {os.strerror(ctypes.get_errno())}")
    os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Let a path, where it is there, be used so."""
    try:
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rule = struct.pack("<Qi", rights if path.is_dir() else rights & ON_FILES, at)
    failed = _system(RULE, ruleset, 1, rule, 0) < 0
    os.close(at)
    if failed:
        raise LoobenchError(f"Landlock refused a rule: {os.strerror(ctypes.get_errno())}")


# ---- seccomp -----------------------------------------------------------------------------------------------------
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # as seccomp names them
DENIED = """
# new processes and programs
fork 57 -1; vfork 58 -1; execve 59 221; execveat 322 281;
# the network, and other ways to reach processes
socket 41 198; bind 49 200; listen 50 201; accept 43 202; accept4 288 242; connect 42 203; shmget 29 194;
shmat 30 196; shmctl 31 195; msgget 68 186; msgsnd 69 189; msgrcv 70 188; msgctl 71 187; semget 64 190;
semop 65 193; semctl 66 191; semtimedop 220 192; mq_open 240 180; mq_unlink 241 181; mq_notify 244 184;
socketpair 53 199; ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; tkill 200 130;
rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240; kcmp 312 272; pidfd_open 434 434; pidfd_getfd 438 438;
pidfd_send_signal 424 424; setpriority 141 140; sched_setscheduler 144 119; sched_setparam 142 118;
sched_setattr 314 274; ioprio_set 251 30; migrate_pages 256 238; move_pages 279 239; process_madvise 440 440;
process_mrelease 448 448;
# memory that no limit counts
memfd_create 319 279; memfd_secret 447 447; io_setup 206 0;
# what Landlock does not cover
chmod 90 -1; fchmod 91 52; fchmodat 268 53; fchmodat2 452 452; chown 92 -1; fchown 93 55; lchown 94 -1;
fchownat 260 54; setxattr 188 5; lsetxattr 189 6; fsetxattr 190 7; removexattr 197 14; lremovexattr 198 15;
fremovexattr 199 16; getxattr 191 8; lgetxattr 192 9; fgetxattr 193 10; listxattr 194 11; llistxattr 195 12;
flistxattr 196 13; inotify_init 253 -1; inotify_init1 294 26; fanotify_init 300 262; statmount 457 457;
listmount 458 458; utime 132 -1; utimes 235 -1; utimensat 280 88; futimesat 261 -1; truncate 76 45; mknod 133 -1;
mknodat 259 33; open_by_handle_at 304 265; name_to_handle_at 303 264;
# other rooms, and the machine itself
unshare 272 97; setns 308 268; chroot 161 51; pivot_root 155 41; mount 165 40; umount2 166 39; fsopen 430 430;
fspick 433 433; move_mount 429 429; open_tree 428 428; mount_setattr 442 442; bpf 321 280; perf_event_open 298 241;
userfaultfd 323 282; io_uring_setup 425 425; io_uring_enter 426 426; io_uring_register 427 427; add_key 248 217;
request_key 249 218; keyctl 250 219; kexec_load 246 104; init_module 175 105; finit_module 313 273;
delete_module 176 106; personality 135 92; sethostname 170 161; setdomainname 171 162; settimeofday 164 170;
clock_settime 227 112; clock_adjtime 305 266; adjtimex 159 171; syslog 103 116; kexec_file_load 320 294;
iopl 172 -1; ioperm 173 -1; modify_ldt 154 -1; vhangup 153 58; quotactl_fd 443 443; lookup_dcookie 212 18;
reboot 169 142; swapon 167 224; swapoff 168 225; acct 163 89; quotactl 179 60;
"""  # name, number on x86_64, on aarch64; -1 where there is none
NEWEST = 462  # calls numbered above are answered as by a kernel that lacks them: nobody has looked what they can do
CLONE, CLONE3, CONTROL, FILES = (56, 220), (435, 435), (16, 29), (72, 25)  # clone, clone3, ioctl, fcntl
ON_ITSELF = {"kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261), "sched_setaffinity": (203, 122)}
THREAD, ROOMS = 0x10000, 0x7E020000  # flags of clone: a thread, not a process; new namespaces
ASKED = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # of ioctl: whether it is a terminal, and its like
REACHING = (8, 10, 15, 1024, 1026)  # of fcntl: whom to signal and by what, leases, notices
LOAD, JUMP_EQUAL, JUMP_SET, JUMP_ABOVE, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06  # classes of instructions of a filter
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
NUMBER, MACHINE, FIRST, SECOND = 0, 4, 16, 24  # where a filter finds the call, the kind of machine, its arguments
Instruction = tuple[int, int, int, int]


def filtered() -> bool:
    """Whether we know the system calls of this kind of machine."""
    return platform.system() == "Linux" and platform.machine() in MACHINES


def keep_calls() -> None:
    """From now on this process may start threads but no process, open no socket, and touch no other process. Final."""
    program = b"".join(struct.pack("<HBBI", *one) for one in _program(platform.machine(), os.getpid()))
    held = ctypes.create_string_buffer(program, len(program))
    described = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(held)))
    if not _no_new_rights() or ctypes.CDLL(None, use_errno=True).prctl(SECCOMP, FILTER, described, 0, 0):
        raise LoobenchError(f"seccomp could not be set up: {os.strerror(ctypes.get_errno())}")


def _program(machine: str, own: int) -> list[Instruction]:
    """The filter for a kind of machine and the process `own`."""
    which = list(MACHINES).index(machine)
    return [
        (LOAD, 0, 0, MACHINE),
        (JUMP_EQUAL, 1, 0, MACHINES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_ABOVE, 0, 1, 0x40000000),  # the calls of another kind of program
        (RETURN, 0, 0, EPERM),
        (JUMP_ABOVE, 0, 1, NEWEST + 1),
        (RETURN, 0, 0, ENOSYS),
        *(step for number in _denied(which) for step in _answer(number, EPERM)),
        *_answer(CLONE3[which], ENOSYS),  # the library then takes clone, whose flags a filter can see
        *_threads_only(CLONE[which]),
        *_where(CONTROL[which], SECOND, ASKED, ALLOW, EPERM),
        *_where(FILES[which], SECOND, REACHING, EPERM, ALLOW),
        *(step for numbers in ON_ITSELF.values() for step in _where(numbers[which], FIRST, (own, 0), ALLOW, EPERM)),
        (RETURN, 0, 0, ALLOW),
    ]


def _denied(which: int) -> list[int]:
    """The numbers of DENIED in one of its columns."""
    calls = " ".join(line for line in DENIED.splitlines() if not line.startswith("#")).split(";")
    return [int(call.split()[1 + which]) for call in calls if call.strip()]


def _answer(number: int, answer: int) -> Iterator[Instruction]:
    """Answer a call so, whatever its arguments."""
    if number >= 0:
        yield from ((JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, answer))


def _threads_only(number: int) -> Iterator[Instruction]:
    """Allow a call of clone for a thread in the rooms there are."""
    yield from ((JUMP_EQUAL, 0, 5, number), (LOAD, 0, 0, FIRST), (JUMP_SET, 1, 0, ROOMS), (JUMP_SET, 1, 0, THREAD))
    yield from ((RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW))


def _where(number: int, argument: int, values: Sequence[int], answer: int, otherwise: int) -> Iterator[Instruction]:
    """Answer a call by whether an argument is one of some values; 0 for a process means oneself."""
    yield from ((JUMP_EQUAL, 0, len(values) + 3, number), (LOAD, 0, 0, argument))
    yield from ((JUMP_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values))
    yield from ((RETURN, 0, 0, otherwise), (RETURN, 0, 0, answer))


# ---- rights and amounts ------------------------------------------------------------------------------------------
def drop_rights() -> None:
    """From now on this process has no privilege, also where it is root: it could lift its own limits otherwise. Final.

    Raises LoobenchError where it has other threads already, which nothing here would hold.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise LoobenchError("there are threads already, which would stay free")
    asked, none = struct.pack("<Ii", 0x20080522, 0), bytes(24)  # the third version of the call, and this process
    if not _no_new_rights() or _system(CAPSET[platform.machine()], asked, none):
        raise LoobenchError(f"privileges could not be dropped: {os.strerror(ctypes.get_errno())}")


def let_be_read(allowed: bool) -> None:
    """Whether other processes of this user may look into this one's memory and open files, as a debugger does."""
    ctypes.CDLL(None).prctl(DUMPABLE, int(allowed), 0, 0, 0)


def keep_amounts(memory: int, file_size: int, seconds: float) -> None:
    """From now on this process may take so many more bytes of memory, write files of so many, compute so long. Final."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: held + memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 2, int(seconds) + 5))  # first a signal that tells why


def _no_new_rights() -> bool:
    return bool(ctypes.CDLL(None, use_errno=True).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0)


def _system(*arguments: int | bytes | None) -> int:
    whole = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    found: int = ctypes.CDLL(None, use_errno=True).syscall(*whole)
    return found
