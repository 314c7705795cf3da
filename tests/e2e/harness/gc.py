"""What the tests of garbage collection share: leases by hand, and what cairnctl says of a blob."""
import http.client
import json
import re
import signal

from harness.cairnctl import Cairnctl
from harness.case import E2E, say
from harness.content import ContentClient, channel, content_pb2
from harness.cri import field
from harness.process import wait_for
from harness.registry import image
from harness.world import World

LEASES = "/containerd.services.leases.v1.Leases/"
# The disk of whoever runs the tests must not decide what goes.
NO_PRESSURE = "high_watermark: 100%, low_watermark: 100%, min_free: 0%"


class Leases:
    """Of containerd, with messages encoded by hand: cairn's .proto has only what cairn itself calls."""

    def __init__(self, socket, ns="default"):
        self.socket = socket
        self.ns = ns

    def call(self, method, request):
        with channel(self.socket) as to:
            to.unary_unary(LEASES + method)(request, timeout=20, metadata=[("containerd-namespace", self.ns)])

    def create(self, lease, **labels):
        """Dots and slashes in a label's name come from _: gc_flat is containerd.io/gc.flat."""
        pairs = [field(1, "containerd.io/" + name.replace("_", ".")) + field(2, value)
                 for name, value in labels.items()]
        self.call("Create", field(1, lease) + b"".join(field(3, pair) for pair in pairs))

    def add(self, lease, digest):
        """The digest need not be there."""
        self.call("AddResource", field(1, lease) + field(2, field(1, digest) + field(2, "content")))

    def delete(self, lease):
        self.call("Delete", field(1, lease) + b"\x10\x01")  # synchronous


