"""Other ways to use images than pulling them: each does with cairnd what it does with containerd's own store."""
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import E2E, World, digests, image, main, say, snapshotter, wait_for  # noqa: E402


def tar_blobs(path):
    """digest -> True if the bytes in the archive are what its name says."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith("blobs/sha256/"):
                data = archive.extractfile(member).read()
                name = member.name.rsplit("/", 1)[1]
                found["sha256:" + name] = hashlib.sha256(data).hexdigest() == name
    return found


class Clients(E2E):
    def both(self, scenario):
        """Run the scenario in a world with cairnd and in one with containerd's own store; it returns what a user
        sees, and that must be the same."""
        seen = []
        for builtin in (False, True):
            say("with containerd's own store" if builtin else "with cairnd")
            with World(self.folder / ("builtin" if builtin else "cairn"), builtin=builtin) as w:
                seen.append(scenario(w))
                if w.cairnd:
                    with w.cairnd.client() as client:
                        # containerd's GC may run meanwhile: what it records before and after, it does so all along.
                        before, listed = w.containerd.recorded(), client.listed()
                        self.assertLessEqual(before & w.containerd.recorded(), listed)
                        self.assertEqual(client.statuses(), [])
        self.assertEqual(seen[0], seen[1])

    def test_import(self):
        """ctr images import of an archive that skopeo made."""
        archive = self.folder / "image.tar"

        def scenario(w):
            archive.unlink(missing_ok=True)
            subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false",
                            f"docker://{w.registry.ref('demo/small:v1')}", f"oci-archive:{archive}:imported:v1"],
                           check=True, stdin=subprocess.DEVNULL)
            w.containerd.ctr("images", "import", "--base-name", "imported", archive)
            names = w.containerd.images()
            ref = next(name for name in names if "v1" in name)
            w.containerd.whole(ref, "v1")
            # The archive's own index is recorded too, until a GC finds that nothing needs it.
            self.assertLessEqual(digests("demo/small:v1"), w.containerd.recorded())
            return names
        self.both(scenario)

    def test_import_of_what_is_cached(self):
        """An import writes plain ingests even if the blobs are in the cache already."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/small:v1")
        archive = self.folder / "image.tar"
        w.containerd.pull(ref)
        w.containerd.ctr("images", "export", archive, ref)
        w.containerd.remove(ref)
        with w.cairnd.client() as client:
            self.assertEqual(client.listed(), set())
            w.containerd.ctr("images", "import", archive)
            self.assertLessEqual(digests("demo/small:v1"), client.listed())
        w.containerd.whole(ref, "v1")

    def test_export(self):
        """ctr images export writes every blob of the image, whole."""
        def scenario(w):
            ref = w.registry.ref("demo/app:v1")
            w.containerd.pull(ref)
            w.containerd.ctr("images", "export", self.folder / "out.tar", ref)
            blobs = tar_blobs(self.folder / "out.tar")
            self.assertTrue(all(blobs.values()))
            self.assertLessEqual(digests("demo/app:v1"), set(blobs))
            return set(blobs)
        self.both(scenario)

    def test_push(self):
        """ctr images push to a registry that does not have the image yet."""
        def scenario(w):
            w.containerd.pull(w.registry.ref("demo/small:v1"))
            pushed = w.registry.ref("pushed/small:v9")
            w.containerd.ctr("images", "tag", w.registry.ref("demo/small:v1"), pushed)
            w.containerd.ctr("images", "push", "--plain-http", pushed)
            out = subprocess.run(["skopeo", "inspect", "--tls-verify=false", f"docker://{pushed}"], check=True,
                                 stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout
            answer = json.loads(out)
            self.assertEqual(answer["Digest"], image("demo/small:v1")["target"]["digest"])
            say("and back")
            w.containerd.remove(pushed, w.registry.ref("demo/small:v1"))
            w.containerd.pull(pushed)
            w.containerd.whole(pushed, "v1")
            return answer["Layers"]
        self.both(scenario)

    def test_tag(self):
        """A second name keeps the image when the first goes."""
        def scenario(w):
            ref = w.registry.ref("demo/small:v1")
            w.containerd.pull(ref)
            w.containerd.ctr("images", "tag", ref, "example.com/other:name")
            w.containerd.remove(ref)
            w.containerd.whole("example.com/other:name", "v1")
            left = w.containerd.recorded()
            w.containerd.remove("example.com/other:name")
            return left, w.containerd.recorded()
        self.both(scenario)

    def test_commit_of_a_running_container(self):
        """The changes of a running container become a layer. ctr 1.6 has no commit; this is the half of it that
        writes content: the diff service compresses the changes into an ingest with a ref of its own, no total."""
        def scenario(w):
            ref = w.registry.ref("demo/small:v1")
            w.containerd.pull(ref)
            w.containerd.start_container(ref, "work")
            w.containerd.exec("work", "echo changed >/etc/version; echo new >/added")
            before = w.containerd.recorded()
            layer = w.containerd.ctr_bytes("snapshots", "--snapshotter", snapshotter(), "diff", "--keep", "--ref",
                                           "a/ref of mine", "work")
            made = w.containerd.recorded() - before
            self.assertEqual(made, {"sha256:" + hashlib.sha256(layer).hexdigest()})
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                names = sorted(member.name for member in archive)
                self.assertEqual(archive.extractfile("etc/version").read(), b"changed\n")
            say("it runs on")
            self.assertEqual(w.containerd.exec("work", "cat /added"), "new\n")
            return names
        self.both(scenario)

    def test_ingest(self):
        """ctr content ingest with all sorts of refs, no total, wrong and right expectations."""
        data = bytes(range(256)) * 9000
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        other = image("demo/small:v1")["layers"][1]

        def scenario(w):
            # Nothing keeps what is ingested so but that no GC runs after the one at the start.
            wait_for("the first GC", lambda: "garbage collected" in w.containerd.process.log_text())
            seen = []
            refs = ["plain", "with/slashes/../and dots", "ünïcode and spaces", "layer-" + other, "x" * 200,
                    "unknown-not-a-digest", "layer-sha256:beef"]
            for number, ref in enumerate(refs):
                piece = data + bytes([number])
                done = w.containerd.ctr("content", "ingest", ref, stdin=piece, check=False)
                seen.append((ref, done.returncode))
                got = "sha256:" + hashlib.sha256(piece).hexdigest()
                back = w.containerd.ctr_bytes("content", "get", got)
                self.assertEqual(back, piece)
            for args in (["--expected-size", "5"], ["--expected-digest", other], ["--expected-size", len(data)],
                         ["--expected-digest", digest]):
                done = w.containerd.ctr("content", "ingest", *args, "checked", stdin=data, check=False)
                seen.append((args, done.returncode))
            w.containerd.ctr("content", "rm", digest)
            self.assertNotIn(digest, w.containerd.recorded())
            return seen
        self.both(scenario)

    def test_convert_uncompress(self):
        """ctr images convert --uncompress: its refs contain the digest of other content than they write."""
        def scenario(w):
            ref, plain = w.registry.ref("demo/small:v1"), "example.com/plain:v1"
            w.containerd.pull(ref)
            w.containerd.ctr("images", "convert", "--uncompress", "--oci", ref, plain)
            w.containerd.whole(plain, "v1")
            recorded = w.containerd.recorded()
            say("remove both, and do it all again from the cache")
            w.containerd.remove(plain, ref)
            self.assertEqual(w.containerd.recorded(), set())
            w.containerd.pull(ref)
            w.containerd.ctr("images", "convert", "--uncompress", "--oci", ref, plain)
            w.containerd.whole(plain, "v1")
            self.assertEqual(w.containerd.recorded(), recorded)
            return recorded
        self.both(scenario)


if __name__ == "__main__":
    main()
