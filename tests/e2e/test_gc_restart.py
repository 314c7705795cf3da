"""Garbage collection while daemons die: what is in doubt stays, and no image is ever broken."""
import hashlib
import os
import pathlib
import random
import shutil
import signal
import sys
import threading
import time

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import GcCase, Leases, digests, image, main, metrics, say, wait_for  # noqa: E402

SMALL, MID = "demo/small:v1", "demo/mid:v1"
NAMES = ["demo/small:v1", "demo/small:v2", "demo/mid:v1", "demo/multi:v1"]


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Doubt(GcCase):
    """containerd does not answer, or has forgotten."""

    def test_containerd_is_away(self):
        """Without containerd, only what it never had a record of goes; gc says why; and then it goes on."""
        w = self.world("interval: 1h, keep_storage: 0s, keep_versions: 0")
        ref = w.registry.ref(SMALL)
        w.containerd.pull(ref)
        client = w.cairnd.client()
        never, data = sha256(b"never recorded" * 9999), b"never recorded" * 9999
        with client.write() as writer:
            writer.stat(ref=f"default/1/layer-{never}", total=len(data))
            writer.data(data, 0)
        w.containerd.remove(ref)
        known = digests(SMALL)
        wait_for("them to be cached", lambda: client.states() == {d: "CACHED" for d in known | {never}})
        w.containerd.kill()
        for args in (["--dry-run"], []):
            lines = self.tool.json("gc", "--all", *args)
            self.assertEqual({line["digest"]: (line["evict"], line["why"]) for line in lines[:-1]},
                             {never: (True, "ttl"), **{digest: (False, "unsure") for digest in known}})
            self.assertFalse(lines[-1]["sure"])
            self.assertRegex(lines[-1]["unsure_why"], r"containerd\S*/List: .*connect")
        self.assertEqual(set(self.rows()), known)
        fields = [line for line in self.tool.fields("gc") if line[:2] == ["summary", "containerd answered"]]
        self.assertEqual(fields[0][2], "no")
        self.assertIn("connect", fields[0][3])
        code, text = self.tool.terminal("gc")
        self.assertEqual(code, 0)
        self.assertRegex(text, r"containerd did not answer in full, so what it ever had a record of stays: \S+")
        self.assertRegex(text, r"(?m)^  unsure +4 blobs ")
        self.assertEqual(metrics(w.cairnd.http)["cairn_gc_last_pass_sure"], 0)
        self.assertEqual({row["why"] for row in self.rows().values()}, {"unsure"})
        self.assertEqual(self.tool.json("explain", sorted(known)[0])[0]["blob"]["why"], "unsure")
        say("it is back")
        w.containerd.start()

        def gone():
            self.tool.ok("gc")
            return not self.rows()
        wait_for("the rest to go", gone, 20, every=0.2)
        self.assert_no_leak()

    def test_containerd_hangs(self):
        """containerd accepts connections and says nothing: that is no answer, a pass ends all the same, and again."""
        w = self.world("interval: 1h, keep_storage: 0s, keep_versions: 0")
        ref = w.registry.ref(SMALL)
        w.containerd.pull(ref)
        w.containerd.remove(ref)
        w.containerd.process.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            done = self.tool.json("gc")[-1]
            say("it took", time.monotonic() - began, done)
            self.assertEqual((done["sure"], done["evicted"]["blobs"]), (False, 0))
            self.assertLess(time.monotonic() - began, 25)
            with w.cairnd.client() as client:  # and nobody else waits for it
                self.assertEqual(client.states(), {d: "CACHED" for d in digests(SMALL)})
                self.assertEqual(sha256(client.read(image(SMALL)["config"])), image(SMALL)["config"])
        finally:
            w.containerd.process.signal(signal.SIGCONT)
        self.assertTrue(self.tool.json("gc")[-1]["sure"])
        self.assertEqual(self.rows(), {})

    def test_prune_without_containerd(self):
        """A prune while containerd is away takes nothing from a container, also when it is back."""
        w = self.world("interval: 1h, keep_storage: 0s, keep_versions: 2")
        ref = w.registry.ref(SMALL)
        w.containerd.pull(ref)
        w.containerd.start_container(ref, "worker")
        self.tool.ok("gc", "--dry-run")
        w.containerd.remove(ref)
        w.containerd.kill()
        done = self.tool.json("prune", ref, "--keep", "0")
        self.assertEqual((done[-1]["sure"], done[-1]["versions_dropped"], done[-1]["evicted"]["blobs"]), (False, 0, 0))
        w.containerd.start()
        wait_for("containerd to be ours", lambda: self.tool.json("gc")[-1]["sure"], 20)
        self.tool.ok("prune", ref, "--keep", "0")
        self.assert_held(digests(SMALL), "container", "default/worker")
        w.containerd.end_container("worker")
        self.tool.ok("prune", ref, "--keep", "0")
        self.assertEqual(self.rows(), {})

    def test_database_wiped(self):
        """containerd loses all it knew: what it had recorded is not taken for unneeded, and comes back by a pull."""
        w = self.world()
        ref = w.registry.ref(SMALL)
        w.containerd.pull(ref)
        w.containerd.stop()
        shutil.rmtree(w.containerd.folder / "root")
        shutil.rmtree(w.containerd.folder / "state")
        w.containerd.start()
        self.assertEqual(w.containerd.recorded(), set())
        wait_for("a sure pass", lambda: metrics(w.cairnd.http).get("cairn_gc_last_pass_sure") == 1, 10)
        self.await_pass(3)
        self.assert_held(digests(SMALL), "referenced", "", state="referenced")
        w.registry.hide_blobs([SMALL])
        w.registry.requests()
        w.containerd.pull(ref)
        self.assertEqual(w.registry.blob_gets(), [])
        w.containerd.whole(ref, "v1")
        w.containerd.remove(ref)
        self.assert_gone(digests(SMALL))


