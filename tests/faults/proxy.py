"""A TCP proxy that misbehaves on command: refuses, cuts, delays, swallows, cuts after so many bytes, repeats what is pushed.

with Proxy(port) as proxy:      # clients connect to proxy.port
    proxy.swallow()             # from now on bytes are taken and never passed on, in old and new connections
    proxy.pass_on()             # well again; connections that lost bytes are cut
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
Change = Callable[[bytes], bytes]


class Connection:
    """One client and its own connection to the target."""

    def __init__(self, proxy: "Proxy", client: socket.socket) -> None:
        self.proxy, self.client = proxy, client
        self.target: socket.socket | None = None
        self.lost_bytes = False
        self.num_answered = 0

    def serve(self) -> None:
        """Pass bytes on in both directions until one side ends."""
        if not self.proxy.swallowing:
            try:
                self.target = socket.create_connection(("127.0.0.1", self.proxy.target_port), timeout=10)
                self.target.settimeout(None)
            except OSError:
                self.cut()
                return
            back = threading.Thread(target=self._pump, args=[self.target, self.client, self._count], daemon=True)
            back.start()
        else:
            self.lost_bytes = True
        change = Repeater(self.proxy.repeats).feed if self.proxy.repeats > 1 else bytes
        self._pump(self.client, self.target, change)

    def _pump(self, source: socket.socket, sink: socket.socket | None, change: Change) -> None:
        try:
            while data := source.recv(65536):
                if self.proxy.delay_seconds:
                    time.sleep(self.proxy.delay_seconds)
                if self.proxy.swallowing or sink is None:
                    self.lost_bytes = True
                    continue
                if passed := change(data):
                    sink.sendall(passed)
                if self.proxy.max_bytes is not None and self.num_answered >= self.proxy.max_bytes:
                    self.cut()
                    return
        except OSError:
            self.cut()
            return
        if not self.proxy.swallowing and not self.lost_bytes:
            self.close()

    def _count(self, data: bytes) -> bytes:
        if self.proxy.max_bytes is not None:
            data = data[: max(0, self.proxy.max_bytes - self.num_answered)]
        self.num_answered += len(data)
        return data

    def cut(self) -> None:
        """End both sides with RST, at once."""
        for end in (self.client, self.target):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it
                with contextlib.suppress(OSError):
                    end.close()

    def close(self) -> None:
        """End both sides as well-behaved programs do."""
        for end in (self.client, self.target):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError):
                    end.close()


class Proxy:
    """Listens on a port of 127.0.0.1 of its own, in threads. `repeats`: how often each pushed message of Redis arrives."""

    def __init__(self, target_port: int, *, repeats: int = 1) -> None:
        self.target_port, self.repeats = target_port, repeats
        self.swallowing = False
        self.delay_seconds = 0.0
        self.max_bytes: int | None = None
        self.num_connections = 0
        self._connections: list[Connection] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(256)
        self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self._listener is not listener:  # it was told to refuse while it waited here
                client.close()
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, client)
            self._connections = [*self._connections[-500:], connection]
            self.num_connections += 1
            threading.Thread(target=connection.serve, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.cut()

    def refuse(self) -> None:
        """As if nothing listened here: connections are reset, new ones refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def swallow(self) -> None:
        """A black hole: connections stand and are taken, bytes vanish."""
        self.swallowing = True

    def pass_on(self) -> None:
        """Well again. A connection that lost bytes would go on with half a message, so it is reset."""
        self.swallowing, self.delay_seconds, self.max_bytes = False, 0.0, None
        for connection in self._connections:
            if connection.lost_bytes:
                connection.cut()
        if self._listener is None:
            self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.refuse()


class Repeater:
    """Reads the commands that a client sends to Redis and writes every LPUSH with its message several times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self._buffer = b""

    def feed(self, data: bytes) -> bytes:
        """The whole commands so far, changed; the rest waits."""
        self._buffer += data
        return b"".join(self._commands())

    def _commands(self) -> Iterator[bytes]:
        while (found := read_command(self._buffer)) is not None:
            parts, size = found
            self._buffer = self._buffer[size:]
            if parts[0].upper() == b"LPUSH":
                parts = [*parts[:2], *parts[2:] * self.times]
            yield b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def read_command(data: bytes) -> tuple[list[bytes], int] | None:
    """The first command (an array of bulk strings) and how many bytes it took; None while it isn't whole."""
    end = data.find(b"\r\n")
    if end < 0:
        return None
    assert data[:1] == b"*", f"not a command of Redis: {data[:40]!r}"
    parts, place = [], end + 2
    for _ in range(int(data[1:end])):
        end = data.find(b"\r\n", place)
        if end < 0:
            return None
        length = int(data[place + 1 : end])
        if len(data) < end + 4 + length:
            return None
        parts.append(data[end + 2 : end + 2 + length])
        place = end + 4 + length
    return parts, place
