"""The network of namespaces that the tests of the swarm stand on: rates, cuts, and pulls inside of it."""
import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import (Authority, Cluster, Dns, E2E, Etcd, Network, Relay, Running, image, main, say, wait_for)  # noqa: E402
from harness.peer import (DESCRIBE, DESCRIPTION, GET, PIECE, Liar, peer_pb2,  # noqa: E402
                          piece_list)

MIB = 1 << 20


def serve(inside, address, data):
    """Whoever connects gets it."""
    with inside():
        server = socket.create_server((address, 0))

    def answer(client):
        with client, contextlib.suppress(OSError):
            client.sendall(data)

    def run():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
    threading.Thread(target=run, daemon=True).start()
    return server


def get(inside, address, got=None):
    """Bytes that come until the end, and the seconds it took. got: a list to which parts' sizes go."""
    began = time.monotonic()
    n = 0
    with inside():
        client = socket.create_connection(address, 10)
    with client:
        while data := client.recv(1 << 16):
            n += len(data)
            if got is not None:
                got.append(len(data))
    return n, time.monotonic() - began


class Net(E2E):
    def test_rates_and_cuts(self):
        """A link has the rate it was given, each way; a cut one passes nothing until it is mended."""
        net = self.enter(Network())
        a, b = net.host("a"), net.host("b")
        server = serve(a.inside, a.address, bytes(4 * MIB))
        self.addCleanup(server.close)
        to = server.getsockname()
        fast, seconds = get(b.inside, to)
        say("no limit:", seconds)
        self.assertEqual(fast, 4 * MIB)
        for side in ("up", "down"):
            (a if side == "up" else b).limit(**{side: "50mbit"})
            n, seconds = get(b.inside, to)
            say(side, n / seconds * 8 / 1e6, "Mbit/s")
            self.assertEqual(n, 4 * MIB)
            self.assertLess(n / seconds * 8 / 1e6, 55)
            self.assertGreater(n / seconds * 8 / 1e6, 20)
            (a if side == "up" else b).limit()
        a.limit(up="20mbit")
        got = []
        running = Running(get, (b.inside, to, got), {})
        wait_for("some bytes", lambda: sum(got) > MIB)
        a.cut()
        time.sleep(0.3)
        before = sum(got)
        time.sleep(0.3)
        self.assertEqual(sum(got), before)
        a.mend()
        self.assertEqual(running.result()[0], 4 * MIB)
        self.assertGreater(a.counted()[1], 12 * MIB)

    def test_relay(self):
        """The relay delays, slows, freezes, cuts and refuses."""
        net = self.enter(Network())
        a, b = net.host("a"), net.host("b")
        server = serve(a.inside, a.address, bytes(2 * MIB))
        self.addCleanup(server.close)
        relay = self.enter(Relay(server.getsockname(), (a.address, 7481), a.inside))
        to = (a.address, 7481)
        self.assertEqual(get(b.inside, to)[0], 2 * MIB)
        relay.delay = 0.2
        n, seconds = get(b.inside, to)
        self.assertEqual(n, 2 * MIB)
        self.assertGreater(seconds, 0.2)
        relay.delay, relay.rate = 0, 2 * MIB
        got = []
        running = Running(get, (b.inside, to, got), {})
        wait_for("some bytes", lambda: sum(got) > MIB // 4)
        relay.freeze()
        time.sleep(0.2)
        before = sum(got)
        time.sleep(0.3)
        self.assertEqual(sum(got), before)
        relay.thaw()
        wait_for("more bytes", lambda: sum(got) > before)
        relay.cut()
        with self.assertRaises(OSError):
            running.result()
        relay.refuse = True
        with self.assertRaises(OSError):
            get(b.inside, to)

    def test_pulls_inside(self):
        """containerd and ctr inside a namespace pull from the registry in another, over a slow link, and run it; so
        does the pull without containerd. The registry tells who asked."""
        c = self.enter(Cluster(self.folder, registry_link="200mbit"))
        a = c.node("a", start=False, containerd=True, p2p={"listen": ""})
        b = c.node("b", start=False, p2p={"listen": ""})
        a.start()
        b.start()
        one = image("demo/small:v1")
        began = time.monotonic()
        a.start_ctr("demo/small:v1").result()
        a.containerd.whole(c.registry.ref("demo/small:v1"), "v1")
        gets = c.registry.blob_gets()
        self.assertEqual({r.client for r in gets}, {a.host.address})
        self.assertEqual(sorted(r.name for r in gets), sorted([one["config"], *one["layers"]]))
        a.start_cri("demo/mid:v1").result()
        a.containerd.whole(c.registry.ref("demo/mid:v1"), "v1", ns="k8s.io")
        say("both in", time.monotonic() - began)
        c.registry.requests()
        puller = b.image("demo/mid:v1")
        puller.check()
        say(puller.fetched)
        gets = c.registry.blob_gets()
        self.assertEqual({r.client for r in gets}, {b.host.address})
        mid = image("demo/mid:v1")
        self.assertEqual(sorted(r.name for r in gets), sorted([mid["config"], *mid["layers"]]))
        self.assertEqual(sum(r.size for r in gets), sum(f.got for f in puller.fetched.values()) -
                         mid["target"]["size"])

    def test_certificates(self):
        """openssl itself thinks of them what it should."""
        ours, other = Authority(self.folder / "ours"), Authority(self.folder / "other", "another")
        good, key = ours.issue("a", ["10.77.0.11"], into=self.folder / "a")
        self.assertTrue(key.is_file())
        ours.openssl("verify", "-CAfile", ours.ca, good)
        for bad in (ours.issue("b", expired=True)[0], other.issue("c")[0]):
            with self.assertRaisesRegex(AssertionError, "verif|expired"):
                ours.openssl("verify", "-CAfile", ours.ca, bad)

    def test_peers_of_our_own(self):
        """Two of them greet each other by TLS, and ask and answer."""
        c = self.enter(Cluster(self.folder, registry=None, size=2))
        data = os.urandom(2 * MIB + 5)
        serving = self.enter(Liar(c, c.net.host("a"), describe=lambda digest, size: peer_pb2.Description(
            state=peer_pb2.WHOLE, list=piece_list(data)), piece=lambda digest, size, k: (0, data[k * MIB:][:MIB])))
        wire = Liar(c, c.net.host("b")).dial(serving.address)
        wire.send(DESCRIBE, peer_pb2.Describe(digest="sha256:12", size=len(data)))
        kind, payload = wire.receive()
        self.assertEqual(kind, DESCRIPTION)
        self.assertEqual(len(peer_pb2.Description.FromString(payload).list), 64)
        wire.send(GET, peer_pb2.Get(piece=2))
        self.assertEqual(wire.receive(), (PIECE, bytes([0, 0, 0, 2, 0, 0, 0, 0]) + data[2 * MIB:]))
        wire.close()

    def test_names(self):
        """The DNS server answers, fails, and is silent."""
        net = self.enter(Network())
        dns = self.enter(contextlib.closing(Dns(net.address, {"nodes.test": ["10.77.0.11", "10.77.0.12"]})))
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {net.address}\noptions timeout:1 attempts:1\n")
        ask = net.host("a").argv("sh", "-c", f"mount --bind {resolv} /etc/resolv.conf && exec getent ahostsv4 nodes.test")

        def found():
            done = subprocess.run(["unshare", "--mount", "--", *ask], stdout=subprocess.PIPE, text=True, check=False)
            return {line.split()[0] for line in done.stdout.splitlines()}
        self.assertEqual(found(), {"10.77.0.11", "10.77.0.12"})
        for dns.failing in ("servfail", "silent"):
            self.assertEqual(found(), set())

    def test_etcd(self):
        """etcd keeps what it was told over a kill, and answers about leases."""
        net = self.enter(Network())
        etcd = self.enter(Etcd(self.folder, net.host("etcd")))
        lease = etcd.call("lease/grant", TTL=60)["ID"]
        etcd.put("/x/a", "1", lease=lease)
        etcd.put("/x/b", "2")
        self.assertEqual(etcd.all("/x/"), {"/x/a": "1", "/x/b": "2"})
        self.assertEqual(etcd.leases(), [lease])
        etcd.kill()
        etcd.start()
        self.assertEqual(etcd.all(), {"/x/a": "1", "/x/b": "2"})
        etcd.revoke(lease)
        self.assertEqual(etcd.all("/x/"), {"/x/b": "2"})


if __name__ == "__main__":
    main()
