"""A changed image under the same tag, and the way back."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import E2E, World, digests, image, main, say  # noqa: E402


class Versions(E2E):
    def roll(self, w, pull, namespace):
        """v1, v2 under the same tag while v1 runs, and back to v1 while the registry has lost its blobs."""
        ref = w.registry.ref("demo/app:live")
        shared = set(image("demo/app:v1")["layers"]) & set(image("demo/app:v2")["layers"])
        self.assertEqual(len(shared), 1)
        pull(ref)
        w.containerd.start_container(ref, "first", ns=namespace)
        w.registry.requests()

        say("the tag now means v2; v1 still runs")
        w.registry.retag("demo/app", "live", "v2")
        pull(ref)
        got = {r.name for r in w.registry.blob_gets()}
        self.assertEqual(got, {image("demo/app:v2")["config"], *image("demo/app:v2")["layers"]} - shared)
        w.containerd.whole(ref, "v2", ns=namespace)
        w.containerd.start_container(ref, "second", ns=namespace)
        check = "cat /etc/version && cat /sums/* | sha256sum -c >/dev/null && echo whole"
        self.assertEqual(w.containerd.exec("first", check, ns=namespace), "v1\nwhole\n")
        self.assertEqual(w.containerd.exec("second", check, ns=namespace), "v2\nwhole\n")

        say("the tag means v1 again, and the registry has lost every blob")
        w.registry.retag("demo/app", "live", "v1")
        w.registry.hide_blobs(["demo/app:v1", "demo/app:v2"])
        w.registry.requests()
        pull(ref)
        self.assertEqual([r for r in w.registry.requests() if r.method != "HEAD"], [])
        w.containerd.whole(ref, "v1", ns=namespace)
        for name in ("first", "second"):
            self.assertTrue(w.containerd.exec(name, check, ns=namespace).endswith("whole\n"))

        say("and forward to v2")
        w.registry.retag("demo/app", "live", "v2")
        pull(ref)
        self.assertEqual([r for r in w.registry.requests() if r.method != "HEAD"], [])
        w.containerd.whole(ref, "v2", ns=namespace)
        with w.cairnd.client() as client:
            self.assertEqual(set(client.states()), digests("demo/app:v1") | digests("demo/app:v2"))
            self.assertLessEqual(w.containerd.recorded(namespace), client.listed())

    def test_roll_by_ctr(self):
        """v1, v2, v1, v2 under one tag by ctr."""
        w = self.enter(World(self.folder))
        self.roll(w, w.containerd.pull, "default")

    def test_roll_by_cri(self):
        """The same by CRI."""
        w = self.enter(World(self.folder, cri=True))
        self.roll(w, w.containerd.cri.pull, "k8s.io")


if __name__ == "__main__":
    main()
