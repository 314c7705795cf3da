"""An HTTP proxy that knows where one host is."""
import http.server
import threading
import urllib.error
import urllib.request


class WebProxy:
    """Asks `origin` for what is asked of the host `name`, and of nobody else. In `asked`: methods and paths."""

    def __init__(self, name, origin):
        self.name, self.origin, self.asked = name, origin, []

    def __enter__(self):
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                proxy.forward(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def forward(self, handler):
        prefix = f"http://{self.name}/"
        if not handler.path.startswith(prefix):
            handler.send_error(502, f"no way to {handler.path}")
            return
        path = handler.path[len(prefix) - 1:]
        self.asked.append((handler.command, path))
        headers = {key: handler.headers[key] for key in ("Accept", "Range") if key in handler.headers}
        request = urllib.request.Request(f"http://{self.origin}{path}", method=handler.command, headers=headers)
        try:
            answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            handler.send_response(answer.status)
            for key, value in answer.headers.items():
                if key.lower() not in ("connection", "date", "server"):
                    handler.send_header(key, value)
            handler.end_headers()
            if handler.command == "GET":
                handler.wfile.write(answer.read())
