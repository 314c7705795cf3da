"""A node that has images already switches to cairn, and back, and loses nothing."""
import hashlib
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Cairnctl, Cairnd, Containerd, E2E, Registry, image, main, say  # noqa: E402
from harness.registry import digests  # noqa: E402


def tree(folder):
    """Every file below: its mode, owner, times and content."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        st = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (st.st_mode, st.st_uid, st.st_size, st.st_mtime_ns, content)
    return found


class Switch(E2E):
    def start(self, state=None):
        """A registry, containerd with its own store, and a cairnd that is not used yet."""
        self.registry = self.enter(Registry(self.folder))
        self.containerd = self.enter(Containerd(self.folder, hosts=[self.registry.host]))
        self.cairnd = self.enter(Cairnd(self.folder, self.containerd.socket, state=state))
        self.cairnctl = Cairnctl(self.cairnd.socket, self.folder)

    def switch(self, store):
        self.containerd.store = store
        self.containerd.configure()
        self.containerd.start()

    def read_and_run(self, names):
        """Every byte of these images is read from the store, and containers of them see it all."""
        for name, ns in names:
            ref = self.registry.ref(name)
            say("read and run", name, ns)
            target = self.folder / "image.tar"
            self.containerd.ctr("images", "export", "--platform", "linux/amd64", target, ref, ns=ns)
            target.unlink()
            self.containerd.whole(ref, image(name)["version"], ns=ns)

    def transfer(self, *args, status=0):
        """Its last object, and the others."""
        lines = self.cairnctl.json(*args, status=status)
        self.assertEqual(lines[-1]["type"], "done")
        return lines[-1], lines[:-1]

    def there_and_back(self, by):
        old = [("demo/app:v1", "default"), ("demo/small:v1", "default"), ("demo/small:v1", "other")]
        for name, ns in old:
            self.containerd.pull(self.registry.ref(name), ns=ns)
        content = self.containerd.content

        say("import while containerd runs")
        first, _ = self.transfer("import", content)
        blobs = digests("demo/app:v1") | digests("demo/small:v1")
        self.assertEqual(first[by], len(blobs))
        self.assertEqual(first["blobs_done"], len(blobs))
        self.assertTrue(first["records_known"])
        self.assertTrue(first["containerd_running"])
        self.containerd.pull(self.registry.ref("demo/mid:v1"))
        old.append(("demo/mid:v1", "default"))

        say("the final pass")
        self.containerd.stop()
        before = tree(content)
        last, _ = self.transfer("import", content)
        self.assertEqual(last["present"], len(blobs))
        self.assertEqual(last[by], len(digests("demo/mid:v1") - blobs))
        self.assertFalse(last["containerd_running"])
        self.assertEqual(last["absent"], 0)
        # app, small twice (one layer is app's, too) and mid
        self.assertEqual(last["recorded"], len(blobs | digests("demo/mid:v1")) + len(digests("demo/small:v1")))
        self.assertEqual(tree(content), before, "the source was changed")
        self.assertIn("all are there", self.cairnctl.ok("import", content))

        say("on cairnd")
        self.registry.requests()
        self.switch(self.cairnd.socket)
        content.rename(content.with_name("away"))  # it must not be needed
        self.read_and_run(old)
        self.assertEqual(self.registry.blob_gets(), [])
        self.containerd.pull(self.registry.ref("demo/small:v2"))
        self.containerd.whole(self.registry.ref("demo/small:v2"), "v2")
        content.with_name("away").rename(content)

        say("back")
        self.containerd.stop()
        back, _ = self.transfer("export", content)
        self.assertEqual(back["absent"], 0)
        self.assertFalse(back["containerd_running"])
        self.assertEqual(back[by], len(digests("demo/small:v2") - blobs))
        self.cairnd.stop()
        self.registry.requests()
        self.switch(None)
        self.read_and_run([*old, ("demo/small:v2", "default")])
        self.assertEqual(self.registry.blob_gets(), [])
        self.containerd.pull(self.registry.ref("demo/app:v2"))
        self.containerd.whole(self.registry.ref("demo/app:v2"), "v2")

    def test_there_and_back_by_links(self):
        """On one file system: hard links, which take no space."""
        self.start()
        self.there_and_back("linked")

    def test_there_and_back_by_copies(self):
        """Between file systems."""
        mount = self.folder / "tmpfs"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g,mode=0700", "tmpfs", mount], check=True)
        self.stack.callback(subprocess.run, ["umount", "-l", mount], check=False)
        self.start(state=mount / "state")
        self.there_and_back("copied")

    def test_export_to_an_empty_folder(self):
        """All that a node pulled through cairn, given to containerd's own store."""
        self.start()
        self.containerd.stop()
        self.switch(self.cairnd.socket)
        names = [("demo/multi:v1", "default"), ("demo/small:v2", "default")]
        for name, ns in names:
            self.containerd.pull(self.registry.ref(name), ns=ns)
        self.containerd.stop()
        content = self.containerd.content
        for path in sorted(content.rglob("*"), reverse=True):
            path.rmdir()
        content.rmdir()
        text = self.cairnctl.ok("export", content)
        self.assertIn("all are there", text)
        for folder in (content, content / "ingest", content / "blobs", content / "blobs/sha256"):
            self.assertEqual(folder.stat().st_mode & 0o7777, 0o755)
        for path in (content / "blobs/sha256").iterdir():
            self.assertEqual(path.stat().st_mode & 0o7777, 0o444)
        self.cairnd.stop()
        self.registry.requests()
        self.switch(None)
        self.read_and_run(names)
        self.assertEqual(self.registry.blob_gets(), [])

    def test_what_is_missing_is_named_and_can_be_healed(self):
        """A blob that the source lost, and one that rotted there: told, and the advice helps."""
        self.start()
        ref = self.registry.ref("demo/app:v1")
        for ns in ("default", "other"):
            self.containerd.pull(ref, ns=ns)
        self.containerd.stop()
        lost, rotten = image("demo/app:v1")["layers"][2:]
        blobs = self.containerd.content / "blobs/sha256"
        (blobs / lost[7:]).unlink()
        os.chmod(blobs / rotten[7:], 0o644)
        with open(blobs / rotten[7:], "r+b") as file:
            file.seek(1000)
            byte = file.read(1)
            file.seek(1000)
            file.write(bytes([byte[0] ^ 1]))
        os.chmod(blobs / rotten[7:], 0o444)

        say("import says so")
        done, others = self.transfer("import", self.containerd.content, status=1)
        failed = [line for line in others if line["type"] == "failure"]
        absent = [(line["namespace"], line["digest"]) for line in others if line["type"] == "absent"]
        self.assertEqual([line["digest"] for line in failed], [rotten])
        self.assertEqual(sorted(absent), sorted((ns, d) for ns in ("default", "other") for d in (lost, rotten)))
        self.assertEqual(done["absent"], 4)
        text = self.cairnctl.expect(1, "import", self.containerd.content).stdout
        self.assertIn(f"absent\tdefault\t{lost}\n", text)
        self.assertIn("content rm", text)

        say("switch all the same, and do what it said")
        self.registry.requests()
        self.switch(self.cairnd.socket)
        for ns, digest in absent:
            self.containerd.ctr("content", "rm", digest, ns=ns)
        for ns in ("default", "other"):
            self.containerd.pull(ref, ns=ns)
        self.assertEqual({r.name for r in self.registry.blob_gets()}, {lost, rotten})
        self.read_and_run([("demo/app:v1", "default"), ("demo/app:v1", "other")])
        done, _ = self.transfer("import", self.containerd.content)  # what is here and whole is not taken again
        self.assertEqual(done["absent"], 0)

    def test_import_goes_on_where_it_was_killed(self):
        """cairnd is killed in the middle of an import: the next one completes it."""
        self.start()
        self.containerd.pull(self.registry.ref("demo/app:v1"))
        self.containerd.stop()
        process = subprocess.Popen(self.cairnctl.argv("import", self.containerd.content),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.cairnd.kill()
        self.assertEqual(process.wait(30), 1)
        self.cairnd.start()
        done, _ = self.transfer("import", self.containerd.content)
        self.assertEqual(done["absent"], 0)
        self.switch(self.cairnd.socket)
        self.read_and_run([("demo/app:v1", "default")])


if __name__ == "__main__":
    main()
