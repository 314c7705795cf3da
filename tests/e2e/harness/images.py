"""Make the images that the end-to-end tests pull: deterministic, and made once a run.

    blobs/<hex>      every blob
    oci/             an OCI layout with every image
    registry/        storage of docker-registry with every image; tests work on hard-linked copies
    images.json      name:tag -> {target, manifests, config, layers, version}

    demo/app:v1 v2 live   busybox (gzip), 100 MiB (gzip, shared by v1 and v2), 20 MiB (zstd), 1 MiB (plain tar)
    demo/small:v1 v2 live busybox (gzip), 1 MiB (gzip)
    demo/mid:v1           busybox (gzip), 20 MiB (gzip)
    demo/wide:v1          busybox (gzip), 6 x 3 MiB (gzip)
    demo/wide:half        busybox (gzip), the first 3 of these
    demo/multi:v1         an index: linux/amd64 like small, linux/arm64
"""
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tarfile

MIB = 1 << 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def payload(seed, size):
    """Pseudo-random, but a third of it compresses well."""
    source = random.Random(seed)
    parts = []
    while size > 0:
        part = source.randbytes(4096) + source.randbytes(64) * 32
        parts.append(part[:size])
        size -= len(part)
    return b"".join(parts)


def tar(entries):
    """entries: path -> bytes, or path -> ("link", target)."""
    out = io.BytesIO()
    folders = {"."}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in entries.items():
            for parent in reversed(pathlib.PurePosixPath(path).parents):
                if str(parent) not in folders:
                    folders.add(str(parent))
                    info = tarfile.TarInfo(str(parent))
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(info)
            info = tarfile.TarInfo(path)
            info.mode = 0o755
            if isinstance(content, tuple):
                info.type, info.linkname = tarfile.SYMTYPE, content[1]
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def compress(data, how):
    if how == "gzip":
        return gzip.compress(data, compresslevel=1, mtime=0)
    if how == "zstd":
        return subprocess.run(["zstd", "-q", "-3", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


class Store:
    def __init__(self, root):
        self.root = root
        self.images = {}
        (root / "blobs").mkdir(parents=True)

    def blob(self, data, media_type):
        digest = sha256(data)
        path = self.root / "blobs" / digest.split(":")[1]
        if not path.exists():
            path.write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def json(self, value, media_type):
        return self.blob(json.dumps(value, indent=1, sort_keys=True).encode(), media_type)

    def layer(self, entries, how):
        raw = tar(entries)
        return self.blob(compress(raw, how), LAYER + SUFFIX[how]), sha256(raw)

    def base(self, version):
        """busybox, and the version that the tests look for."""
        entries = {"bin/busybox": pathlib.Path("/bin/busybox").read_bytes(),
                   "etc/version": (version + "\n").encode(), "tmp/.keep": b""}
        for applet in ("sh", "cat", "ls", "sleep", "sha256sum", "echo", "touch", "id", "wc"):
            entries["bin/" + applet] = ("link", "busybox")
        return self.layer(entries, "gzip")

    def data(self, name, size, files, how):
        """`files` files of `size` bytes in all, and their checksums in /sums/<name>."""
        entries, sums = {}, []
        for number in range(files):
            path = f"data/{name}/{number}"
            entries[path] = payload(f"{name}/{number}", size // files)
            sums.append(f"{sha256(entries[path])[7:]}  /{path}\n")
        entries[f"sums/{name}"] = "".join(sums).encode()
        return self.layer(entries, how)

    def manifest(self, layers, architecture="amd64"):
        config = self.json({
            "architecture": architecture, "os": "linux", "created": "2020-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in layers]},
        }, CONFIG)
        value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [l for l, _ in layers]}
        return self.json(value, MANIFEST), config

    def image(self, repository, tags, layers, version):
        manifest, config = self.manifest(layers)
        for tag in tags:
            self.images[f"{repository}:{tag}"] = {
                "target": manifest, "manifests": [manifest], "config": config["digest"],
                "layers": [l["digest"] for l, _ in layers], "version": version}

    def index(self, repository, tag, variants, version):
        manifests, used, first = [], [], None
        for architecture, layers in variants:
            manifest, config = self.manifest(layers, architecture)
            manifest["platform"] = {"os": "linux", "architecture": architecture}
            manifests.append(manifest)
            used.append([l["digest"] for l, _ in layers])
            first = first or config
        index = self.json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, INDEX)
        self.images[f"{repository}:{tag}"] = {
            "target": index, "manifests": manifests, "config": first["digest"], "layers": used[0],
            "version": version}


def write_oci(root, images):
    """An OCI layout; the blobs are hard links."""
    (root / "oci/blobs").mkdir(parents=True)
    shutil.copytree(root / "blobs", root / "oci/blobs/sha256", copy_function=os.link)
    (root / "oci/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    targets = [{**image["target"], "annotations": {"org.opencontainers.image.ref.name": name}}
               for name, image in images.items()]
    (root / "oci/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": targets}))


