"""Garbage collection beside a real containerd: what protects a blob, what ends that, and what then goes."""
import datetime
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import GcCase, Leases, SlowProxy, digests, image, main, metrics, say, wait_for  # noqa: E402

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
        leases.create("restore", gc_expire=self.in_seconds(3600).isoformat())
        w.containerd.pull(ref)
        leases.add("restore", one["target"]["digest"])
        w.containerd.remove(ref)
        self.assertEqual(w.containerd.recorded(), digests(SMALL), "containerd follows the lease itself")
        self.unrecord(digests(SMALL))
        self.assert_held(digests(SMALL), "lease", "default/restore")
        say("another one takes its place, and ends soon")
        until = self.in_seconds(6)
        leases.create("soon", gc_expire=until.isoformat())
        leases.add("soon", one["target"]["digest"])
        leases.delete("restore")
        self.assert_gone(digests(SMALL), 30)
        self.assertGreaterEqual(self.in_seconds(0), until)

    def in_seconds(self, seconds):
        return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)

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
        """The same after kubelet's RemoveImage: CRI's containers have the image by any of its names."""
        w = self.world(cri=True)
        ref = w.registry.ref(SMALL)
        target, identity = image(SMALL)["target"]["digest"], image(SMALL)["config"]
        for number, name in enumerate([identity, f"{ref.rsplit(':', 1)[0]}@{target}", ref]):
            say("as", name)
            self.assertEqual(w.containerd.cri.pull(ref), identity)
            w.containerd.start_container(name, f"pod{number}", ns="k8s.io")
            self.await_version(name, SMALL)
            w.containerd.cri.remove(identity)
            wait_for("containerd's GC", lambda: w.containerd.recorded("k8s.io") == set())
            self.assertEqual(w.containerd.images("k8s.io"), set())
            self.assert_held(digests(SMALL), "container", f"k8s.io/pod{number}")
            w.containerd.end_container(f"pod{number}", ns="k8s.io")
            self.assert_gone(digests(SMALL))
            self.collect_snapshots("k8s.io")

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
        # cairnd was here first, and connects to containerd when that has begun to listen.
        wait_for("containerd to answer", lambda: self.tool.json("gc", "--dry-run")[-1]["sure"])
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
        replies = self.slow_reader(digest)
        part = next(replies).data
        self.tool.ok("unpin", digest)
        say("it is read")
        self.assert_held({digest}, "busy", "")
        self.assertEqual(sha256(part + b"".join(reply.data for reply in replies)), digest)
        self.assert_gone({digest})

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


