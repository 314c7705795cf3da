"""Nodes of a cluster get their blobs from each other, and from the registry once."""
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import (Authority, Outcome, Running, all_of, digests, image, main, say, together, wait_for)  # noqa: E402
from harness.swarm import MIB, PATIENT, SwarmCase  # noqa: E402


class Cold(SwarmCase):
    """Pulls by containerd, of images that no node has."""

    def pull_and_count(self, nodes, name, start, ns):
        self.c.registry.requests()
        began = time.monotonic()
        all_of(together(*[lambda n=node: start(n).result(120) for node in nodes]), 120)
        say(f"{len(nodes)} pulls of {name} took {time.monotonic() - began:.1f} s")
        gets = self.gets()
        total = sum(r.size for r in gets) / self.size(name)
        say(f"the registry sent {total:.3f} of the image", [(r.client, r.name[:19], r.size) for r in gets])
        self.assertLessEqual(total, 1.05)
        self.run_all(nodes, name, ns)
        for node in nodes:
            self.assertLessEqual(digests(name), node.held())

    def test_five_at_once(self):
        """Five cold nodes pull by CRI, then by ctr: the registry serves each image once; a container of each runs."""
        c = self.cluster(size=5, registry_link="200mbit", p2p=PATIENT)
        nodes = c.nodes("abcde", containerd=True)
        self.pull_and_count(nodes, "demo/wide:v1", lambda n: n.start_cri("demo/wide:v1"), "k8s.io")
        say("by ctr, another image with the same base")
        self.pull_and_count(nodes, "demo/mid:v1", lambda n: n.start_ctr("demo/mid:v1"), "default")
        say("and everything that a node holds is what it is called")
        for node in nodes:
            self.assertEqual(node.tool.run("verify").returncode, 0)
        got = sum(n.from_peers() for n in nodes)
        self.assertGreater(got, 3.5 * self.size("demo/wide:v1"))

    def test_two_and_a_late_one(self):
        """Two cold nodes at once; a third that starts later, while the registry has lost all blobs."""
        c = self.cluster(size=3, registry_link="200mbit", p2p=PATIENT)
        a, b = c.nodes("ab", containerd=True)
        self.pull_and_count([a, b], "demo/mid:v1", lambda n: n.start_cri("demo/mid:v1"), "k8s.io")
        self.settled(a, b)
        c.registry.hide_blobs(["demo/mid:v1"])
        late = c.node("c", containerd=True)
        c.await_members(a, b, late)
        late.start_cri("demo/mid:v1").result()
        self.assertEqual(self.gets(), [], "the tag alone is asked for")
        self.run_all([late], "demo/mid:v1", "k8s.io")

    def test_multi_platform_index(self):
        """An index and its manifest come from peers too."""
        c = self.cluster(size=2)
        a, b = c.nodes("ab", containerd=True)
        a.start_cri("demo/multi:v1").result()
        self.settled(a)
        self.gets()
        b.start_cri("demo/multi:v1").result()
        self.assertEqual(self.gets(), [])
        self.run_all([b], "demo/multi:v1", "k8s.io")


