"""Peers that lie, strangers, and noise on the port: nothing wrong is published, and honest peers are unharmed."""
import os
import pathlib
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Authority, main, say, wait_for  # noqa: E402
from harness.peer import ALPN, HELLO, Liar, Wire, arbiter, peer_pb2, piece_list  # noqa: E402
from harness.swarm import MIB, SwarmCase  # noqa: E402


class Liars(SwarmCase):
    """A peer with a valid certificate gives wrong answers about two blobs: one that an honest node holds too, and
    one that nobody else has."""

    SIZE = 4 * MIB

    def begin(self, stall="4s"):
        # With less, an honest one that is late on a busy machine counts as one that stands still: then the registry
        # is asked for what it has.
        c = self.cluster(size=3, registry="scripted", p2p={"stall": stall})
        c.names = "abcz"  # z is the liar
        self.liar = self.enter(Liar(c, c.net.host("z")))
        self.a, self.b, self.d = c.nodes("abc")
        for node in (self.a, self.b, self.d):
            wait_for("the liar to be a member", lambda n=node: self.liar.address in n.members(), 10)
        c.await_directory(self.a, self.b, self.d)
        self.liar.join([self.a, self.b, self.d])
        self.blobs = {}  # digest -> bytes
        for name in ("team/both:v1", "team/alone:v1"):
            digest = self.layers(1, self.SIZE, name, avoid=self.liar.address).layers[0]
            self.blobs[digest] = c.registry.blobs[digest]
        self.finish([self.a.start_image("team/both:v1")])
        self.settled(self.a)
        return c

    def describe(self, other=None, **more):
        """What a holder of the true bytes, or of these others, would say."""
        def answer(digest, _):
            if digest not in self.blobs:
                return None
            return peer_pb2.Description(**{"state": peer_pb2.WHOLE, "list": piece_list(other or self.blobs[digest]),
                                           "proven": True, "originator": self.liar.address, **more})
        return answer

    def right(self, digest, number):
        return self.blobs[digest][number * MIB:(number + 1) * MIB]

    def lies(self, piece, describe=None):
        """b pulls what the honest node has too, and c what only the liar has."""
        self.begin()
        self.liar.describe, self.liar.piece = describe or self.describe(), piece
        self.liar.announce(*self.blobs)
        for node, name, digest, times in zip((self.b, self.d), ("team/both:v1", "team/alone:v1"), self.blobs, (1, 2)):
            say(name)
            pull = node.start_image(name)
            self.finish([pull], 20)
            say(f"it took {pull.seconds:.1f} s, {pull.puller.fetched[digest]}", self.liar.asked)
            self.assertLessEqual(self.c.registry.sent_of({digest}), times * self.SIZE)
            self.assertEqual(node.tool.run("verify").returncode, 0)
            self.assertTrue(node.cairnd.process.alive())
        self.assertIn(("describe", digest, None), self.liar.asked, "it was asked where nobody else has it")

    def test_wrong_bytes(self):
        """The right description, and wrong bytes."""
        self.lies(lambda d, s, k: (0, os.urandom(MIB)))

    def test_one_wrong_bit(self):
        """One bit of one piece is wrong."""
        def piece(digest, _, k):
            data = self.right(digest, k)
            return 0, data if k != 2 else data[:-1] + bytes([data[-1] ^ 1])
        self.lies(piece)

    def test_short_pieces(self):
        """Pieces that are too short, empty, or not there after all."""
        self.lies(lambda d, s, k: (1, b"") if k == 3 else (0, self.right(d, k)[:[0, 1000, MIB - 1, 0][k]]))

    def test_long_pieces(self):
        """Pieces with more bytes than they have."""
        self.lies(lambda d, s, k: (0, self.right(d, k) + b"x" * 70000))

    def test_endless(self):
        """A frame that claims 4 GiB, and bytes for ever."""
        def piece(*_):
            yield bytes([255, 255, 255, 255, 5, 0, 0, 0])
            while True:
                yield os.urandom(1 << 16)
        self.lies(piece)

    def test_silent(self):
        """It describes, and then says nothing."""
        def piece(*_):
            threading.Event().wait(30)
            yield b""
        self.lies(piece)

    def test_slow(self):
        """It gives the right bytes, at 20 KB a second."""
        def piece(digest, _, k):
            data = self.right(digest, k)
            yield (len(data) + 8).to_bytes(4, "big") + b"\5\0\0\0" + k.to_bytes(4, "big") + bytes(4)
            for at in range(0, len(data), 2000):
                yield data[at:at + 2000]
                time.sleep(0.1)
        self.lies(piece)

    def test_another_blob(self):
        """A description and bytes that fit each other, of another blob, said to be proven."""
        other = os.urandom(self.SIZE)
        self.lies(lambda d, s, k: (0, other[k * MIB:(k + 1) * MIB]), self.describe_other(other))

    def test_provisional_garbage(self):
        """The same, said to be growing and not proven, in the name of an innocent originator."""
        other = os.urandom(self.SIZE)
        self.lies(lambda d, s, k: (0, other[k * MIB:(k + 1) * MIB]), self.describe_other(
            other, state=peer_pb2.GROWS, proven=False, have=[0, 1, 2, 3], originator="10.77.0.99:7480"))

    def describe_other(self, other, **more):
        return lambda digest, size: self.describe(other, **more)(digest, size)

    def test_useless_arbiter(self):
        """It answers for some blobs in the directory, and knows nothing: these come all the same."""
        c = self.begin("1s")  # the wait is three times that
        while True:
            one = self.layers(3, MIB)
            if self.liar.address in {arbiter(c.addresses(), d) for d in one.layers}:
                break
        pulls = [n.start_image("team/app:v1") for n in (self.a, self.b, self.d)]
        self.finish(pulls, 15)
        self.assert_sent(one, 3.0)

    def test_nonsense_descriptions(self):
        """Lists that are too long or ragged, pieces that do not exist, many others, no frame at all."""
        cases = [{"list": b"x" * 31}, {"list": b"x" * 32 * 10000}, {"list_from": 2**31}, {"have": [2**32 - 1] * 1000},
                 {"others": ["10.77.0.12:7480", "nonsense", "x" * 5000, "10.77.0.250:1"] * 100}, {"state": 77},
                 {"originator": "\n" * 5000}, {"retry_ms": 2**32 - 1, "state": peer_pb2.BUSY}, {"data": b"x" * 70000},
                 {"data": b"wrong", "state": peer_pb2.WHOLE, "list": b""}]
        c = self.begin()
        for number, fields in enumerate(cases):
            say(number, list(fields))
            name = f"team/case{number}:v1"
            one = self.layers(1, 2 * MIB, name, avoid=self.liar.address)
            self.blobs = {one.layers[0]: c.registry.blobs[one.layers[0]]}
            self.liar.describe = self.describe(**fields)
            self.liar.piece = lambda d, s, k: (0, os.urandom(MIB))
            self.liar.announce(one.layers[0])
            self.finish([self.b.start_image(name)], 20)
            self.assertIn(("describe", one.layers[0], None), self.liar.asked)
            self.assertLessEqual(self.sent(one), 4 * MIB)
        self.assertEqual(self.b.tool.run("verify").returncode, 0)


