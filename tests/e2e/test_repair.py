"""What containerd records and is damaged is got from its registry again, where no other node has it."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Cairnctl, Cairnd, Containerd, E2E, image, main, say, wait_for  # noqa: E402
from harness.registry import Registry  # noqa: E402

SMALL = "demo/small:v1"


class Repair(E2E):
    def jobs(self):
        return [job["state"] for job in self.tool.json("jobs")]

    def test_from_the_registry(self):
        registry = self.enter(Registry(self.folder))
        host = registry.host
        self.cairnd = self.enter(Cairnd(self.folder, self.folder / "containerd/c.sock",
                                        extra=f'registries: {{hosts: [{{host: "{host}", plain_http: true}}]}}\n'))
        containerd = self.enter(Containerd(self.folder, self.cairnd.socket, hosts=[host]))
        self.tool = Cairnctl(self.cairnd.socket, self.folder)
        ref = registry.ref(SMALL)
        containerd.pull(ref)
        wait_for("the image to be known", lambda: self.tool.run("versions", ref).returncode == 0)
        layer = image(SMALL)["layers"][0]
        layer = layer if isinstance(layer, str) else layer["digest"]
        self.cairnd.stop()
        manifest = image(SMALL)["manifests"][0]["digest"]
        whole = {digest: self.cairnd.damage(digest) for digest in (manifest, layer)}
        self.cairnd.start()
        registry.requests()
        for digest, data in whole.items():
            self.assertEqual(containerd.ctr_bytes("content", "get", digest), data)
        self.assertEqual([get.name for get in registry.blob_gets() if get.status < 400], [layer])
        self.assertEqual(self.cairnd.process.log_text().count("from=registry"), 2)
        self.assertEqual(self.jobs(), ["succeeded"] * 2)

        say("not for ever, and not again and again")
        self.cairnd.stop()
        self.cairnd.damage(layer)
        registry.stop()
        self.cairnd.start()
        for _ in range(2):
            done = containerd.ctr("content", "get", layer, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("damaged", done.stderr)
        self.assertEqual(sorted(self.jobs()), ["failed", "succeeded", "succeeded"])
        self.assertIn("ev=blob_not_repaired", self.cairnd.process.log_text())


if __name__ == "__main__":
    main()
