"""docker-registry on loopback, with the images of images.py and an access log to ask."""
import http.client
import json
import os
import pathlib
import re
import shutil
import ssl

from harness.images import LAYER, Store, write_registry
from harness.process import Process, free_port, wait_for

CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {http}
"""
ACCESS = re.compile(
    r'^([0-9.]+) - \S+ \[[^]]*\] "(GET|HEAD|PUT|POST|PATCH|DELETE) (\S+) HTTP/[12]\.[01]" (\d+) (\d+)', re.M)


def images_folder():
    return pathlib.Path(os.environ["CAIRN_IMAGES"])


def image(name):
    """What images.py says of demo/app:v1 and so on."""
    return json.loads((images_folder() / "images.json").read_text())[name]


def digests(name):
    """Every digest that a pull of it needs on this platform."""
    one = image(name)
    return {one["target"]["digest"], one["manifests"][0]["digest"], one["config"], *one["layers"]}


class Request:
    """A line of the access log."""

    def __init__(self, client, method, path, status, size):
        self.client = client  # its address
        self.method, self.path, self.status, self.size = method, path, int(status), int(size)
        match = re.search(r"/(manifests|blobs)/([^/?]+)(\?.*)?$", path)
        self.kind, self.name = match.group(1, 2) if match else ("", "")

    def __repr__(self):
        return f"{self.method} {self.path} {self.status} {self.size}"


class Registry:
    """auth: docker-registry's auth. tls: (certificate, key). on: a host of harness/net.py."""

    def __init__(self, folder, auth=None, tls=None, on=None):
        self.folder = pathlib.Path(folder) / "registry"
        self.auth = auth
        self.tls = tls
        self.on = on
        self.address = on.address if on else "127.0.0.1"
        self.port = free_port()
        self.host = f"{self.address}:{self.port}"
        self.storage = self.folder / "storage"
        self.process = None
        self.seen = 0

    def __enter__(self):
        self.folder.mkdir(parents=True)
        shutil.copytree(images_folder() / "registry", self.storage, copy_function=os.link)
        self.configure()
        self.start()
        return self

    def configure(self):
        listen = {"addr": self.host}
        if self.tls:
            listen["tls"] = {"certificate": str(self.tls[0]), "key": str(self.tls[1])}
        text = CONFIG.format(root=self.storage, http=json.dumps(listen))
        if self.auth:
            text += f"auth: {json.dumps(self.auth)}\n"
        (self.folder / "config.yml").write_text(text)

    def __exit__(self, *_):
        if self.process and self.process.alive():
            self.process.kill()

    def start(self):
        argv = ["docker-registry", "serve", self.folder / "config.yml"]
        self.process = Process("registry", argv, self.folder, {"OTEL_TRACES_EXPORTER": "none"}, self.on).start()
        wait_for("the registry to answer", self.answers)

    def stop(self):
        self.process.kill()

    def answers(self):
        if not self.process.alive():
            raise AssertionError("docker-registry ended:\n" + self.process.log_text())
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(self.address, self.port, timeout=5, context=context)
        else:
            connection = http.client.HTTPConnection(self.address, self.port, timeout=5)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()

    def ref(self, name):
        """demo/app:v1 -> 127.0.0.1:5000/demo/app:v1"""
        return f"{self.host}/{name}"

    def requests(self):
        """Requests logged since the last call (of anything below /v2/<name>)."""
        text = self.process.log_text()
        found = [Request(*match) for match in ACCESS.findall(text)]
        new, self.seen = found[self.seen:], len(found)
        return [r for r in new if r.kind]

    def blob_gets(self):
        """GETs of blobs since the last call of this or of requests(); manifests are not among them."""
        return [r for r in self.requests() if r.method == "GET" and r.kind == "blobs"]

    def add(self, name, layers):
        """One more image, name:tag, of these layers (bytes, that need not be a tar); what image() would say."""
        store = Store(self.folder / "more")
        described = [store.blob(layer, LAYER) for layer in layers]
        repository, tag = name.split(":")
        store.image(repository, [tag], [(d, d["digest"]) for d in described], "")
        write_registry(self.folder / "more", store.images)
        shutil.copytree(self.folder / "more/registry", self.storage, copy_function=os.link, dirs_exist_ok=True)
        shutil.rmtree(self.folder / "more")
        return store.images[name]

    def retag(self, repository, tag, to):
        """Make repository:tag mean what repository:to means, as a push would."""
        digest = image(f"{repository}:{to}")["target"]["digest"]
        tags = self.storage / "docker/registry/v2/repositories" / repository / "_manifests/tags" / tag
        for path in (tags / "current", tags / "index/sha256" / digest[7:]):
            path.mkdir(parents=True, exist_ok=True)
            link = path / "link"
            link.unlink(missing_ok=True)  # it is a hard link to other registries' file
            link.write_text(digest)

    def blob_path(self, digest):
        return self.storage / "docker/registry/v2/blobs/sha256" / digest[7:9] / digest[7:] / "data"

    def hide_blobs(self, names):
        """Config and layers of these images are unavailable from now on; manifests are served."""
        for name in names:
            for digest in [image(name)["config"], *image(name)["layers"]]:
                path = self.blob_path(digest)
                if path.exists():
                    path.rename(path.with_name("hidden"))

    def show_blobs(self):
        for path in self.storage.glob("docker/registry/v2/blobs/sha256/*/*/hidden"):
            path.rename(path.with_name("data"))
