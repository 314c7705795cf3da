"""etcd, on a host of harness/net.py."""
import base64
import http.client
import json
import pathlib

from harness.process import Process, free_port, wait_for


class Etcd:
    def __init__(self, folder, host):
        self.folder = pathlib.Path(folder) / "etcd"
        self.host = host
        self.port = free_port()
        self.endpoint = f"{host.address}:{self.port}"
        self.process = None

    def __enter__(self):
        self.folder.mkdir(parents=True)
        self.start()
        return self

    def __exit__(self, *_):
        if self.process and self.process.alive():
            self.process.kill()

    def start(self):
        """With what it stored before."""
        url = f"http://{self.endpoint}"
        argv = ["etcd", "--data-dir", self.folder / "data", "--logger", "zap", "--listen-client-urls", url,
                "--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:0"]
        self.process = Process("etcd", argv, self.folder, {"ETCD_UNSUPPORTED_ARCH": ""}, self.host).start()
        wait_for("etcd to answer", self.answers, 20)

    def kill(self):
        self.process.kill()

    def answers(self):
        if not self.process.alive():
            raise AssertionError("etcd ended:\n" + self.process.log_text()[-2000:])
        try:
            self.call("kv/range", key="00")
            return True
        except (OSError, http.client.HTTPException, AssertionError):
            return False

    def call(self, method, **fields):
        """By its gateway for JSON. Keys and values are given as text."""
        body = {k: base64.b64encode(v.encode()).decode() if k in ("key", "value", "range_end") else v
                for k, v in fields.items()}
        connection = http.client.HTTPConnection(self.host.address, self.port, timeout=5)
        try:
            connection.request("POST", f"/v3/{method}", json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise AssertionError(f"etcd {method}: {response.status} {text}")
        return json.loads(text)

    def put(self, key, value, lease=0):
        self.call("kv/put", key=key, value=value, lease=lease)

    def all(self, prefix=""):
        """key -> value, of all keys that begin so."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\0"
        reply = self.call("kv/range", key=prefix or "\0", range_end=end)
        return {base64.b64decode(kv["key"]).decode("latin-1"): base64.b64decode(kv.get("value", "")).decode("latin-1")
                for kv in reply.get("kvs", [])}

    def leases(self):
        return [lease["ID"] for lease in self.call("lease/leases").get("leases", [])]

    def revoke(self, lease):
        self.call("lease/revoke", ID=lease)
