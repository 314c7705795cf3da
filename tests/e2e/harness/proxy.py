"""An HTTP proxy before the registry that can throttle, stall and cut blobs."""
import http.client
import http.server
import threading

CHUNK = 64 << 10


class SlowProxy:
    """While used: `rate` bytes/s for each blob (0: no limit); `stall_at` and `cut_at` bytes after which a
    blob's response halts until release(), or its connection is closed. `only`: of this digest alone."""

    def __init__(self, registry):
        self.registry = registry
        self.rate = 0
        self.stall_at = None
        self.cut_at = None
        self.only = None
        self.released = threading.Event()
        self.stalled = threading.Event()
        self.requests = []  # (method, path, Range or None)
        self.sent = {}      # digest -> bytes sent of it
        self.lock = threading.Lock()

    def __enter__(self):
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                proxy.forward(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.port = self.server.server_port
        self.host = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def ref(self, name):
        return f"{self.host}/{name}"

    def release(self):
        """Let everything go at full speed from now on."""
        self.rate, self.stall_at, self.cut_at = 0, None, None
        self.released.set()

    def ranges(self, digest):
        """The Range of each GET of this blob so far, None for those without."""
        with self.lock:
            return [r for method, path, r in self.requests if method == "GET" and path.endswith(digest)]

    def forward(self, handler):
        with self.lock:
            self.requests.append((handler.command, handler.path, handler.headers.get("Range")))
        upstream = http.client.HTTPConnection("127.0.0.1", self.registry.port, timeout=60)
        try:
            headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection")}
            upstream.request(handler.command, handler.path, headers=headers)
            response = upstream.getresponse()
            handler.send_response(response.status)
            for key, value in response.getheaders():
                if key.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    handler.send_header(key, value)
            handler.end_headers()
            if handler.command == "GET":
                self.body(handler, response)
        except OSError:
            handler.close_connection = True
        finally:
            upstream.close()

    def body(self, handler, response):
        slow = "/blobs/" in handler.path and (self.only is None or handler.path.endswith(self.only))
        digest = handler.path.rsplit("/", 1)[1]
        sent = 0
        while data := response.read(CHUNK):
            if slow and self.cut_at is not None and sent >= self.cut_at:
                handler.close_connection = True
                return
            if slow and self.stall_at is not None and sent >= self.stall_at and not self.released.is_set():
                self.stalled.set()
                self.released.wait()
            if slow and self.rate:
                self.released.wait(len(data) / self.rate) if not self.released.is_set() else None
            handler.wfile.write(data)
            sent += len(data)
            with self.lock:
                self.sent[digest] = self.sent.get(digest, 0) + len(data)
        handler.wfile.flush()
