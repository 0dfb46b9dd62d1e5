"""A process that imports modules once and forks programs: `python -m launching.fork_server FD PATIENCE MODULE ...`.

FD is a listening socket (Unix, SOCK_SEQPACKET). Each connection asks for one program with one packet: a JSON object of
`module`, whose `main()` is called, `arguments`, `environment`, `folder` and `descriptors`, the numbers under which the
program has the files that come with the packet. It is told `{"pid": N}` with a pidfd, and at the program's end
`{"status": N}`, below 0 for a signal. A program whose connection is closed is killed.

It ends with its standard input, as do its programs, and after PATIENCE seconds without one. Where the modules have
opened a graphics card, whose state a forked process would lose, each program is executed anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from launching.environment import appear_as

PACKET = 2**20  # bytes, more than a packet may have
MOST_FILES = 64
CREDENTIALS = struct.Struct("3i")  # process, user, group: unix(7)
WATCHED = 0.2  # seconds between looks at standard input while modules are imported
CARDS = ("/dev/nvidia", "/dev/kfd", "/dev/dri")  # files of their drivers


@dataclass(frozen=True)
class Program:
    pid: int
    handle: int  # pidfd


class ForkServer:
    """`patience`: seconds without a program until it ends."""

    def __init__(self, listener: socket.socket, patience: float) -> None:
        self.listener = listener
        self.patience = patience
        self.running: dict[socket.socket, Program] = {}  # by who asked
        self.fit = not holds_a_card()
        self.waiting = selectors.DefaultSelector()
        self.woken, self.far = socket.socketpair()
        self.woken.setblocking(False)
        self.far.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.far.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until standard input ends, or nothing has been asked for long enough."""
        for file in (self.listener, self.woken, sys.stdin.fileno()):
            self.waiting.register(file, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _events in self.waiting.select(None if self.running else self.patience)]
            if sys.stdin.fileno() in ready or not (ready or self.running):
                break
            for file in ready:
                if file is self.woken:
                    self.reap()
                elif file is self.listener:
                    self.accept()
                elif isinstance(file, socket.socket) and file in self.running:
                    self.kill(self.running[file])
                    self.waiting.unregister(file)
        for program in self.running.values():
            self.kill(program)

    def accept(self) -> None:
        connection, _address = self.listener.accept()
        files: Sequence[int] = ()
        try:
            connection.settimeout(1.0)  # the packet is sent at once
            packet, files, _flags, _sender = socket.recv_fds(connection, PACKET, MOST_FILES)
            connection.setblocking(False)
            if packet and ours(connection) and not closed(connection):
                self.fork(json.loads(packet), files, connection)
            else:
                connection.close()
        except (OSError, ValueError):
            connection.close()
        finally:
            for file in files:
                os.close(file)

    def fork(self, asked: dict[str, Any], files: Sequence[int], connection: socket.socket) -> None:
        for output in (sys.stdout, sys.stderr):
            output.flush()  # what modules said when they were imported is not said again
        pid = os.fork()
        if pid == 0:
            self.become(asked, files, connection)
        try:
            program = Program(pid, os.pidfd_open(pid))
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self.running[connection] = program
        self.waiting.register(connection, selectors.EVENT_READ)  # it says nothing more; its end is read
        with contextlib.suppress(OSError):
            socket.send_fds(connection, [json.dumps({"pid": pid}).encode()], [program.handle])

    def kill(self, program: Program) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(program.handle, signal.SIGKILL)

    def reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.woken.recv(4096):
                pass
        for connection, program in list(self.running.items()):
            pid, status = os.waitpid(program.pid, os.WNOHANG)
            if not pid:
                continue
            del self.running[connection]
            os.close(program.handle)
            with contextlib.suppress(KeyError):  # its end was read
                self.waiting.unregister(connection)
            with connection, contextlib.suppress(OSError):
                connection.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())

    def become(self, asked: dict[str, Any], files: Sequence[int], connection: socket.socket) -> NoReturn:
        """The program, in the new process."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number, action in (
                (signal.SIGCHLD, signal.SIG_DFL),
                (signal.SIGTERM, signal.SIG_DFL),
                (signal.SIGINT, signal.default_int_handler),
            ):
                signal.signal(number, action)
            self.waiting.close()
            for socket_ in (self.listener, self.woken, self.far, connection, *self.running):
                socket_.close()
            for program in self.running.values():
                os.close(program.handle)
            place(files, [0, 1, 2, *asked["descriptors"]])
            os.chdir(asked["folder"])
            module, arguments = asked["module"], asked["arguments"]
            if not self.fit:
                words = [sys.executable, "-m", module, *arguments]
                os.execve(sys.executable, words, asked["environment"])  # noqa: S606  (no shell is wanted)
            os.environ.clear()
            os.environ.update(asked["environment"])
            sys.argv = [module, *arguments]
            status = importlib.import_module(module).main() or 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001  (as at the top of any program)
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(status)


def place(files: Sequence[int], targets: Sequence[int]) -> None:
    """Open `files` under these numbers, inherited by what is executed, and nowhere else."""
    above = max(targets) + 1
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, above) for file in files]
    for file in set(files) - set(targets):
        os.close(file)
    for file, target in zip(moved, targets, strict=True):
        os.dup2(file, target)
        os.close(file)


def ours(connection: socket.socket) -> bool:
    """Whether somebody asks who is the user of this process: anybody on this machine can connect."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return CREDENTIALS.unpack(credentials)[1] == os.geteuid()


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def holds_a_card() -> bool:
    """Whether a driver of a graphics card is open in this process: its state is lost in a forked one."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(descriptor).startswith(CARDS):
                return True
    return False


def end_with_input(imported: threading.Event) -> None:
    while not imported.wait(WATCHED):
        if select.select([0], [], [], 0)[0]:
            os._exit(0)


def main() -> int:
    appear_as("lora-forks")
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; our input ends us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    imported = threading.Event()
    watch = threading.Thread(target=end_with_input, args=(imported,))
    watch.start()
    try:
        for name in sys.argv[3:]:
            importlib.import_module(name)
    finally:
        imported.set()
        watch.join()  # a process that forks has no other thread
    ForkServer(listener, float(sys.argv[2])).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
