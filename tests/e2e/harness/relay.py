"""A TCP relay that stands before a service and makes its link a bad one: later, slower, cut or frozen.

    with Relay(target=("10.77.0.11", 7480), listen=("10.77.0.11", 7481), inside=host.inside) as relay:
        relay.delay = 0.02          # seconds, each way
        relay.rate = 100_000        # bytes a second, each way and connection; 0: no limit
        relay.freeze(); relay.thaw()    # nothing moves, nobody is told
        relay.cut()                 # every connection is reset; new ones are accepted
        relay.refuse = True         # new ones are reset, too

Everything may be changed in mid-stream. Also a program: relay.py LISTEN_PORT TARGET_HOST TARGET_PORT [DELAY [RATE]]."""
import collections
import contextlib
import socket
import struct
import sys
import threading
import time

CHUNK = 64 << 10
HELD = 4 << 20  # bytes under way, each way and connection


def reset(sock):
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)  # wakes whoever reads
    sock.close()


class Way:
    """One direction of a connection: a thread reads, another writes when it is time."""

    def __init__(self, relay, source, sink):
        self.relay, self.source, self.sink = relay, source, sink
        self.queue = collections.deque()  # (when, data); data None: the end
        self.held = 0
        self.changed = threading.Condition()
        for run in (self.read, self.write):
            threading.Thread(target=self.guarded, args=(run,), daemon=True).start()

    def guarded(self, run):
        try:
            run()
        except OSError:
            reset(self.source)
            reset(self.sink)
            with self.changed:
                self.queue.append((0, None))
                self.held = 0
                self.changed.notify_all()

    def read(self):
        while True:
            data = self.source.recv(CHUNK)
            with self.changed:
                self.queue.append((time.monotonic() + self.relay.delay, data or None))
                self.held += len(data)
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.held < HELD)
            if not data:
                return

    def write(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.queue)
                when, data = self.queue.popleft()
            self.relay.moving.wait()
            if (wait := when - time.monotonic()) > 0:
                time.sleep(wait)
            if data is None:
                self.sink.shutdown(socket.SHUT_WR)
                return
            self.send(data)
            with self.changed:
                self.held -= len(data)
                self.changed.notify_all()

    def send(self, data):
        while data:
            self.relay.moving.wait()
            part = data[:max(1, self.relay.rate // 20)] if self.relay.rate else data
            self.sink.sendall(part)
            self.relay.count(len(part))
            if self.relay.rate:
                time.sleep(len(part) / self.relay.rate)
            data = data[len(part):]


class Relay:
    def __init__(self, target, listen=("127.0.0.1", 0), inside=contextlib.nullcontext, delay=0.0, rate=0):
        """inside: a context in which sockets are made, such as Host.inside."""
        self.target, self.listen, self.inside = target, listen, inside
        self.delay, self.rate, self.refuse = delay, rate, False
        self.moving = threading.Event()
        self.moving.set()
        self.lock = threading.Lock()
        self.bytes = 0
        self.sockets = set()

    def __enter__(self):
        with self.inside():
            self.server = socket.create_server(self.listen)
        self.address = "%s:%d" % self.server.getsockname()[:2]
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        reset(self.server)
        self.thaw()
        self.cut()

    def count(self, n):
        with self.lock:
            self.bytes += n

    def accept(self):
        with self.inside():
            while True:
                try:
                    client, _ = self.server.accept()
                except OSError:
                    return
                if self.refuse:
                    reset(client)
                    continue
                try:
                    server = socket.create_connection(self.target, 5)
                except OSError:
                    reset(client)
                    continue
                server.settimeout(None)
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self.lock:
                    self.sockets |= {client, server}
                Way(self, client, server)
                Way(self, server, client)

    def freeze(self):
        self.moving.clear()

    def thaw(self):
        self.moving.set()

    def cut(self):
        with self.lock:
            sockets, self.sockets = self.sockets, set()
        for sock in sockets:
            reset(sock)


if __name__ == "__main__":
    port, host, to, *more = sys.argv[1:]
    with Relay((host, int(to)), ("0.0.0.0", int(port)), delay=float(more[0]) if more else 0.0,
               rate=int(more[1]) if len(more) > 1 else 0) as made:
        print(made.address, flush=True)
        threading.Event().wait()