class History(GcCase):
    """Versions of an image name: roll-back, and the end of it."""

    REF = "demo/small:live"
    CHECK = "cat /etc/version && cat /sums/* | sha256sum -c >/dev/null && echo whole"

    def unique(self, version, other):
        return digests(f"demo/small:{version}") - digests(f"demo/small:{other}")

    def told(self, ref):
        """(digest, current, roll-back ready, kept) of each version, newest first"""
        return [(v["digest"], v["current"], v["complete"], v["kept"]) for v in self.tool.json("versions", ref)]

    def pull(self, ref, version):
        self.w.registry.retag("demo/small", "live", version)
        self.w.containerd.pull(ref)
        self.await_version(ref, f"demo/small:{version}")

    def test_kept_versions(self):
        """The old version under a tag is kept, for a time also without an image record, and not beyond the number."""
        w = self.world("interval: 1s, keep_storage: 0s, keep_versions: 2, keep_versions_for: 2s")
        ref = w.registry.ref(self.REF)
        targets = {v: image(f"demo/small:{v}")["target"]["digest"] for v in ("v1", "v2")}
        self.pull(ref, "v1")
        self.pull(ref, "v2")
        old = self.unique("v1", "v2")
        self.assert_held(old, "version", ref)
        time.sleep(2)  # as long as keep_versions_for: that does not run while the name has an image record
        self.assert_held(old, "version", ref)
        self.assertEqual(self.told(ref), [(targets["v2"], True, True, True), (targets["v1"], False, True, True)])
        say("without an image record")
        self.change("keep_versions_for: 2s", "keep_versions_for: 1h")
        w.containerd.remove(ref)
        removed = time.monotonic()
        both = digests("demo/small:v1") | digests("demo/small:v2")
        self.assert_held(both, "version", ref)
        self.assertEqual(self.told(ref), [(targets["v2"], False, True, True), (targets["v1"], False, True, True)])
        self.change("keep_versions_for: 1h", "keep_versions_for: 4s")
        self.assert_gone(both)
        self.assertGreater(time.monotonic() - removed, 2.5)  # it was last seen a second before that, at most
        wait_for("the versions to be forgotten", lambda: self.tool.run("versions", ref).returncode == 1, 10)
        say("one version only")
        w.cairnd.extra = w.cairnd.extra.replace("keep_versions: 2", "keep_versions: 1")
        w.cairnd.configure()
        w.cairnd.restart()
        wait_for("containerd to connect", lambda: w.containerd.pull(ref, check=False).returncode == 0, 20)
        self.await_version(ref, "demo/small:v2")
        self.pull(ref, "v1")
        self.assert_gone(self.unique("v2", "v1"))
        self.assert_held(digests("demo/small:v1"), "referenced", "", state="referenced")

    def test_roll_back_and_prune(self):
        """The story: v1 runs, v2 is rolled out, back to v1 without a byte; then the history is dropped."""
        w = self.world("interval: 1s, keep_storage: 0s, keep_versions: 2, keep_versions_for: 1h")
        ref = w.registry.ref(self.REF)
        targets = {v: image(f"demo/small:{v}")["target"]["digest"] for v in ("v1", "v2")}
        one, two = self.unique("v1", "v2"), self.unique("v2", "v1")
        self.pull(ref, "v1")
        w.containerd.start_container(ref, "first")
        self.pull(ref, "v2")
        self.await_pass()
        self.assertEqual(self.told(ref), [(targets["v2"], True, True, True), (targets["v1"], False, True, True)])
        self.assert_held(one, "container", "default/first")
        say("back to v1; the registry has lost its blobs")
        w.registry.hide_blobs(["demo/small:v1", "demo/small:v2"])
        w.registry.requests()
        self.pull(ref, "v1")
        self.assertEqual([r for r in w.registry.requests() if r.method != "HEAD"], [])
        w.containerd.whole(ref, "v1")
        self.assertEqual(self.told(ref), [(targets["v1"], True, True, True), (targets["v2"], False, True, True)])
        self.assert_held(two, "version", ref)

        say("v2 is not wanted any more")
        lines = self.tool.json("prune", ref, "--keep", "1", "--dry-run")
        self.assertEqual({(line["digest"], line["why"], line["what"]) for line in lines[:-1] if line["evict"]},
                         {(digest, "prune", ref) for digest in two})
        self.assert_held(two, "version", ref)
        lines = self.tool.json("prune", ref, "--keep", "1")
        self.assertEqual({line["digest"] for line in lines[:-1] if line["evict"]}, two)
        self.assertEqual((lines[-1]["evicted"]["blobs"], lines[-1]["versions_dropped"]), (len(two), 1))
        self.assertFalse(two & set(self.rows()), "at once")
        self.assertEqual(self.told(ref), [(targets["v1"], True, True, True)])
        w.containerd.whole(ref, "v1")

        say("v2 again; prune leaves alone what the container uses, then and later")
        w.registry.show_blobs()
        self.pull(ref, "v2")
        lines = self.tool.json("prune", ref, "--keep", "1")
        self.assertEqual([line for line in lines[:-1] if line["evict"]], [])
        self.await_pass()
        self.assert_held(one, "container", "default/first")
        self.assertEqual(w.containerd.exec("first", self.CHECK), "v1\nwhole\n")
        say("not even with --keep 0, nor what a pin of the name holds")
        self.tool.ok("pin", ref)
        w.containerd.remove(ref)
        self.tool.ok("prune", ref, "--keep", "0")
        self.await_pass()
        self.assert_held(one, "container", "default/first")
        self.assert_held(two, "pin", ref)
        self.tool.ok("unpin", ref)
        self.tool.ok("prune", ref, "--keep", "0")
        self.assert_gone(two)
        self.assert_held(digests("demo/small:v1"), "container", "default/first")
        w.containerd.end_container("first")
        self.tool.ok("prune", ref, "--keep", "0")
        self.assert_gone(one)
        self.assert_no_leak()

    def test_removed_version_goes_after_keep_storage(self):
        """What nothing needs goes keep_storage after its last use, and not before."""
        w = self.world("interval: 1s, keep_storage: 1h, keep_versions: 0")
        ref = w.registry.ref("demo/small:v2")
        w.containerd.pull(ref)
        w.containerd.remove(ref)
        began = time.monotonic()
        blobs = digests("demo/small:v2")
        self.assert_held(blobs, "young", "")
        say("a use counts")
        some = image("demo/small:v2")["layers"][0]
        with w.cairnd.client() as client:
            wait_for("some time to be over", lambda: time.monotonic() > began + 2)
            self.assertEqual(sha256(client.read(some)), some)
            used = time.monotonic()
        self.change("keep_storage: 1h", "keep_storage: 3s")
        self.assert_gone(blobs - {some})
        gone = time.monotonic()
        self.assertGreater(gone - began, 2.9)
        self.assert_gone({some})
        self.assertGreater(time.monotonic() - used, 2.9)


