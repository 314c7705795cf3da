"""A stock containerd pulls, runs, removes and pulls again."""
import hashlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import E2E, SlowProxy, World, digests, image, main, say, wait_for  # noqa: E402


class Pull(E2E):
    def assert_states(self, w, expected):
        """What cairnd says of all its blobs: digest -> state."""
        wait_for(f"the states {sorted(set(expected.values()))}", lambda: self.client(w).states() == expected, 10)

    def client(self, w):
        return w.cairnd.client()

    def assert_bytes(self, w, name):
        """Every blob of the image can be read from cairnd, and is what its digest says."""
        for digest in digests(name):
            self.assertEqual("sha256:" + hashlib.sha256(self.client(w).read(digest)).hexdigest(), digest)

    def test_pull_by_ctr_and_run(self):
        """ctr pulls the big image (gzip, zstd, plain tar); a container of it sees every byte."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/app:v1")
        say("pull", ref)
        w.containerd.pull(ref)
        self.assertTrue(w.containerd.complete(ref))
        parts = [image("demo/app:v1")["config"], *image("demo/app:v1")["layers"]]
        self.assertEqual(sorted(r.name for r in w.registry.blob_gets()), sorted(parts), "each blob once")
        say("run it")
        w.containerd.whole(ref, "v1")
        w.containerd.start_container(ref, "sleeper")
        self.assertEqual(w.containerd.exec("sleeper", "cat /etc/version; id -u"), "v1\n0\n")
        if w.cairnd:
            self.assertEqual(self.client(w).listed(), digests("demo/app:v1"))
            self.assert_states(w, {d: "REFERENCED" for d in digests("demo/app:v1")})
            self.assertFalse((w.containerd.folder / "root/io.containerd.content.v1.content/blobs").exists(),
                             "containerd keeps no blobs of its own")
            self.assertEqual(self.client(w).statuses(), [])

    def test_remove_and_pull_again_by_ctr(self):
        """A removed image leaves List, stays in the cache, and comes back without a registry request for any blob."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/app:v1")
        w.containerd.pull(ref)
        say("remove it")
        w.containerd.remove(ref)
        self.assertEqual(w.containerd.recorded(), set())
        self.assertEqual(self.client(w).listed(), set())
        self.assert_states(w, {d: "CACHED" for d in digests("demo/app:v1")})
        for digest in digests("demo/app:v1"):
            self.assertTrue(w.cairnd.blob_path(digest).is_file(), digest)
        w.registry.requests()
        say("pull it again")
        w.containerd.pull(ref)
        asked = w.registry.requests()
        self.assertEqual([r for r in asked if r.method != "HEAD"], [])
        self.assertEqual([(r.method, r.kind, r.name) for r in asked], [("HEAD", "manifests", "v1")])
        self.assertTrue(w.containerd.complete(ref))
        w.containerd.whole(ref, "v1")
        self.assert_states(w, {d: "REFERENCED" for d in digests("demo/app:v1")})

    def test_remove_and_pull_again_by_cri(self):
        """The same as kubelet does it."""
        w = self.enter(World(self.folder, cri=True))
        ref = w.registry.ref("demo/small:v1")
        self.assertEqual(w.containerd.cri.pull(ref), image("demo/small:v1")["config"])
        self.assertIn(ref, w.containerd.cri.images()[image("demo/small:v1")["config"]])
        w.containerd.whole(ref, "v1", ns="k8s.io")
        say("remove it")
        w.containerd.cri.remove(ref)
        wait_for("containerd's GC", lambda: self.client(w).listed() == set())
        self.assert_states(w, {d: "CACHED" for d in digests("demo/small:v1")})
        w.registry.requests()
        say("pull it again")
        self.assertEqual(w.containerd.cri.pull(ref), image("demo/small:v1")["config"])
        self.assertEqual([r for r in w.registry.requests() if r.method != "HEAD"], [])
        w.containerd.whole(ref, "v1", ns="k8s.io")

    def test_discard_unpacked_layers(self):
        """With discard_unpacked_layers the layers are cached as soon as they are unpacked, and come back."""
        w = self.enter(World(self.folder, cri=True, discard=True))
        ref = w.registry.ref("demo/small:v1")
        one = image("demo/small:v1")
        w.containerd.cri.pull(ref)
        kept = {one["target"]["digest"], one["config"]}
        wait_for("the layers to be discarded", lambda: self.client(w).listed() == kept)
        self.assert_states(w, {d: "REFERENCED" if d in kept else "CACHED" for d in digests("demo/small:v1")})
        w.containerd.whole(ref, "v1", ns="k8s.io")
        say("remove it, and pull it again")
        w.containerd.cri.remove(ref)
        wait_for("containerd's GC", lambda: self.client(w).listed() == set())
        w.registry.requests()
        w.containerd.cri.pull(ref)
        self.assertEqual([r for r in w.registry.requests() if r.method != "HEAD"], [])
        w.containerd.whole(ref, "v1", ns="k8s.io")

    def test_two_namespaces_shared(self):
        """Policy shared: the second namespace downloads nothing; each keeps the image when the other drops it."""
        w = self.enter(World(self.folder, policy="shared"))
        self.two_namespaces(w)

    def test_two_namespaces_isolated(self):
        """Policy isolated: the same; what the second one pulls is at hand."""
        w = self.enter(World(self.folder, policy="isolated"))
        self.two_namespaces(w)

    def two_namespaces(self, w):
        ref = w.registry.ref("demo/small:v1")
        w.containerd.pull(ref, ns="one")
        w.registry.requests()
        w.containerd.pull(ref, ns="two")
        self.assertEqual(w.registry.blob_gets(), [])
        w.containerd.whole(ref, "v1", ns="one")
        w.containerd.whole(ref, "v1", ns="two")
        say("remove it from the first")
        w.containerd.remove(ref, ns="one")
        self.assertEqual(self.client(w).listed(), digests("demo/small:v1"))
        self.assertTrue(w.containerd.complete(ref, ns="two"))
        w.containerd.whole(ref, "v1", ns="two")
        self.assert_bytes(w, "demo/small:v1")
        say("remove it from the second")
        w.containerd.remove(ref, ns="two")
        self.assertEqual(self.client(w).listed(), set())
        say("and back in the first")
        w.registry.requests()
        w.containerd.pull(ref, ns="one")
        self.assertEqual(w.registry.blob_gets(), [])
        w.containerd.whole(ref, "v1", ns="one")

    def test_multi_platform_index(self):
        """An index: our platform only, then all; removed and pulled again."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/multi:v1")
        w.containerd.pull(ref)
        w.containerd.whole(ref, "v1")
        arm = image("demo/multi:v1")["manifests"][1]["digest"]
        self.assertNotIn(arm, self.client(w).listed())
        say("pull all platforms")
        w.containerd.pull(ref, args=["--all-platforms"])
        self.assertIn(arm, self.client(w).listed())
        everything = self.client(w).listed()
        self.assertEqual(everything, w.containerd.recorded())
        w.containerd.remove(ref)
        self.assertEqual(self.client(w).listed(), set())
        w.registry.requests()
        w.containerd.pull(ref, args=["--all-platforms"])
        self.assertEqual([r for r in w.registry.requests() if r.method != "HEAD"], [])
        self.assertEqual(self.client(w).listed(), everything)
        w.containerd.whole(ref, "v1")

    def test_one_digest_two_namespaces_at_once(self):
        """Two namespaces pull the same digests at once by two refs; the first stalls, the second does not wait."""
        w = self.enter(World(self.folder, front=SlowProxy))
        layer = image("demo/mid:v1")["layers"][1]
        w.front.only, w.front.stall_at = layer, 4 << 20
        slow = w.containerd.start_pull(w.front.ref("demo/mid:v1"), ns="one")
        self.assertTrue(w.front.stalled.wait(20))
        wait_for("its ingest", lambda: any(layer in s.ref for s in self.client(w).statuses()))
        say("the second namespace pulls the same from the registry itself")
        w.containerd.pull(w.registry.ref("demo/mid:v1"), ns="two", timeout=60)
        self.assertTrue(slow.alive())
        w.containerd.whole(w.registry.ref("demo/mid:v1"), "v1", ns="two")
        say("release the first")
        w.front.release()
        self.assertEqual(slow.wait(60), 0, slow.log_text())
        w.containerd.whole(w.front.ref("demo/mid:v1"), "v1", ns="one")
        self.assertEqual(self.client(w).listed(), digests("demo/mid:v1"))
        self.assertEqual(self.client(w).statuses(), [])

    def test_cancelled_pull(self):
        """A pull that is cancelled half-way leaves nothing behind that stops the next one."""
        w = self.enter(World(self.folder, front=SlowProxy))
        layer = image("demo/mid:v1")["layers"][1]
        w.front.only, w.front.stall_at = layer, 4 << 20
        ref = w.front.ref("demo/mid:v1")
        pull = w.containerd.start_pull(ref)
        self.assertTrue(w.front.stalled.wait(20))
        pull.signal(2)
        pull.wait(20)
        w.front.release()
        say("pull it again")
        w.containerd.pull(ref)
        w.containerd.whole(ref, "v1")
        self.assert_bytes(w, "demo/mid:v1")


if __name__ == "__main__":
    main()
