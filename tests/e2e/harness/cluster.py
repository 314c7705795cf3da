"""Nodes that belong together: each on a host of its own, with cairnd and, if asked for, containerd; a registry on
another host; certificates; etcd if asked for.

    with Cluster(folder, size=3) as c:
        a, b, late = c.nodes("a", "b", "late", start=False)
"""
import contextlib
import json
import os
import pathlib
import threading
import time

from harness.authority import Authority
from harness.cairnctl import Cairnctl
from harness.cairnd import NO_MARKS, Cairnd
from harness.containerd import Containerd, snapshotter
from harness.etcd import Etcd
from harness.net import Network
from harness.peer import arbiter
from harness.process import wait_for
from harness.puller import Puller, Running
from harness.registry import Registry
from harness.scripted import ScriptedRegistry

PORT = 7480
NAMES = "abcdefghij"


class Node(contextlib.ExitStack):
    """One node: .host (its network), .cairnd, .tool (cairnctl), .containerd or None. p2p: over the cluster's."""

    def __init__(self, cluster, name, containerd=False, p2p=None, extra="", advertise=None, runtime=None,
                 labels=None, state=None):
        super().__init__()
        self.cluster, self.name = cluster, name
        self.host = cluster.net.host(name)
        self.folder = cluster.folder / name
        self.listen = f"{self.host.address}:{PORT}"
        self.address = advertise or self.listen
        self.p2p, self.extra, self.labels = p2p or {}, extra, labels or {}
        self.with_containerd = containerd
        self.containerd = None
        socket = self.folder / "containerd/c.sock"
        self.cairnd = Cairnd(self.folder, socket if containerd else runtime or "", drain="2s", state=state,
                             host=self.host, level=cluster.level)
        self.tool = Cairnctl(self.cairnd.socket, cluster.folder)
        self.pullers = []

    def configure(self, **p2p):
        """Lines of cairn.yaml; with changes, for the next start."""
        self.p2p.update(p2p)
        gc = "" if "gc:" in self.extra else NO_MARKS
        registries = "" if "registries:" in self.extra else self.cluster.registries()
        node = f"node: {json.dumps({'name': self.name, 'labels': self.labels})}\n"
        self.cairnd.extra = node + gc + registries + f"p2p: {json.dumps(self.settings())}\n" + self.extra
        if self.cairnd.folder.exists():
            self.cairnd.configure()

    def settings(self):
        settings = {"listen": self.listen, "stall": "1s", "decide": "200ms", **self.cluster.p2p}
        if self.address != self.listen:
            settings["advertise"] = self.address
        if self.cluster.etcd:
            settings |= {"directory": "etcd", "etcd": {"endpoints": [self.cluster.etcd.endpoint]}}
        else:
            settings["peers"] = self.cluster.addresses()
        if self.cluster.authority:
            cert, key = self.certificate_files()
            settings["tls"] = {"ca": str(self.cluster.authority.ca), "cert": str(cert), "key": str(key)}
        return {**settings, **self.p2p}

    def certificate_files(self):
        folder = self.folder / "tls"
        if not folder.exists():
            self.renew_certificate()
        return folder / "node.pem", folder / "node.key"

    def renew_certificate(self, authority=None, **options):
        """New files in the place of the old ones."""
        (authority or self.cluster.authority).issue(self.name, [self.host.address], into=self.folder / "tls", **options)

    def start(self):
        self.configure()
        self.enter_context(self.cairnd)
        if self.with_containerd:
            self.containerd = Containerd(self.folder, self.cairnd.socket, cri=True,
                                         hosts=[self.cluster.registry.host], host=self.host)
            self.enter_context(self.containerd)
        return self

    # pulls

    def puller(self, **options):
        """A pull without containerd."""
        puller = Puller(self.cairnd.socket, self.cluster.registry.host, self.host.inside, **options)
        self.pullers.append(self.cluster.enter_context(puller))
        return puller

    def start_image(self, name, **options):
        """Pull it without containerd: .puller, .result()."""
        puller = self.puller(**options)
        running = puller.start("image", name)
        running.puller = puller
        return running

    def image(self, name, **options):
        running = self.start_image(name, **options)
        running.result()
        return running.puller

    def start_cri(self, name):
        return Running(self.containerd.cri.pull, (self.cluster.registry.ref(name),), {})

    def start_ctr(self, name):
        return Running(self.containerd.pull, (self.cluster.registry.ref(name),), {})

    # faults

    def die(self):
        """The node is gone: its link first, then every process."""
        self.host.cut()
        for puller in self.pullers:
            puller.abandon()
        if self.containerd:
            self.containerd.kill()
        self.cairnd.kill()

    # what it says

    def metrics(self):
        """name{labels} -> value"""
        from harness.gc import metrics  # pylint: disable=import-outside-toplevel
        with self.host.inside():
            return metrics(self.cairnd.http)

    def metric(self, name):
        """The sum over all labels."""
        return sum(v for key, v in self.metrics().items() if key == name or key.startswith(name + "{"))

    def held(self):
        with self.cairnd.client() as client:
            return set(client.states())

    def peers(self):
        """address -> what cairnctl says of it."""
        return {row["address"]: row for row in self.tool.json("peers")}

    def members(self):
        """Addresses of those that live, as it thinks."""
        return {address for address, row in self.peers().items() if row["state"] != "gone"}

    def is_answered(self):
        """It asks for a blob that nobody has, and is granted. In the static directory it is one that it is asked
        about itself: others may be what the test is about."""
        before = self.metric("cairn_p2p_grants_total")
        while True:
            digest = f"sha256:{os.urandom(32).hex()}"
            if self.cluster.etcd or arbiter(self.cluster.addresses(), digest) == self.address:
                break
        with self.cairnd.client() as client:
            ref = f"probe/1/layer-{digest}"
            with client.write() as writer:
                writer.stat(ref=ref, total=1)
                writer.stat()
                granted = self.metric("cairn_p2p_grants_total") > before
            client.abort(ref)
        return granted

    def from_peers(self):
        """Bytes since it was started."""
        return self.metrics()['cairn_p2p_received_bytes_total{source="peers"}']

    def log(self):
        return self.cairnd.process.log_text()