class Rounds(GcCase):
    """Daemons die at random moments while passes run every second and images come and go."""

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("CAIRN_SEED") or time.time())
        say("CAIRN_SEED =", self.seed)
        self.rng = random.Random(self.seed)
        self.stop = threading.Event()
        self.counts = {"pull": 0, "failed": 0, "rm": 0}
        self.threads = []

    def tearDown(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        super().tearDown()

    def churn(self, ns, seed):
        """Pull and remove until told to stop. Failures are in order: daemons die."""
        rng = random.Random(seed)
        while not self.stop.is_set():
            ref = self.w.registry.ref(rng.choice(NAMES))
            if rng.random() < 0.4:
                done = self.w.containerd.pull(ref, ns=ns, check=False)
                self.counts["pull" if done.returncode == 0 else "failed"] += 1
                self.stop.wait(0 if done.returncode == 0 else 0.1)
            else:
                self.w.containerd.ctr("images", "rm", *(["--sync"] if rng.random() < 0.5 else []), ref, ns=ns,
                                      check=False)
                self.counts["rm"] += 1

    def start(self, work, *args):
        self.threads.append(threading.Thread(target=work, args=args, daemon=True))
        self.threads[-1].start()

    def start_churn(self):
        self.stop.clear()
        for ns in ("one", "two"):
            self.start(self.churn, ns, self.rng.random())

    def end_churn(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(120)
            self.assertFalse(thread.is_alive(), "a ctr hangs")
        self.threads.clear()
        # A pull that was cut off leaves a lease for a day: with it, containerd would keep all that there is. And its
        # GC has run when the last one is gone.
        for ns in ("one", "two"):
            leases = Leases(self.w.containerd.socket, ns)
            leases.create("last")
            for lease in self.w.containerd.ctr("leases", "ls", "-q", ns=ns).stdout.split():
                leases.delete(lease)

    def assert_whole(self):
        """Whatever containerd records can be read through it, is what its digest says; each image is complete."""
        wait_for("containerd to reach cairnd", self.reaches, 30)
        read = {}
        for ns in ("one", "two"):
            client = self.through_containerd(ns)
            recorded = self.w.containerd.recorded(ns)
            for digest in recorded - set(read):
                read[digest] = client.read(digest)
                self.assertEqual(sha256(read[digest]), digest)
            for name in self.w.containerd.images(ns):
                target = image(name.split("/", 1)[1])
                needed = {target["target"]["digest"], target["manifests"][0]["digest"], target["config"],
                          *target["layers"]}
                self.assertLessEqual(needed, recorded, f"{name} in {ns} is broken")
        with self.w.cairnd.client() as client:
            states = client.states()
            self.assertEqual({states.get(digest) for digest in read} - {"REFERENCED"}, set())

    def reaches(self):
        done = [self.w.containerd.ctr("content", "ls", ns=ns, check=False) for ns in ("one", "two")]
        if any(d.returncode for d in done):
            return False
        for ns in ("one", "two"):
            for digest in sorted(self.w.containerd.recorded(ns))[:1]:
                try:
                    self.through_containerd(ns).info(digest)
                    self.through_containerd(ns).read(digest, size=1)
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.UNAVAILABLE:
                        return False
                    raise
        return True

    def end_well(self):
        for ns in ("one", "two"):
            for name in NAMES:
                ref = self.w.registry.ref(name)
                wait_for(f"a pull of {name}", lambda ref=ref, ns=ns:
                         self.w.containerd.pull(ref, ns=ns, check=False).returncode == 0, 60, every=0.5)
        self.assert_whole()
        for name in NAMES:
            self.w.containerd.whole(self.w.registry.ref(name), image(name)["version"], ns="one")
        self.assert_no_leak()
        say("rounds are over:", self.counts)
        self.assertGreater(self.counts["pull"], 3)

    def evicted(self):
        return metrics(self.w.cairnd.http)['cairn_gc_evicted_blobs_total{why="ttl"}']

    def test_containerd_dies(self):
        """containerd is killed and started while images are pulled and removed."""
        self.world()
        for number in range(4):
            before = self.evicted()
            self.start_churn()
            wait_for("some of it to be evicted", lambda before=before: self.evicted() > before, 30)
            time.sleep(self.rng.uniform(0, 1))  # the moment is the point
            self.w.containerd.kill()
            passes = self.passes()
            wait_for("a pass without it", lambda passes=passes: self.passes() > passes, 10)
            self.w.containerd.start()
            self.end_churn()
            say(f"round {number}:", self.counts, "evicted", self.evicted())
            self.assert_whole()
        self.end_well()

    def hammer(self, seed):
        """Blobs that are evicted as soon as they are there, and passes without a pause: whenever cairnd dies, it dies
        in the middle of evictions."""
        rng = random.Random(seed)
        try:
            with self.w.cairnd.client() as client:
                while not self.stop.is_set():
                    for digest in [client.put(rng.randbytes(rng.randrange(1, 20000))) for _ in range(20)]:
                        client.delete(digest)
                    self.tool.run("gc")
        except grpc.RpcError:
            return

    def test_cairnd_dies(self):
        """cairnd is killed while it evicts and images are pulled and removed."""
        w = self.world()
        pin = "sha256:" + "1" * 64
        self.tool.ok("pin", pin)
        end = time.monotonic() + 35
        evicted = rounds = 0
        while time.monotonic() < end:
            self.start_churn()
            for _ in range(2):
                self.start(self.hammer, self.rng.random())
            wait_for("something to be evicted", self.evicted, 20)
            time.sleep(self.rng.uniform(0, 1))  # the moment is the point
            evicted += self.evicted()
            w.cairnd.kill()
            w.cairnd.start()
            self.end_churn()
            rounds += 1
            say(f"round {rounds}:", self.counts, "evicted", evicted)
            self.assert_whole()
            self.assert_no_leak()
        say("rounds:", rounds)
        self.assertNotIn("ev=blob_damaged", w.cairnd.process.log_text(), "a row outlived its file")
        self.assertEqual(self.tool.json("unpin", pin), [{"target": pin, "was_pinned": True}])
        self.end_well()


if __name__ == "__main__":
    main()