class Kubelet(GcCase):
    """kubelet removes images and expects the space back."""

    def test_delete_above_the_low_watermark(self):
        """A Delete above the low watermark starts a pass at once; below it, nothing happens. Containers are safe."""
        w = self.world("interval: 1h, keep_storage: 24h, keep_versions: 0",
                       "high_watermark: 1GiB, low_watermark: 4MiB, min_free: 0%", cri=True)
        small, other, mid = (w.registry.ref(f"demo/{name}") for name in ("small:v1", "small:v2", "mid:v1"))
        cri = w.containerd.cri
        say("below it")
        cri.pull(small)
        cri.remove(small)
        wait_for("containerd's GC", lambda: {r["state"] for r in self.rows().values()} == {"cached"})
        time.sleep(1)  # if it had started a pass, that would have been within a second
        say("above it")
        cri.pull(mid)
        cri.pull(other)
        w.containerd.start_container(mid, "pod", ns="k8s.io")
        self.tool.ok("gc", "--dry-run")  # it looks at containerd: no name is missed
        self.assertEqual(self.passes(), 0, "the first removal")
        cri.remove(other)
        began = time.monotonic()
        self.assert_gone((digests("demo/small:v1") | digests("demo/small:v2")) - digests("demo/mid:v1"), 20)
        say("it took", time.monotonic() - began)
        last = self.tool.json("status")[0]["gc"]["last"]
        self.assertEqual((last["trigger"], last["relieved"]), ("delete", False))
        say("an image that a container runs from")
        passes = self.passes()
        cri.remove(mid)
        wait_for("the pass", lambda: self.passes() > passes, 20)
        rows = self.rows()
        self.assertEqual({(rows[d]["state"], rows[d]["why"], rows[d]["what"]) for d in digests("demo/mid:v1")},
                         {("cached", "container", "k8s.io/pod")})
        self.assertEqual(w.containerd.exec("pod", "cat /etc/version", ns="k8s.io"), "v1\n")
        w.containerd.end_container("pod", ns="k8s.io")
        self.collect_snapshots("k8s.io")
        say("what was there already gives way to the next removal, and only as much as is needed")
        cri.pull(small)
        cri.remove(small)
        wait_for("space", lambda: self.tool.json("status")[0]["gc"]["over_low_bytes"] == 0, 20)
        self.assertGreater(len(self.rows()), 0)
        self.assertEqual(self.tool.json("status")[0]["gc"]["last"]["relieved"], True)


