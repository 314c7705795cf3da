"""cairnd with a state directory and a socket of its own."""
import contextlib
import os
import pathlib
import re
import sqlite3

import grpc

from harness.content import ContentClient
from harness.process import Process, free_port, wait_for

CONFIG = """\
version: 1
state_dir: {state}
listen: {socket}
drain: {drain}
containerd: {{address: "{containerd}"}}
http: {{listen: "127.0.0.1:{port}"}}
log: {{level: {level}}}
"""
# The machine that runs the tests may have a full disk: no test is to depend on it but those about it.
NO_MARKS = "gc: {high_watermark: 100%, low_watermark: 100%, min_free: 0%}\n"
SANITIZER = re.compile(r"(AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:).*")
SUPPRESSIONS = pathlib.Path(__file__).with_name("lsan.supp")


class Cairnd:
    def __init__(self, folder, containerd="", state=None, drain="5s", extra="", env=None, host=None,
                 level="debug"):
        self.folder = pathlib.Path(folder) / "cairnd"
        self.state = pathlib.Path(state) if state else self.folder / "state"
        self.socket = self.folder / "cairn.sock"
        self.containerd = containerd
        self.drain = drain
        self.extra = extra
        self.env = env or {}
        self.host = host  # of harness/net.py, None: ours
        self.level = level
        self.http = free_port()
        self.process = None
        self.clients = []

    def __enter__(self):
        self.folder.mkdir(parents=True)
        self.configure()
        self.start()
        return self

    def __exit__(self, kind, *_):
        for client in self.clients:
            client.close()
        if kind is not None:
            if self.process.alive():
                self.process.kill()
        else:
            self.stop()

    def configure(self):
        (self.folder / "cairn.yaml").write_text(CONFIG.format(
            state=self.state, socket=self.socket, drain=self.drain, containerd=self.containerd,
            port=self.http, level=self.level) + ("" if re.search(r"^gc:", self.extra, re.M) else NO_MARKS) + self.extra)

    @property
    def binary(self):
        return pathlib.Path(os.environ["CAIRN_BUILD"], "cairnd")

    def start(self, wait=True):
        env = {"ASAN_OPTIONS": "detect_stack_use_after_return=0:abort_on_error=0:exitcode=99",
               "UBSAN_OPTIONS": "print_stacktrace=1", "LSAN_OPTIONS": f"suppressions={SUPPRESSIONS}", **self.env}
        self.process = Process("cairnd", [self.binary, "--config", self.folder / "cairn.yaml"], self.folder, env,
                               self.host)
        self.process.start()
        if wait:
            wait_for("cairnd to serve", self.serves, 30)

    def serves(self):
        if not self.process.alive():
            raise AssertionError(f"cairnd ended with {self.process.popen.returncode}:\n"
                                 + self.process.log_text()[-3000:])
        if not self.socket.exists():
            return False
        with ContentClient(self.socket, timeout=1) as client:
            try:
                return client.health() == "SERVING"
            except grpc.RpcError:
                return False

    def client(self, **options):
        """A client with a connection of its own, closed with the daemon's context."""
        client = ContentClient(self.socket, **options)
        self.clients.append(client)
        return client

    def stop(self, seconds=30.0, status=0):
        """SIGTERM; fails unless it exits with that status and no sanitizer has complained."""
        if self.process is None or self.process.popen is None:
            return
        was_alive = self.process.alive()
        got = self.process.stop(seconds)
        self.check_log()
        if was_alive and got != status:
            raise AssertionError(f"cairnd exited with {got}, {status} was expected:\n"
                                 + self.process.log_text()[-3000:])

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self.check_log()

    def restart(self, kill=False):
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def check_log(self):
        text = self.process.log_text()
        match = SANITIZER.search(text)
        if match:
            raise AssertionError("a sanitizer complains:\n" + text[match.start():][:6000])

    def damage(self, digest):
        """Another last bit in the file of that blob; returns the bytes that it had."""
        path = self.blob_path(digest)
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        return whole

    def blob_path(self, digest):
        algorithm, encoded = digest.split(":")
        return self.state / "blobs" / algorithm / encoded

    def checkpoints(self):
        """Offsets from which ingests would go on after kill -9."""
        with contextlib.closing(sqlite3.connect(f"file:{self.state}/index.db?mode=ro", uri=True)) as index:
            return [offset for offset, in index.execute("SELECT offset FROM ingest")]

    def open_files(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))
