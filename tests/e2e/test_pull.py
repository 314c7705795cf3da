"""A stock containerd pulls, runs, removes and pulls again."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import E2E, World, image, main, say  # noqa: E402


class Pull(E2E):
    def test_pull_by_ctr_and_run(self):
        """ctr pulls the big image; a container of it sees every byte of every layer."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/app:v1")
        say("pull", ref)
        w.containerd.pull(ref)
        self.assertTrue(w.containerd.complete(ref))
        gets = w.registry.blob_gets()
        self.assertEqual(sorted(r.name for r in gets),
                         sorted([image("demo/app:v1")["config"], *image("demo/app:v1")["layers"]]))
        say("run it")
        w.containerd.whole(ref, "v1")
        w.containerd.start_container(ref, "sleeper")
        self.assertEqual(w.containerd.exec("sleeper", "cat /etc/version; id -u"), "v1\n0\n")

    def test_pull_by_cri(self):
        """PullImage through CRI."""
        w = self.enter(World(self.folder, cri=True))
        ref = w.registry.ref("demo/small:v1")
        self.assertEqual(w.containerd.cri.pull(ref), image("demo/small:v1")["config"])
        self.assertIn(image("demo/small:v1")["config"], w.containerd.cri.images())
        w.containerd.whole(ref, "v1", ns="k8s.io")


if __name__ == "__main__":
    main()
