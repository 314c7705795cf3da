"""`cairnctl preheat --register`: images that containerd knows, though nobody pulled them."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Cairnctl, PreheatCase, Registry, World, digests, image, main, plain, say, wait_for  # noqa: E402


class Register(PreheatCase):
    def world(self, **options):
        def lines(w):
            return self.lines(plain(w.registry.host), "interval: 1h, keep_versions: 0")
        self.w = self.enter(World(self.folder, extra=lines, **options))
        self.cairnd = self.w.cairnd
        self.tool = Cairnctl(self.w.cairnd.socket, self.folder)
        return self.w

    def labels(self, digest, ns):
        lines = self.w.containerd.ctr("content", "ls", f"digest=={digest}", ns=ns).stdout.splitlines()
        return lines[-1].split(None, 3)[3]

    def test_runs_with_the_registry_down(self):
        """The image record, every content record, their labels; then a container, without a registry."""
        w = self.world()
        ref = w.registry.ref("demo/app:v1")
        self.ok(ref, "--register", "--namespace", "default", "--namespace", "other")
        for ns in ("default", "other"):
            self.assertEqual(w.containerd.images(ns), {ref})
            self.assertEqual(w.containerd.recorded(ns), digests("demo/app:v1"))
            self.assertTrue(w.containerd.complete(ref, ns))
        what = image("demo/app:v1")
        manifest = self.labels(what["target"]["digest"], "default")
        self.assertIn(f"containerd.io/gc.ref.content.config={what['config']}", manifest)
        for n, layer in enumerate(what["layers"]):
            self.assertIn(f"containerd.io/gc.ref.content.l.{n}={layer}", manifest)
        self.assertIn("containerd.io/distribution.source.127.0.0.1=demo/app", manifest)
        self.assertEqual({row["state"] for row in self.rows().values()}, {"referenced"})
        self.assertEqual(w.containerd.ctr("leases", "ls", "-q").stdout.split(), [], "the lease has ended")
        w.registry.stop()
        w.containerd.whole(ref, "v1")
        say("its garbage collection follows the labels: nothing goes but with the image")
        w.containerd.ctr("images", "tag", ref, "another:name")
        w.containerd.remove("another:name")
        self.assertTrue(w.containerd.complete(ref))
        self.assertEqual(w.containerd.recorded(), digests("demo/app:v1"))
        w.containerd.remove(ref)
        self.assertEqual(w.containerd.recorded(), set())
        self.assertEqual(w.containerd.recorded("other"), digests("demo/app:v1"))
        self.assert_clean()

    def test_cri_knows_it(self):
        """kubelet asks CRI, which hears of the record: no pull is needed, and one that comes is a HEAD."""
        w = self.world(cri=True)
        ref = w.registry.ref("demo/small:v1")
        self.ok(ref, "--register")
        wait_for("CRI to hear of it", lambda: any(ref in tags for tags in w.containerd.cri.images().values()), 20)
        w.registry.requests()
        w.containerd.cri.pull(ref)
        self.assertEqual([(r.method, r.name) for r in w.registry.requests()], [("HEAD", "v1")])

    def test_a_tag_that_moved_and_records_that_are_there(self):
        """Registered again: the record moves on, what is recorded already gets its labels, nothing is lost."""
        w = self.world()
        ref = w.registry.ref("demo/app:live")
        w.registry.retag("demo/app", "live", "v1")
        w.containerd.pull(ref)
        w.registry.retag("demo/app", "live", "v2")
        self.ok(ref, "--register", "--namespace", "default")
        w.containerd.whole(ref, "v2")
        wait_for("containerd to drop what only v1 needed",
                 lambda: w.containerd.recorded() == digests("demo/app:v2"), 20)
        self.ok(ref, "--register", "--namespace", "default")
        self.assertTrue(w.containerd.complete(ref))

    def test_multi_platform(self):
        """Of an index, what is here: the other platforms are named by it, and nobody misses them."""
        w = self.world()
        ref = w.registry.ref("demo/multi:v1")
        self.ok(ref, "--register", "--namespace", "default")
        self.assertIn(ref, w.containerd.images())
        self.assertTrue(w.containerd.complete(ref))
        self.assertEqual(w.containerd.recorded(), self.held())

    def test_without_containerd(self):
        """containerd away: the blobs are here, but the job has failed, and says why. Nobody to ask: refused."""
        w = self.world()
        ref = w.registry.ref("demo/small:v1")
        w.containerd.kill()
        outcome = self.failing(ref, "--register", says=["register with containerd", "k8s.io"])
        self.assertEqual({b["state"] for b in outcome.blobs.values()}, {"succeeded"})
        w.containerd.restart()
        self.ok(ref, "--register")
        self.assertTrue(w.containerd.complete(ref, "k8s.io"))

    def test_nobody_to_register_with(self):
        reg = self.enter(Registry(self.folder))
        self.daemon(plain(reg.host))
        done = self.tool.run("preheat", reg.ref("demo/small:v1"), "--register")
        self.assertEqual(done.returncode, 1)
        self.assertIn("containerd.address is empty", done.stderr)


if __name__ == "__main__":
    main()
