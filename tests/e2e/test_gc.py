"""Garbage collection beside a real containerd: what protects a blob, what ends that, and what then goes."""
import datetime
import hashlib
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import GcCase, Leases, SlowProxy, digests, image, main, metrics, say, wait_for  # noqa: E402
from harness.content import content_pb2  # noqa: E402

SMALL = "demo/small:v1"


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Protection(GcCase):
    """Each kind of protection alone, then its end. Passes run every second and spare nothing that is idle:
    whatever is here is here because of what protects it."""

    def unrecord(self, blobs, ns="default"):
        """Take containerd's records of the content away, and only these: image records and leases stay."""
        self.w.containerd.ctr("content", "rm", *blobs, ns=ns)
        wait_for("containerd's GC", lambda: not blobs & self.w.containerd.recorded(ns), 10)

    def test_nothing(self):
        """Without protection an image goes at the next pass, by itself: the other tests prove something."""
        w = self.world()
        ref = w.registry.ref(SMALL)
        w.containerd.pull(ref)
        self.assert_held(digests(SMALL), "referenced", "", state="referenced")
        w.containerd.remove(ref)
        self.assert_gone(digests(SMALL))
        self.assert_no_leak()
        say("and comes back by a pull")
        w.containerd.pull(ref)
        w.containerd.whole(ref, "v1")

    def test_lease_on_ingested_content(self):
        """Content that a client ingested under a lease stays until the lease is deleted."""
        w = self.world()
        leases = Leases(w.containerd.socket)
        leases.create("import-1")
        data = os.urandom(100000)
        digest = self.through_containerd(lease="import-1").put(data, ref="my-import")
        self.await_pass()
        self.assert_held({digest}, "referenced", "", state="referenced")
        leases.delete("import-1")
        self.assert_gone({digest})

    def test_lease_names_an_unrecorded_manifest(self):
        """A lease on a manifest that containerd has no record of keeps it and what it needs, until gc.expire."""
        w = self.world()
        one = image(SMALL)
        ref = w.registry.ref(SMALL)
        leases = Leases(w.containerd.socket)
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=6)
        leases.create("restore", gc_expire=until.isoformat())
        w.containerd.pull(ref)
        leases.add("restore", one["target"]["digest"])
        w.containerd.remove(ref)
        self.assertEqual(w.containerd.recorded(), digests(SMALL), "containerd follows the lease itself")
        self.unrecord(digests(SMALL))
        self.assert_held(digests(SMALL), "lease", "default/restore")
        self.assertLess(datetime.datetime.now(datetime.timezone.utc), until, "else this proves nothing")
        self.assert_gone(digests(SMALL), 20)
        self.assertGreaterEqual(datetime.datetime.now(datetime.timezone.utc), until)

    def test_flat_lease(self):
        """A flat lease keeps what it names, and not what that needs; its end ends that."""
        w = self.world()
        manifest = image(SMALL)["target"]["digest"]
        ref = w.registry.ref(SMALL)
        leases = Leases(w.containerd.socket)
        leases.create("flat", gc_flat="yes")
        leases.add("flat", manifest)
        w.containerd.pull(ref)
        w.containerd.remove(ref)
        self.unrecord({manifest})
        self.assert_held({manifest}, "lease", "default/flat")
        self.assert_gone(digests(SMALL) - {manifest})
        self.assert_held({manifest}, "lease", "default/flat")
        leases.delete("flat")
        self.assert_gone({manifest})

    def test_container_whose_image_was_removed(self):
        """A container keeps what it was made from, running and stopped, until it is removed."""
        w = self.world()
        ref = w.registry.ref(SMALL)
        w.containerd.pull(ref)
        w.containerd.start_container(ref, "worker")
        self.await_version(ref, SMALL)
        w.containerd.remove(ref)
        self.assertEqual(w.containerd.recorded(), set())
        self.assert_held(digests(SMALL), "container", "default/worker")
        say("it is stopped")
        w.containerd.ctr("tasks", "kill", "-s", "SIGKILL", "worker")
        wait_for("the task's end", lambda: "STOPPED" in w.containerd.ctr("tasks", "ls").stdout)
        w.containerd.ctr("tasks", "delete", "worker", check=False)
        self.assert_held(digests(SMALL), "container", "default/worker")
        w.containerd.end_container("worker")
        self.assert_gone(digests(SMALL))

    def test_container_of_cri(self):
        """The same after kubelet's RemoveImage; the container has the image by CRI's own name of it."""
        w = self.world(cri=True)
        ref = w.registry.ref(SMALL)
        identity = w.containerd.cri.pull(ref)
        self.assertEqual(identity, image(SMALL)["config"])
        w.containerd.start_container(identity, "pod", ns="k8s.io")
        self.await_version(identity, SMALL)
        w.containerd.cri.remove(identity)
        wait_for("containerd's GC", lambda: w.containerd.recorded("k8s.io") == set())
        self.assertEqual(w.containerd.images("k8s.io"), set())
        self.assert_held(digests(SMALL), "container", "k8s.io/pod")
        w.containerd.end_container("pod", ns="k8s.io")
        self.assert_gone(digests(SMALL))

    def test_image_record_in_any_namespace(self):
        """Image records alone, in two namespaces, without content: each of them keeps what the image needs."""
        w = self.world()
        ref = w.registry.ref(SMALL)
        w.containerd.pull(ref)
        w.containerd.pull(ref, ns="other")
        w.containerd.remove(ref)
        self.assert_held(digests(SMALL), "referenced", "", state="referenced")
        self.unrecord(digests(SMALL), "other")
        self.assertEqual(w.containerd.recorded(), set())
        self.assert_held(digests(SMALL), "image", ref)
        w.containerd.remove(ref, ns="other")
        self.assert_gone(digests(SMALL))

    def test_pins(self):
        """A pin of a digest, of a name, for a time, and unpin."""
        w = self.world()
        ref = w.registry.ref(SMALL)
        manifest, blobs = image(SMALL)["target"]["digest"], digests(SMALL)
        w.containerd.pull(ref)
        self.assertEqual(self.tool.json("pin", manifest), [
            {"target": manifest, "blobs": len(blobs), "for_seconds": 0,
             "bytes": sum(w.cairnd.blob_path(d).stat().st_size for d in blobs)}])
        w.containerd.remove(ref)
        self.assert_held(blobs, "pin", manifest)
        say("by name, too: the digest may go")
        self.tool.ok("pin", ref)
        self.tool.ok("unpin", manifest)
        self.assert_held(blobs, "pin", ref)
        say("and across a restart")
        w.cairnd.restart()
        wait_for("containerd to be listed", lambda: self.tool.json("gc")[-1]["sure"])
        self.assertEqual({d for d in self.rows() if d in blobs}, blobs)
        self.assertEqual(self.tool.json("status")[0]["gc"]["pins"], 1)
        say("a name's pin that ends by itself, and one of a single blob that does not")
        layer = image(SMALL)["layers"][1]
        self.tool.ok("pin", layer)
        began = time.monotonic()
        self.tool.ok("pin", ref, "--for", "4s")
        self.assert_gone(blobs - {layer})
        self.assertGreater(time.monotonic() - began, 3.9)
        self.assert_held({layer}, "pin", layer)
        self.tool.ok("unpin", layer)
        self.assert_gone({layer})
        self.assertIn("is not pinned", self.tool.expect(1, "unpin", layer).stderr)

    def test_busy(self):
        """A stream that writes, one that was promised a cached blob, and one that reads."""
        w = self.world()
        data = os.urandom(24 << 20)
        digest = sha256(data)
        with w.cairnd.client() as client, client.write(timeout=60) as writer:
            say("all is written, nothing committed")
            self.assertEqual(writer.stat(ref=f"default/1/layer-{digest}", total=len(data)).offset, 0)
            for offset in range(0, len(data), 4 << 20):
                writer.data(data[offset:offset + (4 << 20)], offset)
            self.assert_held({digest}, "busy", "")
            writer.commit(digest, total=len(data), offset=len(data))
        client = w.cairnd.client(timeout=60)
        self.tool.ok("pin", digest)
        client.delete(digest)
        with client.write(timeout=60) as writer:
            self.assertEqual(writer.stat(ref=f"default/2/layer-{digest}", total=len(data)).offset, len(data))
            self.tool.ok("unpin", digest)
            say("it was promised")
            self.assert_held({digest}, "busy", "")
            self.tool.ok("pin", digest)
        self.assert_held({digest}, "pin", digest)
        replies = self.reader(client, digest)
        part = next(replies).data
        self.tool.ok("unpin", digest)
        say("it is read")
        self.assert_held({digest}, "busy", "")
        self.assertEqual(sha256(part + b"".join(reply.data for reply in replies)), digest)
        self.assert_gone({digest})

    def reader(self, client, digest):
        return client.stream("Read", content_pb2.ReadContentRequest(digest=digest), content_pb2.ReadContentResponse)

    def test_pull_in_progress(self):
        """A pull that stalls in its last layer, with passes all the while, of an image that was here before."""
        w = self.world(front=SlowProxy)
        ref = w.front.ref("demo/mid:v1")
        layer = image("demo/mid:v1")["layers"][1]
        w.front.only, w.front.stall_at = layer, 6 << 20
        pull = w.containerd.start_pull(ref)
        self.assertTrue(w.front.stalled.wait(30))
        with w.cairnd.client() as client:
            wait_for("the ingest", lambda: any(layer in s.ref and s.offset == 6 << 20 for s in client.statuses()))
            self.await_pass(3)
            self.assertEqual([s.offset for s in client.statuses() if layer in s.ref], [6 << 20])
        w.front.release()
        self.assertEqual(pull.wait(60), 0, pull.log_text())
        self.assertEqual(w.front.ranges(layer), [None])
        w.containerd.whole(ref, "v1")


if __name__ == "__main__":
    main()
