"""A pull as containerd does it, as seen by its content store, without containerd: cheap, and every step can be
held up. It unpacks nothing."""
import contextlib
import hashlib
import http.client
import json
import threading
import time

import grpc

from harness.content import ContentClient
from harness.images import INDEX, MANIFEST, sha256

MIB = 1 << 20
ACCEPT = f"{MANIFEST}, {INDEX}, */*"


class Abandoned(Exception):
    """The puller was told to stop."""


class RegistryError(Exception):
    """Its status is not 200 or 206, or it broke off."""


class Fetched:
    """How a blob came. how: "prefill" (it was here), "swarm" (the second STAT said so), "registry" (by us)."""

    def __init__(self, digest, size):
        self.digest, self.size = digest, size
        self.how = None
        self.offset = None        # where we began to fetch
        self.got = 0              # bytes from the registry, by us
        self.waited = None        # seconds of the second STAT
        self.granted = threading.Event()   # we were told to fetch
        self.over = threading.Event()
        self.error = None

    def __repr__(self):
        return f"{self.digest[7:19]} {self.size}: {self.how} waited {self.waited} got {self.got} {self.error or ''}"


class Puller:
    """socket: the content store's. inside: the namespace in which the registry is asked. registry: host:port.

    pace(fetched): called before each MiB that is written; it may wait, or raise. asked: headers of requests."""

    def __init__(self, socket, registry, inside=contextlib.nullcontext, namespace="default", parallel=3, pace=None,
                 headers=None, timeout=120):
        self.client = ContentClient(socket, timeout, [("containerd-namespace", namespace)])
        self.registry, self.inside, self.namespace = registry, inside, namespace
        self.slots = threading.Semaphore(parallel)
        self.pace = pace or (lambda fetched: None)
        self.headers = headers or {}
        self.fetched = {}   # digest -> Fetched
        self.abandoned = threading.Event()
        self.connections = set()
        self.lock = threading.Lock()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.abandon()
        self.client.close()

    def abandon(self):
        """Every blob that is not through fails now, as with a containerd that was killed."""
        self.abandoned.set()
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError, AttributeError):
                    connection.sock.shutdown(2)

    def blob(self, digest, size, repository="demo/any", kind="layer", ref=None):
        """Get one blob into the store. Raises what went wrong."""
        with self.slots:
            one = self.fetched[digest] = Fetched(digest, size)
            try:
                self.write(one, repository, kind, ref or f"{self.namespace}/{len(self.fetched)}/{kind}-{digest}")
            except BaseException as error:
                one.error = error
                raise
            finally:
                one.over.set()
        return one

    def write(self, one, repository, kind, ref):
        with self.client.write() as writer:
            try:
                if writer.stat(ref=ref, total=one.size).offset == one.size:
                    one.how = "prefill"
                else:
                    began = time.monotonic()
                    one.offset = writer.stat().offset
                    one.waited = time.monotonic() - began
                    if one.offset == one.size:
                        one.how = "swarm"
                        one.offset = 0  # as negotiated
                    else:
                        one.how = "registry"
                        one.granted.set()
                        self.fetch(one, repository, kind, writer)
                        one.offset = one.size
                if self.abandoned.is_set():
                    raise Abandoned()
                with contextlib.suppress(grpc.RpcError):  # AlreadyExists is fine, and shows below
                    writer.commit(one.digest, total=one.size, offset=one.size if one.how != "swarm" else one.offset)
                self.client.info(one.digest)
            except BaseException:
                writer.cancel()
                raise

    def fetch(self, one, repository, kind, writer):
        """From the registry, from the offset on."""
        at = one.offset
        where = "manifests" if kind in ("manifest", "index") else "blobs"
        with self.get(repository, where, one.digest, at) as response:
            while at < one.size:
                self.pace(one)
                if self.abandoned.is_set():
                    raise Abandoned()
                data = response.read(min(MIB, one.size - at))
                if not data:
                    raise RegistryError(f"{one.digest} ended at {at}")
                one.got += len(data)
                at = writer.data(data, at).offset

    @contextlib.contextmanager
    def get(self, repository, kind, name, offset=0):
        host, port = self.registry.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        with self.inside():
            connection.connect()
        with self.lock:
            self.connections.add(connection)
        try:
            headers = {"Accept": ACCEPT, **self.headers}
            if offset:
                headers["Range"] = f"bytes={offset}-"
            connection.request("GET", f"/v2/{repository}/{kind}/{name}", headers=headers)
            response = connection.getresponse()
            if response.status not in (200, 206):
                raise RegistryError(f"{name}: status {response.status}")
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise Abandoned() if self.abandoned.is_set() else RegistryError(str(error)) from error
        finally:
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    def image(self, name):
        """A whole image, repository:tag, of one platform: manifest, then config and layers. Returns its Fetched."""
        repository, tag = name.split(":")
        with self.get(repository, "manifests", tag) as response:
            manifest = response.read()
        digest = sha256(manifest)
        self.blob(digest, len(manifest), repository, "manifest")
        manifest = json.loads(self.client.read(digest))
        parts = [("config", manifest["config"])] + [("layer", layer) for layer in manifest["layers"]]
        errors = []

        def one(kind, part):
            try:
                self.blob(part["digest"], part["size"], repository, kind)
            except BaseException as error:  # pylint: disable=broad-except
                errors.append(error)
        threads = [threading.Thread(target=one, args=part, daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return self.fetched

    def start(self, what, *args, **options):
        """image or blob in the background."""
        return Running(getattr(self, what), args, options)

    def check(self, *wanted):
        """What the store reads for these digests is them; of all that were fetched, if none is given."""
        for digest in wanted or self.fetched:
            got = "sha256:" + hashlib.sha256(self.client.read(digest, timeout=60)).hexdigest()
            if got != digest:
                raise AssertionError(f"reading {digest} gave {got}")


class Running:
    """A call on a thread of its own."""

    def __init__(self, function, args, options):
        self.value = self.error = self.seconds = None
        self.began = time.monotonic()

        def run():
            try:
                self.value = function(*args, **options)
            except BaseException as error:  # pylint: disable=broad-except
                self.error = error
            self.seconds = time.monotonic() - self.began
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def running(self):
        return self.thread.is_alive()

    def result(self, seconds=60.0):
        self.thread.join(seconds)
        if self.thread.is_alive():
            raise AssertionError(f"it did not end within {seconds:g} s")
        if self.error:
            raise self.error
        return self.value