def metrics(port):
    """name{labels} -> value"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return {name: float(value) for name, value in re.findall(r"^(cairn_\S+?(?:\{[^}]*\})?) (\S+)$", text, re.M)}


class GcCase(E2E):
    """A world with cairnctl in self.tool, in which only what a test says decides."""

    def world(self, gc="interval: 1s, keep_storage: 0s, keep_versions: 0", marks=NO_PRESSURE, **options):
        parts = [part for part in (gc, marks) if part]
        self.w = self.enter(World(self.folder, extra=f"gc: {{{', '.join(parts)}}}\n", **options))
        self.tool = Cairnctl(self.w.cairnd.socket, self.folder)
        return self.w

    def change(self, old, new, cairnd=None):
        """That part of cairn.yaml, while the daemon runs."""
        cairnd = cairnd or self.w.cairnd
        self.assertIn(old, cairnd.extra)
        cairnd.extra = cairnd.extra.replace(old, new)
        cairnd.configure()
        before = cairnd.process.log_text().count("ev=reloaded")
        cairnd.process.signal(signal.SIGHUP)
        wait_for("the reload", lambda: cairnd.process.log_text().count("ev=reloaded") > before, 10)

    def through_containerd(self, ns="default", lease=None):
        """A client of containerd's own content service, which goes on to cairnd."""
        metadata = [("containerd-namespace", ns)] + ([("containerd-lease", lease)] if lease else [])
        return self.enter(ContentClient(self.w.containerd.socket, metadata=metadata))

    def collect_snapshots(self, ns):
        """A pull does not ask for layers of which there is a snapshot, and fails if that goes meanwhile."""
        leases = Leases(self.w.containerd.socket, ns)

        def none_left():
            leases.create("collect")
            leases.delete("collect")  # containerd's GC has run when this returns
            return len(self.w.containerd.ctr("snapshots", "ls", ns=ns).stdout.splitlines()) <= 1
        wait_for("the snapshots to go", none_left, 10)

    def slow_reader(self, digest):
        """A Read stream of which little is under way at any time: it lasts as long as nobody takes from it."""
        client = self.enter(ContentClient(self.w.cairnd.socket))
        client.channel.close()
        client.channel = channel(self.w.cairnd.socket, **{"grpc.http2.bdp_probe": 0,
                                                          "grpc.http2.lookahead_bytes": 1 << 16})
        return client.stream("Read", content_pb2.ReadContentRequest(digest=digest), content_pb2.ReadContentResponse,
                             timeout=120)

    # what cairnctl says

    def rows(self):
        """digest -> what ls says of it"""
        return {row["digest"]: row for row in self.tool.json("ls")}

    def dry_run(self):
        """digest -> its decision, and the summary. Nothing may have changed by it."""
        before = {d: row["state"] for d, row in self.rows().items()}
        lines = self.tool.json("gc", "--dry-run", "--all")
        self.assertTrue(lines[-1]["dry_run"])
        evict = {line["digest"] for line in lines[:-1] if line["evict"]}
        after = {d: row["state"] for d, row in self.rows().items()}
        self.assertEqual({d: s for d, s in before.items() if d not in evict},
                         {d: s for d, s in after.items() if d not in evict})
        return {line["digest"]: line for line in lines[:-1]}, lines[-1]

    def await_version(self, ref, name):
        """Until cairnd has seen that ref stands for what the test image `name` is. It looks from time to time, and
        an image that comes and goes between two looks leaves nothing that a container's image could be found by."""
        def seen():
            done = self.tool.run("--json", "versions", ref)
            newest = done.stdout.splitlines()[:1]
            return [json.loads(line)["digest"] for line in newest] == [image(name)["target"]["digest"]]
        wait_for(f"{ref} to be seen", seen, 10)

    def passes(self):
        return metrics(self.w.cairnd.http)["cairn_gc_passes_total"]

    def await_pass(self, more=2):
        """Until the passes of the interval, one of which may have begun already, are over."""
        until = self.passes() + more
        wait_for("a pass", lambda: self.passes() >= until, 20)

    def assert_held(self, blobs, why, what=None, state="cached"):
        """They are here, and every way to ask gives this reason. A real pass changes nothing."""
        say("held:", why, what)

        def decided():
            rows = self.rows()
            return all(d in rows and rows[d]["state"] == state for d in blobs)
        wait_for(f"the blobs to be {state} and here", decided, 10)
        done = self.tool.json("gc", "--all")
        self.assertTrue(done[-1]["sure"], done[-1])
        dry, _ = self.dry_run()
        rows = self.rows()
        expected = {"why": why, "what": what, "evict": False}

        def told(of):
            return {key: of[key] for key in expected if what is not None or key != "what"}
        expected = told(expected)
        for digest in blobs:
            self.assertEqual(told({line["digest"]: line for line in done[:-1]}[digest]), expected, "gc --all")
            self.assertEqual(told(dry[digest]), expected, "gc --dry-run --all")
            self.assertEqual(told(rows[digest]), expected, "ls")
            self.assertTrue(self.w.cairnd.blob_path(digest).is_file(), digest)
        some = sorted(blobs)[0]
        self.assertEqual(told(self.tool.json("explain", some)[0]["blob"]), expected, "explain")
        fields = {line[0]: line[1:] for line in self.tool.fields("explain", some)}
        self.assertEqual(fields["garbage collection"][:2], ["keep", why])
        if what is not None:
            self.assertEqual(fields["garbage collection"][2], what or "-")

    def assert_gone(self, blobs, seconds=15):
        """The passes of the interval evict them: no row, no file."""
        say("to go:", len(blobs))

        def gone():
            rows = self.rows()
            return not any(digest in rows for digest in blobs)
        wait_for("the blobs to go", gone, seconds)
        for digest in blobs:
            self.assertFalse(self.w.cairnd.blob_path(digest).exists(), digest)

    def assert_no_leak(self):
        """What is on the disk is what ls says, and nothing else."""
        def same():
            rows = self.rows()
            files = {f"{folder.name}:{path.name}" for folder in (self.w.cairnd.state / "blobs").iterdir()
                     for path in folder.iterdir()}
            return files == set(rows)
        wait_for("the files to be the blobs", same, 10)
        for digest, row in self.rows().items():
            self.assertEqual(self.w.cairnd.blob_path(digest).stat().st_size, row["size"], digest)
