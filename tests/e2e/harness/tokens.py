"""A token server as docker-registry wants it (auth: token), with lives as short as a test needs."""
import base64
import http.server
import json
import subprocess
import threading
import time
import urllib.parse

LEEWAY = 60  # seconds for which docker-registry honours a token after its end


def encode(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class TokenServer:
    """lives: how long the registry honours a token, in seconds. says: what the answer says of that."""

    def __init__(self, certificates, user, password, refresh_token="", lives=60, says=None):
        self.certificates = certificates
        self.login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.user = user
        self.refresh_token = refresh_token
        self.lives, self.says = lives, says
        self.asked = []   # (method, scopes)
        self.issued = []

    def __enter__(self):
        tokens = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                tokens.serve(self, query, self.headers.get("Authorization") == tokens.login)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = urllib.parse.parse_qs(body)
                good = tokens.refresh_token and form.get("refresh_token") == [tokens.refresh_token]
                tokens.serve(self, form, good and form.get("grant_type") == ["refresh_token"])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.realm = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def auth(self):
        """For docker-registry's configuration."""
        return {"token": {"realm": self.realm, "service": "tests", "issuer": "tokens",
                          "rootcertbundle": str(self.certificates.cert)}}

    def serve(self, handler, query, authenticated):
        self.asked.append((handler.command, query.get("scope", [])))
        code, answer = 401, {"details": "who are you?"}
        if authenticated:
            code, answer = 200, {"token": self.token(query.get("scope", []))}
            if self.says:
                answer["expires_in"] = self.says
        body = json.dumps(answer).encode()
        handler.send_response(code)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def token(self, scopes):
        pem = self.certificates.cert.read_text().split("-----")[2]
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem.split())]}
        access = []
        for scope in " ".join(scopes).split():
            kind, name, actions = scope.split(":", 2)
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "tokens", "sub": self.user, "aud": "tests", "exp": now - LEEWAY + self.lives,
                  "nbf": now - 1000, "iat": now - 1000, "jti": str(len(self.issued)), "access": access}
        signed = encode(json.dumps(header).encode()) + "." + encode(json.dumps(claims).encode())
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.certificates.key],
                                   input=signed.encode(), stdout=subprocess.PIPE, check=True).stdout
        token = signed + "." + encode(signature)
        self.issued.append(token)
        return token
