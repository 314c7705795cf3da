"""What the tests of the swarm share: a cluster, and who gave what to whom."""
import json
import os

from harness.case import E2E, say
from harness.cluster import Cluster, all_of, together
from harness.peer import arbiter
from harness.process import wait_for
from harness.registry import image, images_folder

MIB = 1 << 20
# p2p, for a test of what comes once, in which nobody dies: on a busy machine one that downloads may be late by seconds,
# and an answer, too. With less patience another one takes over then, as it should, and a blob comes a second time.
PATIENT = {"stall": "20s", "decide": "5s"}


def size_of(digest):
    return (images_folder() / "blobs" / digest[7:]).stat().st_size


class SwarmCase(E2E):
    """self.c is the cluster. Images are those of images.py (registry "real"), or what layers() made ("scripted")."""

    def cluster(self, **options):
        self.c = self.enter(Cluster(self.folder, **options))
        return self.c

    # the registry's side

    def size(self, name):
        """Bytes of an image of images.py: manifest, config and layers."""
        one = image(name)
        return sum(size_of(d) for d in {one["target"]["digest"], one["config"], *one["layers"]})

    def gets(self):
        """GETs at docker-registry since the last call."""
        return [r for r in self.c.registry.requests() if r.method == "GET"]

    def layers(self, count, size, name="team/app:v1", avoid=None, by=None):
        """An image of so many layers of random bytes, at the scripted registry. In the static directory nobody asks
        `avoid` (an address) about any of its blobs, and all ask `by` about its first layer."""
        while True:
            one = self.c.registry.image(name, [os.urandom(size) for _ in range(count)])
            asked = {digest: arbiter(self.c.addresses(), digest) for digest in one.blobs}
            if avoid not in asked.values() and by in (None, asked[one.layers[0]]):
                return one

    def sent(self, one):
        """Bytes that the scripted registry sent of this image's layers."""
        return self.c.registry.sent_of(set(one.layers))

    def layer_sizes(self, one):
        return sum(len(self.c.registry.blobs[d]) for d in one.layers)

    def assert_sent(self, one, at_most, at_least=1.0):
        """The registry sent the layers so many times, all in all."""
        times = self.sent(one) / self.layer_sizes(one)
        say(f"the registry sent the image {times:.2f} times")
        self.assertLessEqual(times, at_most, self.c.registry.sent)
        self.assertGreaterEqual(times, at_least, self.c.registry.sent)

    # the nodes' side

    def finish(self, running, seconds=60.0):
        """All of start_image end well, and every blob reads as what it is."""
        all_of(running, seconds)
        for one in running:
            one.puller.check()
        say("pulls took", [f"{one.seconds:.1f}" for one in running])

    def decided(self, pull):
        """For how many seconds this pull waited for one blob, at most, before it was told where that comes from."""
        waited = [one.waited or 0 for one in pull.puller.fetched.values()]
        say("waited", [f"{seconds:.2f}" for seconds in waited])
        return max(waited)

    def pull_all(self, nodes, name, seconds=60.0, **options):
        """At the same moment, without containerd. Returns their Running."""
        running = [node.start_image(name, **options) for node in nodes]
        self.finish(running, seconds)
        return running

    def run_all(self, nodes, name, ns="default"):
        """A container on each, that checks every file."""
        ref = self.c.registry.ref(name)
        all_of(together(*[lambda n=node: n.containerd.whole(ref, image(name)["version"], ns=ns) for node in nodes]))

    def settled(self, *nodes, but=frozenset()):
        """What they hold, but for this, has been told to the others."""
        for node in nodes:
            wait_for(f"{node.name} to have announced what it holds",
                     lambda n=node: n.metric("cairn_p2p_announced_blobs") == len(n.held() - but), 10)
            if self.c.etcd:
                wait_for(f"etcd to know what {node.name} holds", lambda n=node: n.held() - but <= self.records(n), 10)

    def records(self, node):
        """Digests that this node holds, says etcd: it hears of them a moment after they are counted as announced."""
        records = self.c.etcd.all("/cairn/h/")  # /cairn/h/DIGEST/NN
        return {key.split("/")[3] for key, address in records.items() if address == node.address}

    def manifest_of(self, digest):
        return json.loads((images_folder() / "blobs" / digest[7:]).read_text())
