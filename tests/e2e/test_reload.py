"""SIGHUP: what a running daemon takes from its configuration, what needs a restart, and that a broken file changes
nothing."""
import hashlib
import os
import pathlib
import re
import signal
import socket
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Cairnctl, Cairnd, E2E, Process, main, say, wait_for  # noqa: E402
from harness.gc import metrics  # noqa: E402
from harness.process import free_port  # noqa: E402

MIB = 1 << 20
MARKS = "high_watermark: 100%, low_watermark: 100%, min_free: 0%"
LINE = re.compile(r"ev=reload key=(\S+) result=(\S+)")


class Daemon(Cairnd):
    """A daemon whose configuration changes while it runs."""

    def __init__(self, folder, **options):
        super().__init__(folder, **options)
        self.tool = Cairnctl(self.socket, folder)

    def reload(self, extra=None, event="reloaded"):
        """Write the file, send SIGHUP; what was said of each key."""
        if extra is not None:
            self.extra = extra
            self.configure()
        before = self.process.log_text()
        self.process.signal(signal.SIGHUP)

        def said():
            text = self.process.log_text()[len(before):]
            return text if re.search(rf" ev={event} .*\n", text) else None
        text = wait_for(f"ev={event}", said)
        self.said = text
        return dict(LINE.findall(text))

    def gc(self):
        return self.tool.json("status")[0]["gc"]


