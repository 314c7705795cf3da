"""What cairnd sees of what containerd has in use: images, leases, containers, of every namespace."""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import E2E, SlowProxy, World, digests, image, main, say, snapshotter, wait_for  # noqa: E402
from harness.content import channel  # noqa: E402
from harness.cri import field  # noqa: E402
import leases_pb2  # noqa: E402

LEASES = "/containerd.services.leases.v1.Leases/"
# Often, and whatever else is on the disk.
GC = "gc: {interval: 1s, high_watermark: 100%, low_watermark: 100%, min_free: 0%}\n"
FIELD = re.compile(r"(\w+)=(\d+)")


class InUse(E2E):
    def listings(self, w):
        """The counts in each log line of a listing."""
        lines = [line for line in w.cairnd.process.log_text().splitlines() if " ev=containerd_listed " in line]
        return [{key: int(value) for key, value in FIELD.findall(line)} for line in lines]

    def assert_listed(self, w, seconds=20, **expected):
        """A listing that begins from now on has these counts."""
        before = len(self.listings(w))

        def seen():
            return any(expected.items() <= one.items() for one in self.listings(w)[before + 1:])
        try:
            wait_for(f"a listing with {expected}", seen, seconds)
        except AssertionError:
            self.fail(f"{expected} was expected; the last listings: {self.listings(w)[-3:]}")

    def lease_call(self, w, method, request, ns="default"):
        with channel(w.containerd.socket) as connection:
            return connection.unary_unary(LEASES + method)(request, timeout=20,
                                                           metadata=[("containerd-namespace", ns)])

    def add_resource(self, w, lease, kind, name, ns="default"):
        self.lease_call(w, "AddResource", field(1, lease) + field(2, field(1, name) + field(2, kind)), ns)

    def resources(self, w, lease, ns="default"):
        request = leases_pb2.ListResourcesRequest(id=lease).SerializeToString()
        reply = leases_pb2.ListResourcesResponse.FromString(self.lease_call(w, "ListResources", request, ns))
        return {(r.type, r.id) for r in reply.resources}

    def leases(self, w, ns="default"):
        return set(w.containerd.ctr("leases", "ls", "-q", ns=ns).stdout.split())

    def test_everything_of_two_namespaces(self):
        """Images, leases of all sorts, and containers, as they come and go."""
        w = self.enter(World(self.folder, extra=GC))
        ref, blobs = w.registry.ref("demo/small:v1"), len(digests("demo/small:v1"))
        self.assert_listed(w, recorded=0, images=0, leases=0, containers=0)
        say("pull for two namespaces")
        w.containerd.pull(ref, ns="one")
        w.containerd.pull(ref, ns="two")
        w.containerd.ctr("images", "tag", ref, "docker.io/library/another:name", ns="two")
        self.assert_listed(w, recorded=blobs, images=3, leases=0, containers=0, is_client=1, missing=0)
        say("leases")
        w.containerd.ctr("leases", "create", "--id", "kept", "-x", "0", ns="one")
        w.containerd.ctr("leases", "create", "--id", "flat", "-x", "1h", "containerd.io/gc.flat=yes", ns="one")
        w.containerd.ctr("leases", "create", "--id", "odd", "-x", "0", "containerd.io/gc.expire=soon", ns="two")
        self.add_resource(w, "kept", "content", image("demo/small:v1")["target"]["digest"], ns="one")
        self.add_resource(w, "flat", "content", image("demo/small:v1")["config"], ns="one")
        self.add_resource(w, "flat", f"snapshots/{snapshotter()}", "no-such-snapshot", ns="one")
        self.assert_listed(w, recorded=blobs, images=3, leases=3, containers=0)
        say("containers: one that runs, one that was only made")
        w.containerd.start_container(ref, "sleeper", ns="one")
        w.containerd.ctr("containers", "create", "--snapshotter", snapshotter(), ref, "made", ns="two")
        self.assert_listed(w, recorded=blobs, images=3, leases=3, containers=2)
        say("and gone again, but for the leased manifest and what it needs")
        w.containerd.end_container("sleeper", ns="one")
        w.containerd.ctr("containers", "rm", "made", ns="two")
        w.containerd.ctr("leases", "rm", "odd", ns="two")
        w.containerd.remove(ref, "docker.io/library/another:name", ns="two")
        w.containerd.remove(ref, ns="one")
        self.assert_listed(w, recorded=blobs, images=0, leases=2, containers=0)
        say("a flat lease keeps what it names alone")
        w.containerd.ctr("leases", "rm", "--sync", "kept", ns="one")
        self.assert_listed(w, recorded=1, images=0, leases=1, containers=0)
        w.containerd.ctr("leases", "rm", "--sync", "flat", ns="one")
        self.assert_listed(w, recorded=0, images=0, leases=0, containers=0)
        with w.cairnd.client() as client:
            self.assertEqual(set(client.states().values()), {"CACHED"})

    def test_pull_in_progress(self):
        """The lease of a running pull names its ingest by the client's ref, and then the content."""
        w = self.enter(World(self.folder, front=SlowProxy, extra=GC))
        layer, ref = image("demo/mid:v1")["layers"][1], w.front.ref("demo/mid:v1")
        w.front.only, w.front.stall_at = layer, 4 << 20
        pull = w.containerd.start_pull(ref)
        self.assertTrue(w.front.stalled.wait(20))
        self.assert_listed(w, images=0, leases=1)
        lease, = self.leases(w)
        held = self.resources(w, lease)
        say("the lease holds", held)
        self.assertIn(("ingests", f"layer-{layer}"), held)
        self.assertIn(("content", image("demo/mid:v1")["target"]["digest"]), held)
        w.front.release()
        self.assertEqual(pull.wait(60), 0)
        self.assert_listed(w, recorded=len(digests("demo/mid:v1")), images=1, leases=0, missing=0)

    def test_an_image_is_looked_for_after_its_manifest(self):
        """Long before the next whole listing cairnd knows of an image that was pulled."""
        w = self.enter(World(self.folder))
        wait_for("the first listing", lambda: self.listings(w))
        w.containerd.pull(w.registry.ref("demo/small:v1"))
        wait_for("a look at the images", lambda: "ev=images_listed images=1" in w.cairnd.process.log_text(), 25)
        say("whole listings", self.listings(w))
        self.assertEqual({one["images"] for one in self.listings(w)}, {0}, "no whole listing has seen it")


if __name__ == "__main__":
    main()
