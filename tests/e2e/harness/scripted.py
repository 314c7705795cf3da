"""A registry that does as it is told: serves what it was given, and for single requests plays a script.

    with ScriptedRegistry() as r:
        one = r.image("team/app:v1", [b"layer"])
        r.script("GET", one.layers[0], r.status(503), r.short(3))     # first, second; from then on as it should be
        r.always("GET", one.layers[1], r.status(404))
        gate = r.hold("GET", one.layers[0], after=100)                # gate.reached.wait(), gate.open()

A step is a function of the request's handler; it answers, or returns PASS: answer as you should."""
import collections
import contextlib
import hashlib
import http.server
import json
import re
import socket
import struct
import threading

from harness.images import CONFIG, INDEX, LAYER, MANIFEST
from harness.registry import images_folder

PASS = object()
CHUNK = 64 << 10
ROUTE = re.compile(r"^/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<name>[^/?]+)")


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Image:
    """ref, digest (of its target), manifest, config and layers (digests), blobs: every digest."""

    def __init__(self, ref, digest, manifest, config, layers):
        self.ref, self.digest, self.manifest, self.config, self.layers = ref, digest, manifest, config, layers

    @property
    def blobs(self):
        return {self.digest, self.manifest, self.config, *self.layers}


class Gate:
    """A response that halts: reached is set when it does, open() lets it go on."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()

    def open(self):
        self.opened.set()


class Asked:
    """A request as it came."""

    def __init__(self, handler):
        self.method, self.path = handler.command, handler.path
        self.client = handler.client_address[0]
        self.headers = dict(handler.headers.items())
        match = ROUTE.match(handler.path)
        self.kind, self.name = (match["kind"], match["name"]) if match else ("", handler.path)
        self.range = handler.headers.get("Range")
        self.agent = handler.headers.get("User-Agent", "").split("/")[0]

    def __repr__(self):
        return f"{self.agent}: {self.method} {self.kind}/{self.name[:19]} {self.range or ''}"


class ScriptedRegistry:
    def __init__(self, *_, on=None):
        """on: a host of harness/net.py."""
        self.on = on
        self.sent = collections.Counter()  # (client, digest) -> bytes of bodies
        self.blobs = {}      # digest -> bytes, or a path
        self.types = {}      # digest of a manifest -> its media type
        self.tags = {}       # repository:tag -> digest
        self.scripts = {}    # (method, name) -> steps
        self.asked = []
        self.connections = 0
        self.lock = threading.Lock()
        self.gates = []

    def __enter__(self):
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                registry.connections += 1

            def do_GET(self):
                registry.serve(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_):
                pass

            def handle(self):
                try:
                    super().handle()
                except OSError:
                    pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

        address = self.on.address if self.on else "127.0.0.1"
        with self.on.inside() if self.on else contextlib.nullcontext():
            self.server = Server((address, 0), Handler)
        self.port = self.server.server_port
        self.host = f"{address}:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        for gate in self.gates:
            gate.open()
        self.server.shutdown()
        self.server.server_close()

    # what it has

    def ref(self, name):
        return f"{self.host}/{name}"

    def put(self, data):
        digest = sha256(data)
        self.blobs[digest] = data
        return {"mediaType": LAYER, "digest": digest, "size": len(data)}

    def put_manifest(self, value, media_type=MANIFEST, tag=None):
        data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        described = {**self.put(data), "mediaType": media_type}
        self.types[described["digest"]] = media_type
        if tag:
            self.tags[tag] = described["digest"]
        return described

    def manifest(self, layers, architecture="amd64", tag=None, note=""):
        """Descriptor and value of a manifest of these layers (bytes)."""
        config = {**self.put(json.dumps({"architecture": architecture, "os": "linux", "note": note, "rootfs": {
            "type": "layers", "diff_ids": [sha256(layer) for layer in layers]}}).encode()), "mediaType": CONFIG}
        value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [self.put(l) for l in layers]}
        return self.put_manifest(value, tag=tag), value

    def image(self, name, layers, architecture="amd64"):
        """name: repository:tag."""
        described, value = self.manifest(layers, architecture, name, name)
        digest = described["digest"]
        return Image(self.ref(name), digest, digest, value["config"]["digest"], [l["digest"] for l in value["layers"]])

    def index(self, name, variants):
        """variants: architecture -> layers. The image of each architecture."""
        entries, images = [], {}
        for architecture, layers in variants.items():
            described, value = self.manifest(layers, architecture, note=name)
            entries.append({**described, "platform": {"os": "linux", "architecture": architecture}})
            images[architecture] = (described["digest"], value)
        index = self.put_manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, INDEX, name)
        return {a: Image(self.ref(name), index["digest"], digest, value["config"]["digest"],
                         [l["digest"] for l in value["layers"]]) for a, (digest, value) in images.items()}

    def demo(self, *names):
        """Serve images of images.py, which containerd can run."""
        images = json.loads((images_folder() / "images.json").read_text())
        for name in names:
            one = images[name]
            self.tags[name] = one["target"]["digest"]
            for target in [one["target"], *one["manifests"]]:
                path = images_folder() / "blobs" / target["digest"][7:]
                self.blobs[target["digest"]] = path
                self.types[target["digest"]] = target["mediaType"]
                value = json.loads(path.read_text())
                for part in [value.get("config"), *value.get("layers", [])]:
                    if part:
                        self.blobs[part["digest"]] = images_folder() / "blobs" / part["digest"][7:]

    # what it was asked

    def requests(self, kind=None, agent=None, method=None, name=None):
        with self.lock:
            return [a for a in self.asked if (kind is None or a.kind == kind) and (agent is None or a.agent == agent)
                    and (method is None or a.method == method) and (name is None or a.name == name)]

    def gets(self, agent=None, name=None):
        """GETs of blobs and manifests."""
        return [a for a in self.requests(agent=agent, method="GET", name=name) if a.kind]

    def forget(self):
        with self.lock:
            self.asked.clear()

    # scripts

    def script(self, method, name, *steps):
        """The next requests for this name (a digest or a tag) go so, and further ones as they should."""
        with self.lock:
            self.scripts[method, name] = list(steps)

    def always(self, method, name, step):
        with self.lock:
            self.scripts[method, name] = step

    def hold(self, method, name, after=0, agent=None):
        """Halt the next response after so many bytes of its body, until the gate is opened."""
        gate = Gate()
        self.gates.append(gate)

        def step(handler):
            if agent and Asked(handler).agent != agent:
                return PASS
            return self.answer(handler, halt=(after, gate))
        self.always(method, name, step)
        return gate

    def drip(self, rate, agent=None):
        """So many bytes a second, for as long as the scripts last."""
        gate = Gate()
        self.gates.append(gate)

        def step(handler):
            if agent and Asked(handler).agent != agent:
                return PASS
            return self.answer(handler, drip=(rate, gate))
        return step

    def to_client(self, client, step):
        """The step for requests from this address, and the usual answer for others."""
        return lambda handler: step(handler) if handler.client_address[0] == client else PASS

    def sent_of(self, digests):
        """Bytes of these blobs that were sent so far, to all."""
        with self.lock:
            return sum(n for (_, digest), n in self.sent.items() if digest in digests)

    def relent(self):
        """No scripts any more, and no gates."""
        with self.lock:
            self.scripts.clear()
        for gate in self.gates:
            gate.open()

    # steps

    def status(self, code, headers=(), body=b"", agent=None):
        def step(handler):
            if agent and Asked(handler).agent != agent:
                return PASS
            self.send(handler, code, dict(headers), body)
            return None
        return step

    def short(self, n):
        """So many bytes, then the connection ends."""
        return lambda handler: self.answer(handler, cut=n)

    def reset(self, n):
        """The same, with a reset."""
        return lambda handler: self.answer(handler, cut=n, reset=True)

    def wrong(self, change=lambda data: bytes([data[0] ^ 1]) + data[1:]):
        """Other bytes, of the same length by default."""
        return lambda handler: self.answer(handler, change=change)

    def without_length(self):
        return lambda handler: self.answer(handler, length=False)

    def with_headers(self, **headers):
        return lambda handler: self.answer(handler, headers={k.replace("_", "-"): v for k, v in headers.items()})

    # answers

    def serve(self, handler):
        length = int(handler.headers.get("Content-Length") or 0)
        if length:
            handler.rfile.read(length)
        asked = Asked(handler)
        with self.lock:
            self.asked.append(asked)
            step = self.scripts.get((asked.method, asked.name), PASS)
            if isinstance(step, list):
                step = step.pop(0) if step else PASS
        try:
            if step is PASS or step(handler) is PASS:
                self.answer(handler)
        except OSError:
            handler.close_connection = True

    def send(self, handler, code, headers, body=b""):
        handler.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    def find(self, handler):
        match = ROUTE.match(handler.path)
        if not match:
            return None, None
        name = match["name"]
        if match["kind"] == "manifests":
            name = self.tags.get(f"{match['repository']}:{name}", name)
        if (match["kind"] == "manifests") != (name in self.types):
            return name, None  # as docker-registry has it
        return name, self.blobs.get(name)

    def answer(self, handler, cut=None, reset=False, halt=None, change=None, length=True, headers=None,
               drip=None):
        """As it should be, but for what the arguments say."""
        if handler.path in ("/v2/", "/v2"):
            return self.send(handler, 200, {})
        digest, data = self.find(handler)
        if data is None:
            error = b'{"errors": [{"code": "BLOB_UNKNOWN", "message": "not known here"}]}'
            return self.send(handler, 404, {"Content-Type": "application/json"}, error)
        if not isinstance(data, bytes):
            data = data.read_bytes()
        data = change(data) if change else data
        code, first = 200, 0
        said = {"Content-Type": self.types.get(digest, "application/octet-stream"), "Docker-Content-Digest": digest}
        asked = re.match(r"bytes=(\d+)-$", handler.headers.get("Range", ""))
        if asked and int(asked[1]) < len(data):
            code, first = 206, int(asked[1])
            said["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        if length:
            said["Content-Length"] = str(len(data) - first)
        else:
            handler.close_connection = True
            said["Connection"] = "close"
        handler.send_response(code)
        for key, value in {**said, **(headers or {})}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command != "HEAD":
            self.body(handler, digest, data[first:], cut, reset, halt, drip)
        return None

    def body(self, handler, digest, data, cut, reset, halt, drip):
        after, gate = halt or (None, None)
        end = len(data) if cut is None else min(cut, len(data))
        at = 0
        while at < end or gate:
            if gate and at >= min(after, end):
                handler.wfile.flush()
                gate.reached.set()
                gate.opened.wait()
                gate = None
                continue
            stop = min(at + CHUNK, end, after if gate else end)
            if drip and not drip[1].opened.is_set():
                stop = min(at + drip[0] // 10, end)
                drip[1].opened.wait(0.1)
            handler.wfile.write(data[at:stop])
            with self.lock:
                self.sent[handler.client_address[0], digest] += stop - at
            at = stop
        handler.wfile.flush()
        if cut is not None:
            if reset:
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                handler.connection.close()
            handler.close_connection = True