class Reload(E2E):
    def daemon(self, extra="", **options):
        return self.enter(Daemon(self.folder / str(len(os.listdir(self.folder))), extra=extra, **options))

    def test_gc_and_log(self):
        """Watermarks, the interval of passes, the log file and the log level act at once; nothing else is said."""
        d = self.daemon(f"gc: {{{MARKS}, interval: 1h}}\n")
        self.assertEqual(d.reload(), {})
        log = self.folder / "gc.log"
        said = d.reload(f"gc: {{high_watermark: 99%, low_watermark: 98%, min_free: 1%, interval: 1s, log: {log}}}\n")
        self.assertEqual(said, {f"gc.{key}": "applied" for key in
                                ("high_watermark", "low_watermark", "min_free", "interval", "log")})
        self.assertEqual((d.gc()["high_watermark"], d.gc()["low_watermark"]), ("99%", "98%"))
        wait_for("a pass", lambda: log.exists() and "trigger=interval" in log.read_text(), 10)
        for level, lines in (("error", 0), ("info", 1)):
            d.level = level
            d.configure()
            self.assertEqual(d.reload(), {"log.level": "applied"})
            before = d.process.log_text().count("ev=gc_pass trigger=request")
            d.tool.ok("gc")
            self.assertEqual(d.process.log_text().count("ev=gc_pass trigger=request") - before, lines)

    def test_needs_restart(self):
        """What cannot change is named, each time, until it is as it was; the rest of the same file is taken."""
        d = self.daemon(f"gc: {{{MARKS}}}\n")
        state, listen = d.state, d.socket
        d.state, d.drain = self.folder / "elsewhere", "6s"
        said = d.reload("gc: {high_watermark: 97%, low_watermark: 96%, min_free: 0%}\n")
        want = {"state_dir": "needs_restart", "drain": "needs_restart",
                "gc.high_watermark": "applied", "gc.low_watermark": "applied"}
        self.assertLessEqual(want.items(), said.items())
        self.assertRegex(d.said, r"ev=reloaded .*applied=2 needs_restart=2")
        self.assertEqual(d.gc()["high_watermark"], "97%")
        self.assertEqual(d.tool.json("status")[0]["state_dir"], str(state))
        self.assertFalse(d.state.exists())
        self.assertEqual(d.reload()["state_dir"], "needs_restart")
        d.state, d.drain, d.socket = state, "5s", listen
        d.configure()
        self.assertNotIn("needs_restart", d.reload().values())

    def test_broken_file_changes_nothing(self):
        """It is refused with file, line and key, and all of it is as before, also what comes before the mistake."""
        d = self.daemon(f"gc: {{{MARKS}}}\n")
        before = d.gc()
        path = d.folder / "cairn.yaml"
        lines = path.read_text().count("\n")
        good = "gc: {high_watermark: 55%, low_watermark: 54%, min_free: 0%}\n"
        for bad, place, key in [
                (good + "p2p: {stall: 5 parsecs}\n", f"cairn.yaml:{lines + 1}", "p2p.stall"),
                (good + "stat_dir: /x\n", f"cairn.yaml:{lines + 1}", "stat_dir"),
                ("gc: {high_watermark: 55%, low_watermark: 56%}\n", "cairn.yaml", "gc.low_watermark"),
                (good.replace("}", ", log: /proc/nowhere/gc.log}"), "cairn.yaml", "gc.log"),
                (good + "p2p: {peers: [nowhere]}\n", "cairn.yaml", "p2p.peers"),
                (good + "gc: [\n", "cairn.yaml", "")]:
            with self.subTest(bad):
                self.assertEqual(d.reload(bad, "reload_refused"), {})
                line = re.search(r"lvl=error ev=reload_refused.*", d.said).group()
                self.assertIn(place, line)
                self.assertIn(key, line)
                after = d.gc()
                self.assertEqual([after[k] for k in ("high_watermark", "low_watermark")],
                                 [before[k] for k in ("high_watermark", "low_watermark")])
        path.unlink()
        d.reload(event="reload_refused")
        self.assertIn("no such file", d.said)
        d.configure()
        d.reload(good)
        self.assertEqual(d.gc()["high_watermark"], "55%")

    def test_service_manager_is_told(self):
        """RELOADING=1 with the time, then READY=1."""
        path = str(self.folder / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(20)
            d = Cairnd(self.folder)
            d.folder.mkdir()
            d.configure()
            process = Process("cairnd", [d.binary, "--config", d.folder / "cairn.yaml"], d.folder,
                              {"NOTIFY_SOCKET": path}).start()
            self.assertIn(b"READY=1", notify.recv(4096))
            process.signal(signal.SIGHUP)
            self.assertRegex(notify.recv(4096), rb"^RELOADING=1\nMONOTONIC_USEC=[1-9]\d+$")
            self.assertEqual(notify.recv(4096), b"READY=1")
            self.assertEqual(process.stop(), 0)


class Peers(E2E):
    """Two nodes without a registry: what one has, the other gets, or is told to fetch."""

    def setUp(self):
        super().setUp()
        self.ports = free_port(), free_port()
        self.a = self.node(0)
        self.b = self.node(1)

    def p2p(self, i, more="", peers=True):
        other = f'"127.0.0.1:{self.ports[1 - i]}"' if peers else ""
        return (f"gc: {{{MARKS}}}\n"
                f'p2p: {{listen: "127.0.0.1:{self.ports[i]}", peers: [{other}], decide: 5s, stall: 60s{more}}}\n')

    def node(self, i):
        return self.enter(Daemon(self.folder / "ab"[i], extra=self.p2p(i, peers=False)))

    def members(self):
        return [d.tool.json("status")[0]["p2p"]["members"] for d in (self.a, self.b)]

    def join(self):
        for i, d in enumerate((self.a, self.b)):
            self.assertEqual(d.reload(self.p2p(i)), {"p2p.peers": "applied"})
        wait_for("the nodes to see each other", lambda: self.members() == [2, 2])

    def give(self, size):
        """The first node has a new blob of so many bytes, and says so."""
        data = os.urandom(size)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        announced = self.a.tool.json("status")[0]["p2p"]["announced"]
        with self.a.client() as client:
            client.put(data)
        wait_for("it to be announced", lambda: self.a.tool.json("status")[0]["p2p"]["announced"] > announced)
        return digest

    def take(self, digest, size, meanwhile=lambda: None):
        """The other node gets it from there, all of it."""
        offsets = []

        def wait():
            with self.b.client(timeout=60) as client, client.write() as writer:
                writer.stat(ref=f"default/1/layer-{digest}", total=size)
                offsets.append(writer.stat().offset)
                writer.commit(digest, total=size, offset=0)
        thread = threading.Thread(target=wait)
        thread.start()
        try:
            meanwhile()
        finally:
            thread.join()
        self.assertEqual(offsets, [size])

    def received(self):
        return metrics(self.b.http)['cairn_p2p_received_bytes_total{source="peers"}']

    def test_peers(self):
        """Who is new on the list is met and gives blobs; who is not on it any more is left."""
        self.assertEqual(self.members(), [1, 1])
        self.join()
        self.take(self.give(MIB), MIB)
        for i, d in enumerate((self.a, self.b)):
            d.reload(self.p2p(i, peers=False))
        wait_for("the nodes to part", lambda: self.members() == [1, 1])
        say("a name that cannot be looked up, beside the peer")
        text = self.p2p(1).replace('peers: [', 'peers: ["cairn.invalid:1", ')
        self.b.reload(text)
        self.a.reload(self.p2p(0))
        wait_for("the nodes to see each other", lambda: self.members() == [2, 2], 40)

    def test_limits(self):
        """A transfer that a limit holds up goes on at once when it is lifted; and the other way round."""
        self.join()
        size = 8 * MIB
        for d, i, key in ((self.a, 0, "upload_limit"), (self.b, 1, "download_limit")):
            with self.subTest(key):
                self.b.reload(self.p2p(1, ", min_rate: 0"))
                said = d.reload(self.p2p(i, f", {key}: 100KiB, min_rate: 0"))
                self.assertEqual(said[f"p2p.{key}"], "applied")
                digest, before = self.give(size), self.received()

                def lift():
                    wait_for("bytes", lambda: self.received() > before)
                    self.assertLess(self.received() - before, size // 2)
                    d.reload(self.p2p(i, ", min_rate: 0"))
                self.take(digest, size, lift)

    def test_burst(self):
        """Many SIGHUPs with ever other configurations while blobs move do no harm; the last one holds."""
        self.join()
        over = threading.Event()

        def burst():
            turn = 0
            while not over.is_set():
                for i, d in enumerate((self.a, self.b)):
                    more = f", max_grants: {1 + turn % 5}, upload_limit: {(turn % 2) * 50}MiB, min_rate: {turn % 3}KiB"
                    d.extra = self.p2p(i, more).replace("gc: {", f"gc: {{keep_versions: {turn % 7}, ")
                    d.configure()
                    for _ in range(5):
                        d.process.signal(signal.SIGHUP)
                turn += 1
                over.wait(0.01)
        thread = threading.Thread(target=burst)
        thread.start()
        try:
            for _ in range(6):
                self.take(self.give(2 * MIB), 2 * MIB)
        finally:
            over.set()
            thread.join()
        for i, d in enumerate((self.a, self.b)):
            d.reload(self.p2p(i, ", max_grants: 9"))  # what is heard may be the answer to a signal of before
            wait_for("it to be as the file says", lambda d=d: d.reload() == {})
            self.assertGreater(d.process.log_text().count("ev=reloaded"), 10)
            self.assertNotRegex(d.process.log_text(), "lvl=error (?!ev=reload_refused)")
        self.assertEqual(self.members(), [2, 2])


if __name__ == "__main__":
    main()
