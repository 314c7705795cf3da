"""The directory may come and go: pulls go on, and what it was is made good by itself. With real etcd, and with names
of a DNS server that fails."""
import contextlib
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Dns, all_of, digests, main, say, together, wait_for  # noqa: E402
from harness.swarm import MIB, PATIENT, SwarmCase  # noqa: E402


class Etcd(SwarmCase):
    def begin(self, size=3, names=None, **options):
        c = self.cluster(size=size, registry="scripted", directory="etcd", **options)
        self.nodes = c.nodes(names or "abcdefgh"[:size])
        return c

    def share(self, name, times=1.0, nodes=None):
        """The first pulls a new image, then the others at once: it came from the registry so many times."""
        first, *others = nodes or self.nodes
        one = self.layers(2, 2 * MIB, name)
        self.finish([first.start_image(name)])
        if times == 1.0:
            self.settled(first)
        self.finish([n.start_image(name) for n in others])
        self.assert_sent(one, times)
        return one

    def await_members(self, *nodes, seconds=20):
        self.c.await_members(*nodes, seconds=seconds)

    def test_cold(self):
        """Three cold nodes with containerd at once: the registry serves the image once, and it runs."""
        c = self.cluster(size=3, directory="etcd", registry_link="200mbit", p2p=PATIENT)
        nodes = c.nodes("abc", containerd=True)
        self.gets()
        all_of(together(*[lambda n=node: n.start_cri("demo/wide:v1").result() for node in nodes]))
        self.assertLessEqual(sum(r.size for r in self.gets()) / self.size("demo/wide:v1"), 1.05)
        self.run_all(nodes, "demo/wide:v1", "k8s.io")
        for node in nodes:
            self.assertLessEqual(digests("demo/wide:v1"), node.held())
        keys = c.etcd.all("/cairn/")
        say(len(keys), "keys", sorted(keys)[:40])
        self.assertEqual(c.etcd.all(), keys, "nothing outside of the prefix")
        for node in nodes:
            node.cairnd.stop()
        wait_for("all keys to be gone", lambda: c.etcd.all("/cairn/") == {}, 5)

    def test_killed_and_restarted(self):
        """etcd is killed: pulls go on without it; it comes back, and the cluster is one again, with what was pulled
        meanwhile."""
        c = self.begin()
        self.share("team/one:v1")
        c.etcd.kill()
        say("etcd is dead")
        one = self.layers(2, 2 * MIB, "team/two:v1")
        pull = self.nodes[0].start_image("team/two:v1")
        self.finish([pull])
        self.assertLess(self.decided(pull), 3)
        self.assertTrue(all(n.cairnd.client().health() == "SERVING" for n in self.nodes))
        pulls = [n.start_image("team/two:v1") for n in self.nodes[1:]]
        self.finish(pulls)
        self.assertLessEqual(self.sent(one), 3 * 4 * MIB)
        c.etcd.start()
        self.await_members(*self.nodes)
        self.settled(*self.nodes)
        self.share("team/three:v1")

    def test_restarted_empty(self):
        """etcd comes back without its data: all is announced anew."""
        c = self.begin()
        one = self.layers(2, 2 * MIB, "team/one:v1")
        self.finish([self.nodes[0].start_image("team/one:v1")])
        self.settled(self.nodes[0])
        c.etcd.kill()
        subprocess.run(["rm", "-rf", c.etcd.folder / "data"], check=True)
        c.etcd.start()
        self.await_members(*self.nodes)
        self.settled(*self.nodes)
        self.finish([n.start_image("team/one:v1") for n in self.nodes[1:]])
        self.assert_sent(one, 1.0)

    def test_killed_while_it_downloads(self):
        """etcd is killed while one downloads and the others get it from him: they end well, with no more than a
        second download."""
        c = self.begin(registry_link="40mbit")
        one = self.layers(1, 8 * MIB)
        pulls = [n.start_image("team/app:v1") for n in self.nodes]
        wait_for("it to come", lambda: self.sent(one) > 2 * MIB)
        c.etcd.kill()
        self.finish(pulls)
        self.assert_sent(one, 2.0)

    def test_partitioned(self):
        """One node does not reach etcd, but its peers: its pulls go on, and all is well when etcd is back. Then etcd
        alone is cut off."""
        c = self.begin()
        blocked = self.nodes[0]
        drop = ["blackhole", c.etcd.host.address]
        self.route(blocked, "add", *drop)
        say("a does not reach etcd")
        wait_for("the others to miss it", lambda: blocked.address not in self.nodes[1].members(), 40)
        self.layers(2, 2 * MIB, "team/one:v1")
        pulls = [n.start_image("team/one:v1") for n in self.nodes]
        self.finish(pulls)
        self.assertLess(max(p.seconds for p in pulls), 10)
        self.route(blocked, "del", *drop)
        self.await_members(*self.nodes, seconds=30)
        self.settled(*self.nodes)
        self.share("team/two:v1")
        say("nobody reaches etcd")
        c.etcd.host.cut()
        one = self.layers(1, 2 * MIB, "team/three:v1")
        pulls = [n.start_image("team/three:v1") for n in self.nodes]
        self.finish(pulls)
        self.assertLess(max(p.seconds for p in pulls), 10)
        self.assertLessEqual(self.sent(one), 3 * 2 * MIB)
        c.etcd.host.mend()
        self.await_members(*self.nodes, seconds=30)
        self.settled(*self.nodes)
        self.share("team/four:v1")

    def route(self, node, *args):
        subprocess.run(["ip", "-n", node.host.netns, "route", *args], check=True)

    def test_stale_keys(self):
        """etcd is full of records of nodes that are long gone, and of nonsense: pulls find what is there soon."""
        c = self.begin(size=3, names="ab")
        one = self.layers(2, 2 * MIB)
        a, b = self.nodes
        self.finish([a.start_image("team/app:v1")])
        self.settled(a)
        keys = c.etcd.all("/cairn/")
        say(len(keys), sorted(keys)[:20])
        text = [key for key in keys if a.address in key or a.address in keys[key]]
        self.assertTrue(text, "the records name the node by its address")
        for number in range(200):
            ghost = f"10.77.0.{200 + number % 50}:{7000 + number}"
            for key in text:
                value = keys[key].replace(a.address, ghost)
                if ghost in key.replace(a.address, ghost) or value != keys[key]:
                    with contextlib.suppress(AssertionError):
                        c.etcd.put(key.replace(a.address, ghost) + ("" if a.address in key else f"-{number}"), value)
        for number, key in enumerate(keys):
            c.etcd.put(key + "x", "\x01nonsense" * number)
            c.etcd.put(key + "/y/z", "")
        say(len(c.etcd.all("/cairn/")), "keys now")
        pull = b.start_image("team/app:v1")
        self.finish([pull])
        say(f"b took {pull.seconds:.1f} s")
        self.assertLess(pull.seconds, 15)
        self.assert_sent(one, 2.0)
        late = c.node("c")
        pull = late.start_image("team/app:v1")
        self.finish([pull])
        self.assertLess(pull.seconds, 15)

    def test_lease_lost(self):
        """A node's lease is revoked while it lives: it announces itself again, and what it holds."""
        c = self.begin()
        one = self.layers(2, 2 * MIB)
        self.finish([self.nodes[0].start_image("team/app:v1")])
        self.settled(self.nodes[0])
        def told():
            """Of what there are keys: their last part may be another."""
            return sorted(key.rsplit("/", 1)[0] for key in c.etcd.all("/cairn/"))
        before = told()
        say(before)
        for lease in c.etcd.leases():
            c.etcd.revoke(lease)
        wait_for("every key to be there again", lambda: told() == before)
        self.await_members(*self.nodes)
        self.finish([n.start_image("team/app:v1") for n in self.nodes[1:]])
        self.assert_sent(one, 1.0)

    def test_frozen(self):
        """etcd is stopped, and says nothing: nobody waits for it longer than p2p.decide."""
        c = self.begin(p2p={"decide": "100ms"})
        self.share("team/first:v1")  # etcd has answered: the time after a start is over
        c.etcd.process.signal(19)
        pull = self.nodes[0].start_image("team/app:v1") if self.layers(4, MIB) else None
        self.finish([pull])
        self.assertLess(self.decided(pull), 2)
        c.etcd.process.signal(18)
        self.await_members(*self.nodes, seconds=30)
        self.settled(*self.nodes)
        self.share("team/two:v1")

    def test_not_there_at_start(self):
        """etcd is not there when nodes start: they serve pulls, and become a cluster when it is."""
        c = self.cluster(size=2, registry="scripted", directory="etcd")
        c.etcd.kill()
        self.nodes = [c.node(name) for name in "ab"]
        one = self.layers(1, MIB, "team/one:v1")
        self.finish([n.start_image("team/one:v1") for n in self.nodes])
        self.assert_sent(one, 2.0, 2.0)
        c.etcd.start()
        self.await_members(*self.nodes, seconds=30)
        self.share("team/two:v1")