def write_registry(root, images):
    """docker-registry's storage layout, written straight to disk; the blobs are hard links."""
    top = root / "registry/docker/registry/v2"
    for blob in (root / "blobs").iterdir():
        folder = top / "blobs/sha256" / blob.name[:2] / blob.name
        folder.mkdir(parents=True)
        os.link(blob, folder / "data")

    def link(path, digest):
        path.mkdir(parents=True, exist_ok=True)
        (path / "link").write_text(digest)

    for name, image in images.items():
        repository, tag = name.rsplit(":", 1)
        base = top / "repositories" / repository
        for target in [image["target"], *image["manifests"]]:
            link(base / "_manifests/revisions/sha256" / target["digest"][7:], target["digest"])
            content = json.loads((root / "blobs" / target["digest"][7:]).read_text())
            for part in [content.get("config"), *content.get("layers", [])]:
                if part:
                    link(base / "_layers/sha256" / part["digest"][7:], part["digest"])
        digest = image["target"]["digest"]
        link(base / "_manifests/tags" / tag / "current", digest)
        link(base / "_manifests/tags" / tag / "index/sha256" / digest[7:], digest)


def make(root):
    store = Store(root)
    base1, base2 = store.base("v1"), store.base("v2")
    shared = store.data("shared", 100 * MIB, 20, "gzip")
    one = store.data("one", MIB, 8, "gzip")
    store.image("demo/app", ["v1", "live"], [
        base1, shared, store.data("twenty-1", 20 * MIB, 5, "zstd"), store.data("plain-1", MIB, 4, "none")], "v1")
    store.image("demo/app", ["v2"], [
        base2, shared, store.data("twenty-2", 20 * MIB, 5, "zstd"), store.data("plain-2", MIB, 4, "none")], "v2")
    store.image("demo/small", ["v1", "live"], [base1, one], "v1")
    store.image("demo/small", ["v2"], [base2, one], "v2")
    store.image("demo/mid", ["v1"], [base1, store.data("mid", 20 * MIB, 5, "gzip")], "v1")
    wide = [store.data(f"wide-{number}", 3 * MIB, 2, "gzip") for number in range(6)]
    store.image("demo/wide", ["v1"], [base1, *wide], "v1")
    store.image("demo/wide", ["half"], [base1, *wide[:3]], "v1")
    store.index("demo/multi", "v1", [
        ("amd64", [base1, store.data("amd", MIB, 1, "gzip")]),
        ("arm64", [base2, store.data("arm", MIB, 1, "gzip")])], "v1")
    write_oci(root, store.images)
    write_registry(root, store.images)
    (root / "images.json").write_text(json.dumps(store.images, indent=1))


def main():
    root = pathlib.Path(os.environ["CAIRN_IMAGES"])
    if (root / "images.json").exists():
        return
    building = root.with_name(root.name + ".making")
    shutil.rmtree(building, ignore_errors=True)
    make(building)
    building.rename(root)
    print(f"images made in {root}")


if __name__ == "__main__":
    sys.exit(main())