class Shares(SwarmCase):
    """Who gives what to whom; pulls without containerd, but where its labels matter."""

    def test_joins_while_others_download(self):
        """One comes when the others are half through: it gets the rest as it arrives, and what was there from them."""
        c = self.cluster(size=3, registry="scripted", registry_link="60mbit", p2p=PATIENT)
        a, b = c.nodes("ab")
        one = self.layers(2, 8 * MIB)
        running, go_on = self.pull_a_part([a, b], one, 4 * MIB)
        late = c.node("c")
        c.await_members(a, b, late)
        last = late.start_image("team/app:v1")
        wait_for("it to get what is there", lambda: late.from_peers() > 0, 20)
        self.assertTrue(all(r.running() for r in running))
        go_on.set()
        self.finish([*running, last])
        self.assert_sent(one, 1.05)

    def pull_a_part(self, nodes, one, part):
        """They pull; whoever downloads has got that part of each layer, and pauses until the event is set."""
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def pace(fetched):
            if fetched.digest in one.layers and fetched.got >= part:
                go_on.wait(60)
        running = [node.start_image("team/app:v1", pace=pace) for node in nodes]
        pullers = [r.puller for r in running]

        def is_there():
            return all(any(p.fetched[d].got >= part for p in pullers if d in p.fetched) for d in one.layers)
        wait_for("a part of it to be there", is_there, 30)
        return running, go_on

    def test_one_has_half(self):
        """A node that has half of the layers gives these; all other bytes come once."""
        c = self.cluster(size=3, p2p=PATIENT)
        nodes = c.nodes("abc")
        nodes[0].image("demo/wide:half")
        self.settled(nodes[0])
        half = image("demo/wide:half")
        self.gets()
        self.pull_all(nodes, "demo/wide:v1")
        gets = self.gets()
        # a pull of a tag asks the registry for its manifest, and our puller does so by GET
        blobs = [r for r in gets if r.kind == "blobs"]
        self.assertEqual({r.name for r in blobs} & {*half["layers"], half["config"]}, set())
        rest = set(image("demo/wide:v1")["layers"]) - set(half["layers"])
        self.assertEqual(sorted(r.name for r in blobs), sorted([*rest, image("demo/wide:v1")["config"]]))

    def test_small_blobs(self):
        """Manifest and config come from peers, also when many ask at once."""
        c = self.cluster(size=5, registry="scripted", p2p=PATIENT)
        nodes = c.nodes("abcde")
        r = c.registry
        one = r.image("team/small:v1", [b"layer"])
        running = [n.start_image("team/small:v1") for n in nodes]
        self.finish(running)
        self.assertEqual([len(r.gets(name=d)) for d in (one.manifest, one.config, *one.layers)], [1, 1, 1])
        hows = [f.how for pull in running for f in pull.puller.fetched.values()]
        self.assertEqual(hows.count("registry"), 3)

    def test_nothing_but_zeros_and_edges(self):
        """Blobs of 1 byte, of exactly a piece, one byte more and less, and of zeros arrive unharmed."""
        c = self.cluster(size=2, registry="scripted")
        a, b = c.nodes("ab")
        sizes = [1, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 17]
        one = c.registry.image("team/edges:v1", [bytes([n % 256]) * size for n, size in enumerate(sizes)])
        self.finish([a.start_image("team/edges:v1")])
        self.settled(a)
        sent = self.sent(one)
        self.finish([b.start_image("team/edges:v1")])
        self.assertEqual(self.sent(one), sent)

    def preheat(self, node, name):
        """A Running of a preheat's Outcome."""
        ref = self.c.registry.ref(name)
        return Running(lambda: Outcome(node.tool.run("--json", "preheat", ref, timeout=60)), (), {})

    def test_preheat_then_pull(self):
        """Preheated on one node: the others pull it, and the registry sends no blob."""
        c = self.cluster(size=3)
        a, b, late = c.nodes("abc", containerd=True)
        outcome = self.preheat(a, "demo/mid:v1").result()
        self.assertEqual(outcome.state, "succeeded", outcome)
        self.settled(a)
        self.gets()
        all_of([n.start_cri("demo/mid:v1") for n in (b, late)])
        a.start_cri("demo/mid:v1").result()
        self.assertEqual(self.gets(), [])
        self.run_all([a, b, late], "demo/mid:v1", "k8s.io")

    def test_two_preheats(self):
        """Preheats on two nodes at once download each blob once; the second job says that peers gave it."""
        c = self.cluster(size=2, registry_link="100mbit", p2p=PATIENT)
        a, b = c.nodes("ab")
        outcomes = all_of([self.preheat(n, "demo/mid:v1") for n in (a, b)])
        self.assertEqual([o.state for o in outcomes], ["succeeded"] * 2, outcomes)
        blobs = [r for r in self.gets() if r.kind == "blobs"]
        one = image("demo/mid:v1")
        self.assertEqual(sorted(r.name for r in blobs), sorted([one["config"], *one["layers"]]))
        sources = [blob["source"] for o in outcomes for d, blob in o.blobs.items() if d in one["layers"]]
        self.assertEqual(sorted(sources), ["peers", "peers", "registry", "registry"], outcomes)

    def test_preheat_meets_pull(self):
        """A preheat on one node while another pulls: one download."""
        c = self.cluster(size=2, registry_link="100mbit", p2p=PATIENT)
        a, b = c.nodes("ab")
        pull = a.start_image("demo/mid:v1")
        heat = self.preheat(b, "demo/mid:v1")
        self.finish([pull])
        self.assertEqual(heat.result().state, "succeeded")
        blobs = [r for r in self.gets() if r.kind == "blobs"]
        one = image("demo/mid:v1")
        self.assertEqual(sorted(r.name for r in blobs), sorted([one["config"], *one["layers"]]))

    def test_what_the_tools_say(self):
        """cairnctl peers, cairnctl status and the metrics tell of peers, grants, transfers and bytes."""
        c = self.cluster(size=3, registry="scripted", registry_link="40mbit", p2p=PATIENT)
        a, b = c.nodes("ab")
        rows = a.peers()
        say(rows)
        gone = f"{c.net.host('c').address}:7480"
        self.assertEqual(rows[a.address]["state"], "self")
        self.assertIn(rows[b.address]["state"], ("member", "connected"))
        self.assertEqual(rows.get(gone, {"state": "gone"})["state"], "gone")
        one = self.layers(1, 8 * MIB)
        running, go_on = self.pull_a_part([a, b], one, 2 * MIB)
        wait_for("both to tell of the layer that is coming", lambda: all(
            one.layers[0] in n.tool.ok("--json", "status") for n in (a, b)))
        go_on.set()
        self.finish(running)
        giver, taker = (a, b) if running[0].puller.fetched[one.layers[0]].how == "registry" else (b, a)
        self.assertGreaterEqual(taker.peers()[giver.address]["from"]["bytes"], 8 * MIB)
        self.assertGreaterEqual(giver.peers()[taker.address]["to"]["bytes"], 8 * MIB)
        self.assertEqual(taker.peers()[giver.address]["name"], giver.name)
        self.assertGreaterEqual(taker.from_peers(), 8 * MIB)
        self.assertGreaterEqual(giver.metric("cairn_p2p_sent_bytes_total"), 8 * MIB)
        self.assertTrue(c.by_name["a"].tool.ok("peers"))

    def test_comes_and_goes(self):
        """A node that is shut down is asked no more, at once; started again it gives what it has."""
        c = self.cluster(size=3, registry="scripted", p2p={"stall": "5s"})
        a, b, late = c.nodes("abc")
        one = self.layers(2, 2 * MIB)
        self.finish([a.start_image("team/app:v1")])
        self.settled(a)
        a.cairnd.stop()
        say("a is gone")
        pull = b.start_image("team/app:v1")
        self.finish([pull])
        self.assertLess(self.decided(pull), 3)
        self.assert_sent(one, 2.0, 2.0)
        b.die()
        say("b was killed; a comes back")
        a.cairnd.start()
        wait_for("b to be missed", lambda: b.address not in late.members(), 10)
        c.await_members(a, late)
        self.settled(a)
        self.finish([late.start_image("team/app:v1")])
        self.assert_sent(one, 2.0, 2.0)

    def test_stale_record(self):
        """A holder was killed a moment ago: a pull asks it in vain, and goes on to the registry soon."""
        c = self.cluster(size=3, registry="scripted")
        a, b, _ = c.nodes("abc")
        one = self.layers(1, 2 * MIB)
        self.finish([a.start_image("team/app:v1")])
        self.settled(a)
        a.cairnd.kill()
        pull = b.start_image("team/app:v1")
        self.finish([pull])
        self.assertLess(pull.seconds, 8)
        self.assert_sent(one, 2.0, 2.0)

    def test_evicted(self):
        """What a node has evicted is asked of it no more."""
        c = self.cluster(size=2, registry="scripted")
        a = c.node("a", extra="gc: {high_watermark: 100%, low_watermark: 100%, min_free: 0%, interval: 1s, "
                              "keep_storage: 0s, keep_versions: 0}\n")
        b = c.node("b")
        c.await_members(a, b)
        one = self.layers(1, 2 * MIB)
        puller = a.image("team/app:v1")
        self.settled(a)
        for digest in one.blobs:
            puller.client.delete(digest)
        wait_for("a to evict it", lambda: not a.held() & one.blobs)
        self.settled(a)
        pull = b.start_image("team/app:v1")
        self.finish([pull])
        self.assertLess(self.decided(pull), 3)
        self.assert_sent(one, 2.0, 2.0)
        self.assertEqual(b.from_peers(), 0)

    def test_denied_repository(self):
        """Blobs of a repository that p2p.share denies stay at home; others do not."""
        c = self.cluster(size=2, p2p={"share": {"allow": ["*"], "deny": ["*/demo/mid"]}})
        a, b = c.nodes("ab", containerd=True)
        secret = digests("demo/mid:v1") - digests("demo/small:v1")
        a.start_cri("demo/mid:v1").result()
        a.start_cri("demo/small:v1").result()
        self.settled(a, but=digests("demo/mid:v1"))
        self.gets()
        b.start_cri("demo/mid:v1").result()
        self.assertLessEqual(secret, {r.name for r in self.gets()})
        self.assertLess(b.from_peers(), 2 * MIB)
        b.start_cri("demo/small:v1").result()
        self.assertEqual(self.gets(), [])
        self.run_all([b], "demo/mid:v1", "k8s.io")

    def test_denied_preheat(self):
        """The same for a preheat, whose repository is known before the first byte."""
        c = self.cluster(size=2, p2p={"share": {"deny": ["*/demo/mid"]}})
        a, b = c.nodes("ab")
        self.assertEqual(self.preheat(a, "demo/mid:v1").result().state, "succeeded")
        self.assertEqual(self.preheat(a, "demo/wide:half").result().state, "succeeded")
        self.gets()
        self.pull_all([b], "demo/mid:v1")
        mid, wide = set(image("demo/mid:v1")["layers"]), set(image("demo/wide:half")["layers"])
        self.assertLessEqual(mid - wide, {r.name for r in self.gets()})
        self.pull_all([b], "demo/wide:half")
        self.assertEqual({r.name for r in self.gets() if r.kind == "blobs"} & (wide - mid), set())

    def test_certificates_renewed(self):
        """SIGHUP takes new certificates without a restart; bad ones are refused, and the old ones stay."""
        c = self.cluster(size=2, registry="scripted")
        a, b = c.nodes("ab")
        self.layers(1, MIB, "team/one:v1")
        self.finish([a.start_image("team/one:v1")])
        self.settled(a)
        self.finish([b.start_image("team/one:v1")])
        self.assertEqual(b.peers()[a.address]["name"], "a")
        say("files that are none")
        (a.folder / "tls/node.pem").write_text("no certificate\n")
        a.cairnd.process.signal(signal.SIGHUP)
        wait_for("a to complain", lambda: "ev=certificates_kept" in a.log())
        self.assertIn("node.pem", a.log().split("ev=certificates_kept")[1].splitlines()[0])
        two = self.layers(1, MIB, "team/two:v1")
        self.finish([b.start_image("team/two:v1")])
        self.settled(b)
        self.finish([a.start_image("team/two:v1")])
        self.assert_sent(two, 1.0)
        say("a new authority on both")
        new = Authority(self.folder / "new-authority", "new")
        c.authority.ca.write_bytes(c.authority.ca.read_bytes() + new.ca.read_bytes())
        for node in (a, b):
            node.renew_certificate(new)
            node.cairnd.process.signal(signal.SIGHUP)
        wait_for("both to have read them", lambda: all("ev=certificates_reloaded" in n.log() for n in (a, b)))
        c.authority.ca.write_bytes(new.ca.read_bytes())  # the old authority is not trusted any more
        for node in (a, b):
            node.cairnd.process.signal(signal.SIGHUP)
        wait_for("both to have read them", lambda: all(n.log().count("ev=certificates_reloaded") >= 2 for n in (a, b)))
        c.await_members(a, b)
        three = self.layers(1, 4 * MIB, "team/three:v1")
        self.finish([a.start_image("team/three:v1")])
        self.settled(a)
        self.finish([b.start_image("team/three:v1")])
        self.assert_sent(three, 1.0)

    def test_repair(self):
        """A referenced blob whose file is damaged, or gone, is mended inside Read, from a peer."""
        c = self.cluster(size=2, registry="scripted", p2p=PATIENT)  # so long it is asked for again
        a, b = c.nodes("ab")
        one = self.layers(3, 3 * MIB)
        self.pull_all([a, b], "team/app:v1")
        self.settled(a, b)
        sent = self.sent(one)
        for how, digest in zip(("flipped", "short", "gone"), one.layers):
            path = b.cairnd.blob_path(digest)
            data = path.read_bytes()
            b.cairnd.stop()
            path.chmod(0o600)
            if how == "flipped":
                path.write_bytes(data[:MIB] + bytes([data[MIB] ^ 1]) + data[MIB + 1:])
            elif how == "short":
                path.write_bytes(data[:-1])
            else:
                path.unlink()
            b.cairnd.start()
            c.await_members(a, b)
            say(how)
            with b.cairnd.client() as client:
                self.assertEqual(client.info(digest).size, 3 * MIB)
                self.assertEqual(client.read(digest, timeout=30), data, how)
            self.assertEqual(path.read_bytes(), data)
        self.assertEqual(self.sent(one), sent, "nothing came from the registry")

    def test_without_tls(self):
        """Without certificates only loopback is allowed: another address is a clear error at start."""
        c = self.cluster(size=1, registry=None, tls=False)
        node = c.node("a", start=False)
        node.configure()
        node.cairnd.folder.mkdir(parents=True)
        node.cairnd.configure()
        node.cairnd.start(wait=False)
        self.assertNotEqual(node.cairnd.process.wait(10), 0)
        self.assertIn("p2p.tls", node.log())
        node.configure(listen="127.0.0.1:7480", peers=[])
        node.cairnd.start()
        self.assertIn("lvl=warn", node.log())
        node.cairnd.stop()

    def test_limits(self):
        """p2p.upload_limit bounds what a node gives."""
        c = self.cluster(size=2, registry="scripted")
        a = c.node("a", p2p={"upload_limit": "2MiB"})
        b = c.node("b", p2p={"min_rate": "100KiB"})
        c.await_members(a, b)
        one = self.layers(1, 6 * MIB)
        self.finish([a.start_image("team/app:v1")])
        self.settled(a)
        pull = b.start_image("team/app:v1")
        self.finish([pull])
        self.assertGreater(pull.seconds, 1.5)
        self.assert_sent(one, 1.0)


if __name__ == "__main__":
    main()
