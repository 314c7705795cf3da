"""cairnd as its admin meets it: options, configuration, readiness, the socket, the metrics."""
import os
import pathlib
import re
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Cairnd, E2E, Process, World, image, main, say, wait_for  # noqa: E402


class Daemon(E2E):
    def command(self, *args):
        binary = pathlib.Path(os.environ["CAIRN_BUILD"], "cairnd")
        return subprocess.run([binary, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=20, check=False)

    def config(self, text):
        path = self.folder / "cairn.yaml"
        path.write_text(text)
        return path

    def get(self, daemon, path):
        """Status and body of the HTTP endpoint."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{daemon.http}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, daemon, pattern):
        """Sum of the samples whose name and labels match."""
        _, text = self.get(daemon, "/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if not line.startswith("#") and re.search(pattern, line))

    def test_options(self):
        """--version and --help succeed; no option, an unknown one and a missing file do not."""
        self.assertRegex(self.command("--version").stdout, r"\d+\.\d+")
        self.assertIn("--config", self.command("--help").stdout)
        self.assertEqual(self.command("--help").returncode, 0)
        for args in ([], ["--nonsense"], ["--config"], ["stray"]):
            done = self.command(*args)
            self.assertEqual(done.returncode, 2, args)
            self.assertTrue(done.stderr)
        done = self.command("--config", self.folder / "absent.yaml")
        self.assertEqual(done.returncode, 1)
        self.assertIn("absent.yaml", done.stderr)

    def test_check_config(self):
        """--check-config takes an empty file, and names file, line and key of what is wrong."""
        self.assertEqual(self.command("--check-config", "--config", self.config("")).returncode, 0)
        for text, line, key in [("version: 1\nstate_dri: /x\n", 2, "state_dri"),
                                ("version: 1\ngc:\n  interval: 5 parsecs\n", 3, "interval"),
                                ("version: 2\n", 1, "version"),
                                ("log: {level: loud}\n", 1, "level"),
                                ("listen: [a, b]\n", 1, "listen"),
                                ("gc: {high_watermark: 180%}\n", 1, "high_watermark")]:
            with self.subTest(text):
                done = self.command("--check-config", "--config", self.config(text))
                self.assertEqual(done.returncode, 1)
                self.assertIn(f"cairn.yaml:{line}", done.stderr)
                self.assertIn(key, done.stderr)

    def test_ready_and_socket(self):
        """READY=1 comes when it serves; the socket is its owner's alone; no file of it is anybody else's to read."""
        path = str(self.folder / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(20)
            daemon = Cairnd(self.folder)
            daemon.folder.mkdir()
            daemon.configure()
            process = Process("cairnd", [daemon.binary, "--config", daemon.folder / "cairn.yaml"], daemon.folder,
                              {"NOTIFY_SOCKET": path}).start()
            self.assertIn(b"READY=1", notify.recv(4096))
            with daemon.client() as client:
                self.assertEqual(client.health(), "SERVING")
                self.assertEqual(client.health("containerd.services.content.v1.Content"), "SERVING")
                client.put(b"private")
            self.assertEqual(stat.S_IMODE(daemon.socket.stat().st_mode), 0o600)
            self.assertEqual(stat.S_IMODE(daemon.state.stat().st_mode) & 0o077, 0)
            self.assertEqual(process.stop(), 0)
        self.assertFalse(daemon.socket.exists())

    def test_stale_socket(self):
        """A socket that a killed daemon left is no obstacle; a file that is no socket is."""
        daemon = self.enter(Cairnd(self.folder))
        daemon.kill()
        self.assertTrue(daemon.socket.exists())
        daemon.start()
        daemon.stop()
        daemon.socket.write_text("something precious")
        daemon.start(wait=False)
        self.assertNotEqual(daemon.process.wait(20), 0)
        self.assertEqual(daemon.socket.read_text(), "something precious")
        daemon.socket.unlink()
        daemon.start()

    def test_metrics(self):
        """/metrics counts calls, errors, bytes and blobs; /healthz and /readyz answer."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/small:v1")
        self.assertEqual(self.get(w.cairnd, "/healthz")[0], 200)
        self.assertEqual(self.get(w.cairnd, "/readyz")[0], 200)
        self.assertEqual(self.get(w.cairnd, "/nonsense")[0], 404)
        w.containerd.pull(ref)
        status, text = self.get(w.cairnd, "/metrics")
        self.assertEqual(status, 200)
        for line in text.splitlines():
            self.assertRegex(line, r"^(#.*|[a-z0-9_:]+(\{[^}]*\})? \S+)$")
        blobs = 2 + len(image("demo/small:v1")["layers"])
        self.assertEqual(self.metric(w.cairnd, r'^cairn_blobs{state="referenced"}'), blobs)
        self.assertEqual(self.metric(w.cairnd, r'^cairn_blobs{state="cached"}'), 0)
        self.assertGreater(self.metric(w.cairnd, r'^cairn_blob_bytes{state="referenced"}'), 1000000)
        self.assertGreater(self.metric(w.cairnd, r"^cairn_cache_written_bytes_total"), 1000000)
        self.assertGreater(self.metric(w.cairnd, r'^cairn_rpc_handled_total.*"Read",grpc_code="OK"'), 10)
        self.assertGreater(self.metric(w.cairnd, r'^cairn_rpc_handled_total.*"Info",grpc_code="NotFound"'), 2)
        self.assertGreater(self.metric(w.cairnd, r'^cairn_rpc_duration_seconds_count.*"Write"'), 3)
        self.assertEqual(self.metric(w.cairnd, r'^cairn_rpc_active.*"Write"'), 0)
        say("remove the image")
        w.containerd.remove(ref)
        wait_for("the numbers", lambda: self.metric(w.cairnd, r'^cairn_blobs{state="cached"}') == blobs)
        self.assertEqual(self.metric(w.cairnd, r'^cairn_blobs{state="referenced"}'), 0)


if __name__ == "__main__":
    main()