class Strangers(SwarmCase):
    """Who has no certificate of ours gets nothing, and disturbs nobody."""

    def begin(self):
        c = self.cluster(size=2, registry="scripted")
        self.a, self.b = c.nodes("ab")
        self.one = self.layers(1, MIB)
        self.finish([self.a.start_image("team/app:v1")])
        self.settled(self.a)
        return c

    def connect(self):
        return socket.create_connection((self.a.host.address, 7480), 10)

    def greeting(self, certificate=None):
        """What a says to a Hello of whoever has this certificate; b"" if it closes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([ALPN])
        if certificate:
            context.load_cert_chain(*map(str, certificate))
        with self.connect() as sock:
            try:
                wire = Wire(context.wrap_socket(sock))
                wire.send(HELLO, peer_pb2.Hello(version_min=1, version_max=1, address="10.77.0.1:7480", name="x",
                                                instance=os.urandom(16)))
                return wire.receive()
            except (OSError, EOFError) as error:
                say(type(error).__name__, error)
                return None

    def assert_works(self):
        self.assertTrue(self.a.cairnd.process.alive())
        self.finish([self.b.start_image("team/app:v1")])
        self.assert_sent(self.one, 1.0)

    def test_certificates(self):
        """No certificate, an expired one, one of another authority with the same name: refused. A good one: greeted."""
        c = self.begin()
        other = Authority(self.folder / "other", "test cluster")
        self.assertIsNone(self.greeting())
        self.assertIsNone(self.greeting(c.authority.issue("old", expired=True)))
        self.assertIsNone(self.greeting(other.issue("b")))
        wait_for("the three to be counted", lambda: self.a.metric("cairn_p2p_refused_total") >= 3)
        self.assertIsNotNone(self.greeting(c.authority.issue("good")))
        self.assert_works()

    def test_a_node_with_a_foreign_certificate(self):
        """A whole node of another authority is no member, and gets and gives nothing; its own pulls go on."""
        c = self.cluster(size=3, registry="scripted")
        other = Authority(self.folder / "other", "test cluster")
        a = c.node("a")
        foreign = c.node("b", start=False)
        cert, key = other.issue("b", into=self.folder / "foreign")
        both = self.folder / "both.pem"  # it trusts us; we do not trust it
        both.write_bytes(c.authority.ca.read_bytes() + other.ca.read_bytes())
        foreign.p2p = {"tls": {"ca": str(both), "cert": str(cert), "key": str(key)}}
        foreign.start()
        late = c.node("c")
        c.await_members(a, late)
        one = self.layers(1, 2 * MIB)
        self.finish([a.start_image("team/app:v1")])
        self.settled(a)
        self.finish([foreign.start_image("team/app:v1")], 10)
        self.assert_sent(one, 2.0, 2.0)
        self.assertNotIn(foreign.address, a.members())
        self.finish([late.start_image("team/app:v1")])
        self.assert_sent(one, 2.0, 2.0)

    def test_garbage_on_the_port(self):
        """Noise, half a handshake, a plain HTTP request, hundreds of connections that say nothing."""
        self.begin()
        for data in (os.urandom(5000), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"",
                     b"\x16\x03\x01\xff\xff" + bytes(70000)):
            with self.connect() as sock:
                try:
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                    sock.settimeout(15)
                    while sock.recv(4096):
                        pass
                except OSError as error:
                    say(type(error).__name__, error)
        silent = []
        try:
            for _ in range(40):
                silent.append(self.connect())
            say("40 silent connections are open")
            self.assert_works()
            for _ in range(400):
                silent.append(self.connect())
            say("and 400 more: a new blob comes, be it from whom it may")
            self.layers(1, MIB, "team/two:v1")
            self.finish([self.a.start_image("team/two:v1")])
            self.finish([self.b.start_image("team/two:v1")], 10)
        finally:
            for sock in silent:
                sock.close()

    def test_garbage_by_a_member(self):
        """One with a good certificate sends frames that are none: its connection ends, and nothing else does."""
        c = self.begin()
        peer = Liar(c, c.net.host("z"))
        for payload in (os.urandom(300), bytes([0, 0, 0, 5, 99, 0, 0, 0]) + b"hello",
                        bytes([255, 255, 255, 255, 2, 0, 0, 0]), bytes([0, 0, 0, 3, 2, 0, 0, 0]) + b"\xff\xff\xff",
                        bytes([0, 0, 0, 0, 4, 0, 0, 0]), bytes([0, 0, 0, 0, 6, 0, 0, 0]) * 1000,
                        bytes([0, 0, 0, 0, 2, 1, 2, 3]), bytes([0, 0, 0, 2, 4, 0, 0, 0]) + b"\x08\x07"):
            wire = peer.dial(self.a.address)
            try:
                wire.sock.sendall(payload)
                wire.sock.settimeout(2)
                while wire.sock.recv(4096):
                    pass
            except OSError as error:
                say(type(error).__name__, error)
            wire.close()
        self.assert_works()


if __name__ == "__main__":
    main()