class Told(GcCase):
    """gc.log, /metrics, and the configuration."""

    def test_log_and_metrics(self):
        """Each decision is a line in gc.log, which is opened again on SIGHUP; the metrics are right."""
        log = self.folder / "gc.log"
        w = self.world(f"interval: 1h, keep_storage: 0s, keep_versions: 0, log: {log}")
        series = metrics(w.cairnd.http)
        for name in ("passes_total", "passes_unsure_total", "over_high_bytes", "over_low_bytes",
                     "pressure_unrelieved", "pins", "versions", 'evicted_blobs_total{why="ttl"}',
                     'evicted_bytes_total{why="ttl"}', 'evicted_blobs_total{why="pressure"}',
                     'evicted_blobs_total{why="prune"}'):
            self.assertEqual(series[f"cairn_gc_{name}"], 0, name)
        self.assertNotIn("cairn_gc_last_pass_sure", series)
        ref, blobs = w.registry.ref(SMALL), digests(SMALL)
        w.containerd.pull(ref)
        sizes = {d: w.cairnd.blob_path(d).stat().st_size for d in blobs}
        layer = image(SMALL)["layers"][0]
        self.tool.ok("pin", layer)
        self.tool.ok("gc", "--dry-run")
        self.assertEqual(log.read_text(), "", "a dry run is no decision")
        w.containerd.remove(ref)
        self.tool.ok("gc")
        lines = log.read_text().splitlines()
        for digest in blobs - {layer}:
            found = [line for line in lines
                     if f"ev=gc_evict digest={digest} bytes={sizes[digest]} why=ttl idle=" in line]
            self.assertEqual(len(found), 1, digest)
            self.assertRegex(found[0], r" idle=\d+$")
        self.assertEqual(len([line for line in lines if f"ev=gc_keep digest={layer} bytes={sizes[layer]} idle=" in line
                              and line.endswith(f" why=pin:{layer}")]), 1)
        self.assertRegex(lines[-1], r"ev=gc_pass trigger=request sure=1 .*evicted=3 .*pinned=1 ")
        self.assertIn(f"ev=gc_evict digest={min(blobs - {layer})}", w.cairnd.process.log_text())

        series = metrics(w.cairnd.http)
        gone = sum(size for digest, size in sizes.items() if digest != layer)
        for name, value in (("passes_total", 1), ("passes_unsure_total", 0), ('evicted_blobs_total{why="ttl"}', 3),
                            ('evicted_bytes_total{why="ttl"}', gone), ('evicted_blobs_total{why="pressure"}', 0),
                            ('kept_blobs{why="pin"}', 1), ('kept_bytes{why="pin"}', sizes[layer]),
                            ('kept_blobs{why="referenced"}', 0), ("pins", 1), ("last_pass_sure", 1),
                            ("pressure_unrelieved", 0)):
            self.assertEqual(series[f"cairn_gc_{name}"], value, name)
        self.assertLess(abs(series["cairn_gc_last_pass_timestamp_seconds"] - time.time()), 60)

        say("the file is renamed, and opened again")
        old = log.rename(self.folder / "gc.log.1")
        before = old.read_text()
        w.cairnd.process.signal(signal.SIGHUP)
        wait_for("a new file", log.exists, 10)
        self.tool.ok("unpin", layer)
        self.tool.ok("gc")
        self.assertIn(f"ev=gc_evict digest={layer} ", log.read_text())
        self.assertEqual(old.read_text(), before)

    BAD = [("high_watermark: 101%", "gc.high_watermark", "100%"),
           ("low_watermark: 300%", "gc.low_watermark", "100%"),
           ("min_free: 101%", "gc.min_free", "100%"),
           ("high_watermark: lots", "gc.high_watermark", "GiB"),
           ("high_watermark: 60%, low_watermark: 70%", "gc.low_watermark is above gc.high_watermark", "at most"),
           ("high_watermark: 1GiB, low_watermark: 2GiB", "gc.low_watermark is above gc.high_watermark", "at most"),
           ("high_watermark: 10GiB", "gc.high_watermark is a size and gc.low_watermark is a share", "200GiB"),
           ("low_watermark: 10GiB", "gc.high_watermark is a share and gc.low_watermark is a size", "200GiB"),
           ("min_free: 21%", "gc.min_free is 21%", "at most 20%"),
           ("interval: 0s", "gc.interval", "1s to 24h"),
           ("interval: 25h", "gc.interval", "1s to 24h"),
           ("keep_storage: -1s", "gc.keep_storage", "0s to 87600h"),
           ("keep_versions: 1001", "gc.keep_versions", "0 to 1000"),
           ("keep_versions_for: soon", "gc.keep_versions_for", "0s to 87600h")]

    def test_bad_settings(self):
        """--check-config refuses what cannot be meant, and names the key and what is allowed."""
        config = self.folder / "bad.yaml"
        for settings, key, allowed in self.BAD:
            with self.subTest(settings):
                config.write_text(f"version: 1\ngc: {{{settings}}}\n")
                done = subprocess.run([os.path.join(os.environ["CAIRN_BUILD"], "cairnd"), "--check-config", "--config",
                                       config], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                      check=False, timeout=20)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(str(config), done.stdout)
                self.assertIn(key, done.stdout)
                self.assertIn(allowed, done.stdout)


if __name__ == "__main__":
    main()