class Cluster(contextlib.ExitStack):
    """registry: "real" (docker-registry), "scripted" or None. directory: "static" or "etcd". p2p: for all nodes."""

    def __init__(self, folder, registry="real", directory="static", tls=True, size=3, p2p=None, link=None,
                 registry_link=None, level="debug"):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.kind, self.directory, self.tls, self.p2p = registry, directory, tls, p2p or {}
        self.names = NAMES[:size]
        self.level = level
        self.link, self.registry_link = link, registry_link
        self.etcd = self.authority = self.registry = None
        self.by_name = {}

    def __enter__(self):
        super().__enter__()
        try:
            snapshotter()  # found out once, before nodes start side by side
            self.net = self.enter_context(Network())
            self.registry_host = self.net.host("registry")
            if self.registry_link:
                self.registry_host.limit(up=self.registry_link, down=self.registry_link)
            if self.kind:
                kind = Registry(self.folder, on=self.registry_host) if self.kind == "real" else ScriptedRegistry(
                    on=self.registry_host)
                self.registry = self.enter_context(kind)
            if self.directory == "etcd":
                self.etcd = self.enter_context(Etcd(self.folder, self.net.host("etcd")))
            if self.tls:
                self.authority = Authority(self.folder / "authority")
            for name in self.names:
                host = self.net.host(name)
                if self.link:
                    host.limit(up=self.link, down=self.link)
        except BaseException:
            self.close()
            raise
        return self

    def addresses(self):
        """Of all nodes that there will be."""
        return [self.by_name[name].address if name in self.by_name else f"{self.net.host(name).address}:{PORT}"
                for name in self.names]

    def registries(self):
        if not self.registry:
            return ""
        return f'registries: {{hosts: [{{host: "{self.registry.host}", plain_http: true}}]}}\n'

    def node(self, name, start=True, **options):
        """The node, made and started."""
        node = self.by_name[name] = self.enter_context(Node(self, name, **options))
        if start:
            node.start()
        return node

    def nodes(self, names, **options):
        """Several at once; they know each other when this returns."""
        made = [self.node(name, start=False, **options) for name in names]
        starting = [Running(node.start, (), {}) for node in made]
        for one in starting:
            one.result()
        self.await_members(*made)
        return made

    def await_members(self, *nodes, seconds=15):
        """Until each of them knows that all of them live."""
        expected = {node.address for node in nodes}

        for node in nodes:
            wait_for(f"{node.name} to know {len(expected)} members", lambda n=node: n.members() >= expected, seconds)
        self.await_directory(*nodes, seconds=seconds)

    def await_directory(self, *nodes, seconds=15):
        """Until the directory answers their questions, and all have the same idea of it."""
        for node in nodes:
            if "share" not in node.settings():  # else what nobody knows the source of is nobody's business
                wait_for(f"{node.name} to be answered", node.is_answered, seconds)
        if not self.etcd:
            # A new member of the static directory is told for half a second before it is asked, and nothing shows
            # when that is over.
            time.sleep(0.6)


def all_of(running, seconds=60.0):
    """The results of several Running, in order; all have ended when this returns."""
    end = time.monotonic() + seconds
    for one in running:
        one.thread.join(max(0.0, end - time.monotonic()))
    return [one.result(0.1) for one in running]


def together(*functions):
    """Run them at the same moment; Running of each."""
    gate = threading.Barrier(len(functions))

    def run(function):
        gate.wait()
        return function()
    return [Running(run, (function,), {}) for function in functions]
