"""Two nodes on one machine, without TLS: what pulls, preheats, Reads and admins see of other nodes."""
import contextlib
import pathlib
import signal
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Cairnctl, Cairnd, Containerd, E2E, image, main, wait_for  # noqa: E402
from harness.process import free_port  # noqa: E402
from harness.registry import Registry, digests  # noqa: E402

SMALL = "demo/small:v1"


class Node(contextlib.ExitStack):
    def __init__(self, folder, name, port, peer, host, p2p=""):
        super().__init__()
        self.folder = folder / name
        self.address = f"127.0.0.1:{port}"
        extra = (f'node: {{name: {name}}}\np2p: {{listen: "{self.address}", decide: 5s, peers: ["127.0.0.1:{peer}"]'
                 f'{p2p}}}\n'
                 f'registries: {{hosts: [{{host: "{host}", plain_http: true}}]}}\n')
        self.cairnd = Cairnd(self.folder, self.folder / "containerd/c.sock", extra=extra)
        self.containerd = Containerd(self.folder, self.cairnd.socket, hosts=[host])
        self.tool = Cairnctl(self.cairnd.socket, self.folder)

    def __enter__(self):
        super().__enter__()
        self.folder.mkdir()
        self.enter_context(self.cairnd)
        self.enter_context(self.containerd)
        return self

    def status(self):
        return self.tool.json("status")[0]["p2p"]

    def held(self):
        return {blob["digest"] for blob in self.tool.json("ls")}

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.cairnd.http}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[-1])
        raise AssertionError(f"no {name} in /metrics")


class Peers(E2E):
    def nodes(self, a="", b=""):
        self.registry = self.enter(Registry(self.folder))
        ports = free_port(), free_port()
        host = self.registry.host
        self.a = self.enter(Node(self.folder, "a", ports[0], ports[1], host, a))
        self.b = self.enter(Node(self.folder, "b", ports[1], ports[0], host, b))
        wait_for("the nodes to see each other", lambda: self.a.status()["members"] == 2 == self.b.status()["members"])

    def a_has_it(self, name=SMALL):
        """The first node pulls it, and tells so; the registry has its tags only from then on."""
        self.a.containerd.pull(self.registry.ref(name))
        self.size = sum((self.a.cairnd.blob_path(d)).stat().st_size for d in digests(name))

    def announced(self, count):
        wait_for("the blobs to be announced", lambda: self.a.status()["announced"] >= count)

    def test_pull_comes_from_the_other_node(self):
        self.nodes()
        ref = self.registry.ref(SMALL)
        self.a_has_it()
        self.announced(len(digests(SMALL)))
        self.registry.requests()
        self.b.containerd.pull(ref)
        self.assertEqual(self.registry.blob_gets(), [])
        self.assertEqual(self.b.held(), digests(SMALL))
        self.b.containerd.run(ref, "true")
        self.assertEqual(self.b.metric('cairn_p2p_received_bytes_total{source="peers"}'), self.size)
        self.assertEqual(self.b.metric('cairn_p2p_received_bytes_total{source="registry"}'), 0)
        self.assertEqual(self.b.metric('cairn_pull_blobs_total{source="peers"}'), len(digests(SMALL)))
        self.assertEqual(self.a.metric("cairn_p2p_sent_bytes_total"), self.size)

    def test_admins_see_the_other_node(self):
        self.nodes()
        self.a_has_it()
        self.announced(len(digests(SMALL)))
        self.b.containerd.pull(self.registry.ref(SMALL))
        own, other = self.b.tool.json("peers")
        self.assertEqual((own["address"], own["state"]), (self.b.address, "self"))
        self.assertEqual((other["address"], other["from"]["bytes"]), (self.a.address, self.size))
        self.assertIn(other["state"], ("connected", "member"))
        fields = self.b.tool.fields("peers")
        self.assertEqual([len(f) for f in fields], [11, 11])
        code, text = self.b.tool.terminal("peers")
        self.assertEqual(code, 0)
        self.assertRegex(text, r"(?m)^ADDRESS +NAME +STATE +FROM +TO +TROUBLE")
        self.assertRegex(text, rf"(?m)^{self.a.address} ")
        code, text = self.b.tool.terminal("status")
        self.assertRegex(text, rf"(?m)^other nodes see +{self.b.address}$")
        self.assertRegex(text, r"(?m)^nodes +2$")
        self.assertIn("peers_without_tls", self.b.cairnd.process.log_text())
        self.b.cairnd.process.signal(signal.SIGHUP)  # there are no certificates to read
        self.a.cairnd.stop()
        wait_for("the other node to be missed", lambda: self.b.status()["members"] == 1)

    def test_preheat_comes_from_the_other_node(self):
        self.nodes()
        self.a_has_it()
        self.announced(len(digests(SMALL)))
        self.registry.requests()
        job = [o for o in self.b.tool.json("preheat", self.registry.ref(SMALL)) if o["type"] == "job"][-1]
        self.assertEqual(job["state"], "succeeded")
        self.assertEqual((job["bytes"]["fetched"], job["bytes"]["from_peers"]), (0, self.size))
        self.assertEqual([r.method for r in self.registry.requests() if r.path.startswith("/v2/demo/")], ["HEAD"])
        blobs = [o for o in self.b.tool.json("jobs", job["id"]) if o["type"] == "blob"]
        self.assertEqual({blob["source"] for blob in blobs}, {"peers"})

    def test_damage_is_repaired_in_a_read(self):
        self.nodes()
        ref = self.registry.ref(SMALL)
        self.a_has_it()
        self.announced(len(digests(SMALL)))
        self.b.containerd.pull(ref)
        layer = image(SMALL)["layers"][0]
        layer = layer if isinstance(layer, str) else layer["digest"]
        self.b.cairnd.stop()
        whole = self.b.cairnd.damage(layer)
        self.b.cairnd.start()
        wait_for("the nodes to see each other", lambda: self.b.status()["members"] == 2)
        self.registry.requests()
        self.assertEqual(self.b.containerd.ctr_bytes("content", "get", layer), whole)
        self.assertIn("ev=blob_repaired", self.b.cairnd.process.log_text())
        self.assertEqual(self.registry.blob_gets(), [])

    def test_what_is_denied_stays(self):
        self.nodes(a=', share: {deny: ["*/demo/*"]}')
        ref = self.registry.ref(SMALL)
        self.a_has_it()
        self.registry.requests()
        self.b.containerd.pull(ref)
        self.assertGreater(len(self.registry.blob_gets()), 0)
        self.assertEqual(self.a.metric("cairn_p2p_sent_bytes_total"), 0)
        self.assertEqual(self.a.status()["announced"], 0)

    def test_what_is_allowed_goes(self):
        """Known by containerd's labels, some time after the pull; and after a restart, by its images."""
        self.nodes(a=', share: {allow: ["*/demo/small"]}')
        self.a_has_it()
        self.announced(len(digests(SMALL)))
        self.a.cairnd.restart()
        self.announced(len(digests(SMALL)))
        wait_for("the nodes to see each other", lambda: self.b.status()["members"] == 2)
        # A new member of the static directory is told for half a second before it is asked, and nothing shows when
        # that is over.
        time.sleep(0.6)
        self.registry.requests()
        self.b.containerd.pull(self.registry.ref(SMALL))
        self.assertEqual(self.registry.blob_gets(), [])


if __name__ == "__main__":
    main()
