"""A peer of our own making, which speaks cairn.peer.v1 and may lie. See proto/peer.proto and p2p/frame.h."""
import contextlib
import ctypes
import os
import socket
import ssl
import struct
import threading

from harness.content import compile_protos

compile_protos()
import peer_pb2  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
HELLO, DESCRIBE, DESCRIPTION, GET, PIECE, LEAVE, REQUEST, RESPONSE = range(1, 9)
ALPN = "cairn-peer/1"
CRYPTO = ctypes.CDLL("libcrypto.so.3")


def piece_size(size):
    """As cache/pieces.h has it."""
    piece = MIB
    while (size + piece - 1) // piece > 16384:
        piece *= 2
    return piece


def piece_list(data):
    """The entries of a blob's piece list, one after the other: sha256's state at the end of each piece but the last."""
    state = ctypes.create_string_buffer(112)  # SHA256_CTX: h[8], and what does not matter at a block's end
    CRYPTO.SHA256_Init(state)
    piece, out = piece_size(len(data)), b""
    for at in range(0, len(data) - piece, piece):
        CRYPTO.SHA256_Update(state, data[at:at + piece], ctypes.c_size_t(piece))
        out += struct.pack(">8I", *struct.unpack("8I", state.raw[:32]))
    return out


def mix(x):
    for factor in (0xff51afd7ed558ccd, 0xc4ceb9fe1a85ec53):
        x = (x ^ x >> 33) * factor & 2**64 - 1
    return x ^ x >> 33


def fnv1a(data):
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 & 2**64 - 1
    return h


def arbiter(addresses, digest):
    """Which of these members answers for the digest in the static directory: p2p/rendezvous.h."""
    of_digest = mix(fnv1a(b"\1" + bytes.fromhex(digest[7:])))
    return max(addresses, key=lambda address: mix(mix(fnv1a(address.encode())) ^ of_digest))


class Wire:
    """Frames over a socket."""

    def __init__(self, sock):
        self.sock = sock
        self.lock = threading.Lock()

    def send(self, kind, payload=b""):
        if hasattr(payload, "SerializeToString"):
            payload = payload.SerializeToString()
        with self.lock:
            self.sock.sendall(struct.pack(">IB3x", len(payload), kind) + payload)

    def exactly(self, n):
        out = b""
        while len(out) < n:
            part = self.sock.recv(n - len(out))
            if not part:
                raise EOFError("the other side has closed")
            out += part
        return out

    def receive(self):
        """(kind, payload)"""
        size, kind = struct.unpack(">IB3x", self.exactly(8))
        return kind, self.exactly(size)

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class Liar:
    """Serves on host's port 7480 with a certificate of the cluster's, and says in its answers what `describe` and
    `piece` say. With neither it is a node that has nothing, and well-behaved: it answers pings and directory
    questions.

    describe(digest, size) -> Description or None (ABSENT)
    piece(digest, size, number) -> (status, bytes), or a generator of what to send raw"""

    def __init__(self, cluster, host, name=None, port=7480, describe=None, piece=None, certificate=None):
        self.cluster, self.host = cluster, host
        self.name = name or host.name
        self.address = f"{host.address}:{port}"
        self.describe, self.piece = describe, piece
        cert, key = certificate or cluster.authority.issue(self.name, [host.address])
        self.files = (str(cert), str(key), str(cluster.authority.ca))
        self.instance = os.urandom(16)
        self.asked = []    # (what, digest, piece or None) of Describe and Get
        self.wires = set()
        self.links = []
        self.lock = threading.Lock()  # of what is said on links
        self.ended = threading.Event()
        self.port = port

    def __enter__(self):
        with self.host.inside():
            self.server = socket.create_server((self.host.address, self.port))
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for wire in list(self.wires):
            wire.close()

    def context(self, server):
        cert, key, ca = self.files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols([ALPN])
        context.load_cert_chain(cert, key)
        context.load_verify_locations(ca)
        return context

    def hello(self):
        return peer_pb2.Hello(version_min=1, version_max=1, address=self.address, name=self.name,
                              instance=self.instance)

    def dial(self, address):
        """A Wire to a node, after the Hellos."""
        host, port = address.rsplit(":", 1)
        with self.host.inside():
            sock = socket.create_connection((host, int(port)), 10)
        try:
            wire = Wire(self.context(False).wrap_socket(sock))
            wire.send(HELLO, self.hello())
            kind, _ = wire.receive()
        except BaseException:
            sock.close()
            raise
        if kind != HELLO:
            raise AssertionError(f"frame {kind} instead of a Hello")
        self.wires.add(wire)
        return wire

    def ask(self, wire, op, digests=(), **fields):
        """A question to the arbiter. digests: "sha256:..."."""
        raw = [b"\1" + bytes.fromhex(d[7:]) for d in digests]
        wire.send(REQUEST, peer_pb2.DirectoryRequest(op=op, digests=raw, **fields))
        kind, payload = wire.receive()
        if kind != RESPONSE:
            raise AssertionError(f"frame {kind} instead of an answer of the directory")
        return peer_pb2.DirectoryResponse.FromString(payload)

    def join(self, nodes):
        """Be a member in the eyes of these: a link to each, on which it is heard of twice a second."""
        for node in nodes:
            wire = self.dial(node.address)
            self.ask(wire, peer_pb2.DirectoryRequest.PING, join=True)
            self.links.append(wire)
        threading.Thread(target=self.ping, daemon=True).start()

    def ping(self):
        while not self.ended.wait(0.5):
            with self.lock, contextlib.suppress(OSError, EOFError):
                for wire in self.links:
                    self.ask(wire, peer_pb2.DirectoryRequest.PING)

    def announce(self, *digests):
        """Say to all whose member it is, one of whom is the arbiter, that it has these."""
        with self.lock:
            for wire in self.links:
                self.ask(wire, peer_pb2.DirectoryRequest.ANNOUNCE, digests)

    def accept(self):
        while True:
            try:
                sock, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        with contextlib.suppress(OSError, EOFError, struct.error):
            wire = Wire(self.context(True).wrap_socket(sock, server_side=True))
            self.wires.add(wire)
            wire.receive()
            wire.send(HELLO, self.hello())
            self.talk(wire)
        with contextlib.suppress(OSError):
            sock.close()

    def talk(self, wire):
        described = None
        while True:
            kind, payload = wire.receive()
            if kind == REQUEST:
                wire.send(RESPONSE, peer_pb2.DirectoryResponse(life=1))
            elif kind == DESCRIBE:
                described = peer_pb2.Describe.FromString(payload)
                self.asked.append(("describe", described.digest, None))
                answer = self.describe(described.digest, described.size) if self.describe else None
                wire.send(DESCRIPTION, answer or peer_pb2.Description(state=peer_pb2.ABSENT))
            elif kind == GET:
                number = peer_pb2.Get.FromString(payload).piece
                self.asked.append(("get", described.digest, number))
                self.give(wire, number, self.piece(described.digest, described.size, number))

    def give(self, wire, number, answer):
        if isinstance(answer, tuple):
            status, data = answer
            wire.send(PIECE, struct.pack(">II", number, status) + data)
            return
        for part in answer:
            wire.sock.sendall(part)