class Names(SwarmCase):
    """static, with one DNS name for all nodes, as a headless service has it."""

    def begin(self, failing=""):
        c = self.cluster(size=3, registry="scripted")
        self.dns = self.enter(contextlib.closing(Dns(c.net.address, {})))
        self.dns.failing = failing
        self.dns.names["nodes.test"] = [c.net.host(name).address for name in "ab"]
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {c.net.address}\noptions timeout:1 attempts:1\n")
        subprocess.run(["mount", "--bind", resolv, "/etc/resolv.conf"], check=True)
        self.stack.callback(subprocess.run, ["umount", "/etc/resolv.conf"], check=True)
        c.p2p["peers"] = ["nodes.test:7480"]
        return c

    def share(self, nodes, name):
        one = self.layers(1, 2 * MIB, name)
        self.finish([nodes[0].start_image(name)])
        self.settled(nodes[0])
        self.finish([n.start_image(name) for n in nodes[1:]])
        self.assert_sent(one, 1.0)

    def test_name(self):
        """All addresses of the name are peers; one that is added later is found, without a restart."""
        c = self.begin()
        a, b = c.nodes("ab")
        self.share([a, b], "team/one:v1")
        self.dns.names["nodes.test"].append(c.net.host("c").address)
        late = c.node("c")
        c.await_members(a, b, late, seconds=60)
        self.share([late, a, b], "team/two:v1")

    def test_fails_and_recovers(self):
        """The server fails, then is silent: those who know each other stay together; pulls go on."""
        c = self.begin()
        a, b = c.nodes("ab")
        for failing in ("servfail", "silent"):
            self.dns.failing = failing
            say(failing)
            time.sleep(3)
            began = time.monotonic()
            self.share([a, b], f"team/{failing}:v1")
            self.assertLess(time.monotonic() - began, 10)

    def test_fails_at_start(self):
        """Nodes that start while it fails serve pulls, and find each other when it works."""
        c = self.begin("servfail")
        a, b = c.node("a"), c.node("b")
        one = self.layers(1, MIB, "team/one:v1")
        self.finish([n.start_image("team/one:v1") for n in (a, b)])
        self.assert_sent(one, 2.0)
        self.dns.failing = ""
        c.await_members(a, b, seconds=60)
        self.share([a, b], "team/two:v1")


if __name__ == "__main__":
    main()
