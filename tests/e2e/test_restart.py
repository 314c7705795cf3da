"""Daemons die and come back, at every moment, and no image is ever broken."""
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
from harness import Cairnd, E2E, Process, SlowProxy, World, digests, image, main, say, wait_for  # noqa: E402

MIB = 1 << 20
LAYER = "demo/app:v1"  # its layer 1 has 68 MiB compressed


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Restart(E2E):
    def assert_held(self, w, ns="default"):
        """What containerd records, cairnd knows and has."""
        with w.cairnd.client() as client:
            for digest in w.containerd.recorded(ns):
                self.assertEqual(client.info(digest).digest, digest)
                self.assertEqual(sha256(client.read(digest)), digest)

    def stalled_pull(self, w, name, layer, at):
        """A pull whose layer has come to a halt after `at` bytes (whole MiB), all of which cairnd has."""
        w.front.only, w.front.stall_at = layer, at
        pull = w.containerd.start_pull(w.front.ref(name))
        self.assertTrue(w.front.stalled.wait(30))

        def offset():
            with w.cairnd.client() as client:
                found = [s.offset for s in client.statuses() if layer in s.ref]
                return found == [at]
        wait_for("the ingest", offset)
        return pull

    # ---- containerd ----

    def test_containerd_killed(self):
        """containerd killed and restarted: image, container and content are as before."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/small:v1")
        w.containerd.pull(ref)
        w.containerd.start_container(ref, "survivor")
        w.containerd.restart(kill=True)
        self.assertTrue(w.containerd.complete(ref))
        self.assertEqual(w.containerd.exec("survivor", "cat /etc/version"), "v1\n")
        self.assert_held(w)
        w.containerd.whole(ref, "v1")

    def test_containerd_killed_in_a_pull(self):
        """containerd killed during a pull: the next pull resumes with a Range request."""
        w = self.enter(World(self.folder, front=SlowProxy))
        layer = image("demo/mid:v1")["layers"][1]
        pull = self.stalled_pull(w, "demo/mid:v1", layer, 6 * MIB)
        w.containerd.kill()
        w.front.release()
        pull.wait()
        w.containerd.start()
        w.containerd.pull(w.front.ref("demo/mid:v1"))
        self.assertEqual(w.front.ranges(layer), [None, f"bytes={6 * MIB}-"])
        w.containerd.whole(w.front.ref("demo/mid:v1"), "v1")
        self.assert_held(w)

    # ---- cairnd ----

    def test_cairnd_restarted_between_pulls(self):
        """cairnd restarted, then killed, with images on the node: all there, before and after the next pull."""
        w = self.enter(World(self.folder))
        one, two = w.registry.ref("demo/small:v1"), w.registry.ref("demo/small:v2")
        w.containerd.pull(one)
        for kill in (False, True):
            say("SIGKILL" if kill else "SIGTERM")
            w.cairnd.restart(kill=kill)
            self.assert_held(w)
            wait_for("containerd to read again", lambda: w.containerd.complete(one))
            w.containerd.whole(one, "v1")
            w.registry.requests()
            w.containerd.pull(two)
            self.assertTrue(all(r.name not in image("demo/small:v1")["layers"] for r in w.registry.blob_gets()))
            w.containerd.whole(two, "v2")
            self.assert_held(w)
            w.containerd.remove(two)

    def test_cairnd_terminated_in_a_pull(self):
        """SIGTERM during a download: the pull fails, and the next one resumes where it was, with a Range request."""
        w = self.enter(World(self.folder, front=SlowProxy, drain="1s"))
        layer = image("demo/mid:v1")["layers"][1]
        pull = self.stalled_pull(w, "demo/mid:v1", layer, 6 * MIB)
        w.cairnd.stop()
        pull.kill()  # see test_cairnd_killed_in_a_pull
        w.front.release()
        w.cairnd.start()
        self.pull_until_ok(w, w.front.ref("demo/mid:v1"))
        self.assertIn(f"bytes={6 * MIB}-", w.front.ranges(layer))
        w.containerd.whole(w.front.ref("demo/mid:v1"), "v1")
        self.assert_held(w)

    def test_cairnd_killed_in_a_pull(self):
        """SIGKILL during a download: what a checkpoint covers is kept, and the next pull resumes there."""
        w = self.enter(World(self.folder, front=SlowProxy))
        layer = image(LAYER)["layers"][1]
        pull = self.stalled_pull(w, LAYER, layer, 67 * MIB)
        wait_for("a checkpoint", lambda: max(w.cairnd.checkpoints(), default=0) >= 60 * MIB, 30)
        w.cairnd.kill()
        # And ctr: else its end makes containerd abort the ingest, if cairnd is back soon enough to be told.
        pull.kill()
        w.front.release()
        w.cairnd.start()
        self.pull_until_ok(w, w.front.ref(LAYER))
        resumed = [int(r[6:-1]) for r in w.front.ranges(layer) if r]
        self.assertTrue(resumed and resumed[-1] >= 60 * MIB, f"resumed at {resumed}")
        w.containerd.whole(w.front.ref(LAYER), "v1")
        self.assert_held(w)

    def pull_until_ok(self, w, ref):
        """containerd's connection may need some seconds to come back."""
        wait_for(f"a pull of {ref}", lambda: w.containerd.pull(ref, check=False).returncode == 0, 60, every=0.5)

    def test_cairnd_killed_at_random(self):
        """SIGKILL at random moments of a pull: whatever containerd records is whole, and the next pull works."""
        seed = int(os.environ.get("CAIRN_SEED") or time.time())
        say("CAIRN_SEED =", seed)
        rng = random.Random(seed)
        w = self.enter(World(self.folder, front=SlowProxy))
        ref = w.front.ref("demo/mid:v1")
        w.front.rate = 30 * MIB
        for number in range(6):
            pull = w.containerd.start_pull(ref)
            time.sleep(rng.uniform(0, 0.9))  # the moment is the point, nothing is waited for
            w.cairnd.kill()
            if rng.random() < 0.5:
                (w.cairnd.state / "index.db-wal").unlink(missing_ok=True)
            w.cairnd.start()
            status = pull.wait(90)
            say(f"round {number}: the pull ended with {status}")
            self.assert_held(w)
            if number % 2:
                w.containerd.ctr("images", "rm", "--sync", ref, check=False)
                self.assert_held(w)
        w.front.rate = 0
        self.pull_until_ok(w, ref)
        w.containerd.whole(ref, "v1")
        self.assertTrue(w.containerd.complete(ref))
        self.assert_held(w)

    def test_killed_right_after_a_pull(self):
        """SIGKILL the moment a pull is done: everything is there and referenced."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/app:v1")
        w.containerd.pull(ref)
        w.cairnd.kill()
        w.cairnd.start()
        with w.cairnd.client() as client:
            self.assertEqual(client.states(), {d: "REFERENCED" for d in digests("demo/app:v1")})
        self.assert_held(w)

    def test_cairnd_away_while_pulling(self):
        """A pull that begins while cairnd is away waits, and goes through when it is back."""
        w = self.enter(World(self.folder))
        w.cairnd.stop()
        pull = w.containerd.start_pull(w.registry.ref("demo/small:v1"))
        wait_for("containerd to try", lambda: "nable to" in w.containerd.process.log_text()
                 or "refused" in w.containerd.process.log_text() or "navailable" in w.containerd.process.log_text()
                 or "no such file" in w.containerd.process.log_text())
        self.assertTrue(pull.alive())
        w.cairnd.start()
        self.assertEqual(pull.wait(60), 0, pull.log_text())
        w.containerd.whole(w.registry.ref("demo/small:v1"), "v1")

    # ---- two daemons, and the end of one ----

    def test_second_daemon(self):
        """A second daemon on the same state_dir refuses to start, says why, and harms nothing."""
        first = self.enter(Cairnd(self.folder))
        client = first.client()
        digest = client.put(b"precious" * 1000)
        before = sorted(str(p) for p in first.state.rglob("*"))
        for socket in (first.socket, self.folder / "other.sock"):
            config = self.folder / "second.yaml"
            config.write_text(f"version: 1\nstate_dir: {first.state}\nlisten: {socket}\nhttp: {{listen: \"\"}}\n"
                              "containerd: {address: \"\"}\n")
            second = Process("second", [first.binary, "--config", config], self.folder).start()
            self.assertNotIn(second.wait(20), (0, -signal.SIGSEGV, -signal.SIGABRT))
            self.assertIn(str(first.state), second.log_text())
            self.assertTrue(first.socket.exists())
            self.assertEqual(sha256(client.read(digest)), digest)
            with first.client() as fresh:
                self.assertEqual(fresh.health(), "SERVING")
        self.assertEqual(sorted(str(p) for p in first.state.rglob("*")), before)

    def test_drain_with_idle_streams(self):
        """SIGTERM with 200 idle streams and waits open: the socket goes first, all end within `drain`, data stays."""
        daemon = self.enter(Cairnd(self.folder, drain="2s"))
        client = daemon.client(timeout=60)
        writers = [client.write() for _ in range(200)]
        for number, writer in enumerate(writers):
            writer.stat(ref=f"idle/1/{number}", total=1000)
        writers[0].data(b"kept" * 50, 0)
        watch = client.watch_health()
        self.assertEqual(next(watch).status, 1)
        began = time.monotonic()
        daemon.process.signal(signal.SIGTERM)
        wait_for("the socket to go", lambda: not daemon.socket.exists(), 1.5)
        self.assertEqual(daemon.process.wait(15), 0)
        took = time.monotonic() - began
        self.assertLess(took, 5, "drain is 2 s")
        daemon.check_log()
        for writer in writers:
            with self.assertRaises((grpc.RpcError, EOFError)):
                writer.receive()
        daemon.start()
        with daemon.client() as fresh:
            self.assertEqual(fresh.status("idle/1/0").offset, 200)
            with fresh.write() as again:
                self.assertEqual(again.stat(ref="idle/1/0", total=1000).offset, 200)

    def test_nothing_to_drain(self):
        """SIGTERM and SIGINT without clients end it at once, with status 0."""
        daemon = self.enter(Cairnd(self.folder, drain="10s"))
        for number in (signal.SIGTERM, signal.SIGINT):
            began = time.monotonic()
            daemon.process.signal(number)
            self.assertEqual(daemon.process.wait(15), 0)
            self.assertLess(time.monotonic() - began, 5)
            self.assertFalse(daemon.socket.exists())
            daemon.start()

    # ---- in doubt, referenced ----

    DAMAGE = {
        "nothing": lambda state: None,
        "no wal": lambda state: (state / "index.db-wal").unlink(missing_ok=True),
        "half a wal": lambda state: halve(state / "index.db-wal"),
        "wal and shm gone": lambda state: [p.unlink() for p in state.glob("index.db-*")],
        "no index": lambda state: [p.unlink() for p in state.glob("index.db*")],
        "half an index": lambda state: halve(state / "index.db"),
        "garbage": lambda state: (state / "index.db").write_bytes(b"not a database at all" * 500),
        "empty index": lambda state: (state / "index.db").write_bytes(b""),
    }

    def test_power_loss_around_commit(self):
        """SIGKILL while blobs are committed, and the index then loses its tail, or all: no committed blob is denied."""
        seed = int(os.environ.get("CAIRN_SEED") or time.time())
        say("CAIRN_SEED =", seed)
        rng = random.Random(seed)
        daemon = self.enter(Cairnd(self.folder))
        answered = set()
        for name, damage in self.DAMAGE.items():
            with self.subTest(name):
                client = daemon.client()
                stop = threading.Event()

                def commit(client=client, stop=stop):
                    while not stop.is_set():
                        data = rng.randbytes(rng.randrange(1, 200000))
                        try:
                            answered.add(client.put(data))
                        except grpc.RpcError:
                            return

                threads = [threading.Thread(target=commit) for _ in range(3)]
                before = len(answered)
                for thread in threads:
                    thread.start()
                wait_for("some commits", lambda before=before: len(answered) > before + 5)
                time.sleep(rng.uniform(0, 0.1))  # a moment like any other
                daemon.kill()
                stop.set()
                for thread in threads:
                    thread.join()
                damage(daemon.state)
                daemon.start()
                with daemon.client() as fresh:
                    listed = fresh.listed()
                    self.assertLessEqual(answered, listed)
                    for digest in answered:
                        fresh.info(digest)
                        self.assertEqual(sha256(fresh.read(digest)), digest)
                    self.assertEqual(set(fresh.states().values()), {"REFERENCED"})

    def test_index_lost_after_a_clean_end(self):
        """An index that goes while the daemon is stopped is rebuilt: every blob is referenced, cached ones too."""
        daemon = self.enter(Cairnd(self.folder))
        with daemon.client() as client:
            kept, dropped = client.put(b"kept" * 1000), client.put(b"dropped" * 1000)
            client.delete(dropped)
            self.assertEqual(client.states(), {kept: "REFERENCED", dropped: "CACHED"})
        say("a clean restart keeps the states")
        daemon.restart()
        with daemon.client() as client:
            self.assertEqual(client.states(), {kept: "REFERENCED", dropped: "CACHED"})
        daemon.stop()
        for path in daemon.state.glob("index.db*"):
            path.unlink()
        daemon.start()
        with daemon.client() as client:
            self.assertEqual(client.states(), {kept: "REFERENCED", dropped: "REFERENCED"})
            self.assertEqual(sha256(client.read(dropped)), dropped)

    # ---- containerd's database ----

    def test_database_restored_from_an_older_copy(self):
        """containerd's database goes back to a copy in which an image that was removed since is recorded: cairnd
        finds out by itself, and denies nothing."""
        w = self.enter(World(self.folder, extra="gc: {interval: 1s, high_watermark: 100%, low_watermark: 100%, "
                                                "min_free: 0%}\n"))
        ref = w.registry.ref("demo/small:v1")
        w.containerd.pull(ref)
        w.containerd.stop()
        shutil.copy(w.containerd.database, self.folder / "meta.db")
        w.containerd.start()
        w.containerd.remove(ref)
        with w.cairnd.client() as client:
            wait_for("the image to be cached", lambda: set(client.states().values()) == {"CACHED"})
            say("restore the database")
            w.containerd.stop()
            shutil.copy(self.folder / "meta.db", w.containerd.database)
            w.containerd.start()
            self.assertEqual(w.containerd.recorded(), digests("demo/small:v1"))
            wait_for("cairnd to see what containerd records",
                     lambda: client.states() == {d: "REFERENCED" for d in digests("demo/small:v1")}, 60)
        self.assert_held(w)
        self.assertTrue(w.containerd.complete(ref))

    def test_database_lacks_what_is_referenced(self):
        """containerd's database goes back to a copy from before a pull: pulling again works, from the cache."""
        w = self.enter(World(self.folder))
        w.containerd.pull(w.registry.ref("demo/small:v1"))
        w.containerd.stop()
        shutil.copy(w.containerd.database, self.folder / "meta.db")
        w.containerd.start()
        w.containerd.pull(w.registry.ref("demo/mid:v1"))
        w.containerd.stop()
        shutil.copy(self.folder / "meta.db", w.containerd.database)
        w.containerd.start()
        self.assert_held(w)
        w.registry.requests()
        w.containerd.pull(w.registry.ref("demo/mid:v1"))
        self.assertEqual(w.registry.blob_gets(), [])
        w.containerd.whole(w.registry.ref("demo/mid:v1"), "v1")
        self.assert_held(w)

    def test_database_wiped(self):
        """containerd loses everything: images come back from the cache."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/small:v1")
        w.containerd.pull(ref)
        w.containerd.stop()
        shutil.rmtree(w.containerd.folder / "root")
        shutil.rmtree(w.containerd.folder / "state")
        w.containerd.start()
        self.assertEqual(w.containerd.recorded(), set())
        w.registry.requests()
        w.containerd.pull(ref)
        self.assertEqual(w.registry.blob_gets(), [])
        w.containerd.whole(ref, "v1")
        say("and its GC clears away what it does not know")
        w.containerd.remove(ref)
        with w.cairnd.client() as client:
            self.assertEqual(client.listed(), set())


def halve(path):
    if path.exists():
        os.truncate(path, path.stat().st_size // 2)


if __name__ == "__main__":
    main()
