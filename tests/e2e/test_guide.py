"""docs/switch-over.md: its commands, as they are written and in their order, on a node of its own."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import E2E, Process, Registry, image, main, say, snapshotter, wait_for  # noqa: E402
from harness.registry import digests  # noqa: E402

TOP = pathlib.Path(__file__).resolve().parents[2]
NS = "k8s.io"
# As Debian's package has it, but for what this machine may lack.
CONFIG = """\
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[plugins]
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"""


def blocks():
    """(there or back, "sh" or "sh kubectl", its lines) of each fenced block."""
    part = None
    for heading, info, text in re.findall(r"^## (.*)$|^```(\S.*)\n((?:.*\n)*?)```$",
                                          (TOP / "docs/switch-over.md").read_text(), re.M):
        part = heading or part
        if info:
            yield part, info, text


class Guide(E2E):
    def setUp(self):
        super().setUp()
        self.units = self.folder / "units"
        self.bin = self.folder / "bin"
        for folder in (self.units, self.bin):
            folder.mkdir()
        for name in ("systemctl", "sudo"):
            (self.bin / name).symlink_to(TOP / "tests/e2e/harness/systemctl")
        self.env = {**os.environ, "PATH": f"{self.bin}:{os.environ['CAIRN_BUILD']}:{os.environ['PATH']}",
                    "UNITS": str(self.units), "CONTAINERD_SNAPSHOTTER": snapshotter()}
        Process.logs += [self.units / "cairnd.log", self.units / "containerd.log"]
        self.private_folders()
        self.stack.callback(self.end)

    def private_folders(self):
        """/etc and /var/lib of our own: the commands name files there. Our mount namespace is ours alone."""
        self.assertNotEqual(os.readlink("/proc/self/ns/mnt"), os.readlink("/proc/1/ns/mnt"), "not in tools/test?")
        shutil.copytree("/etc", self.folder / "etc", symlinks=True, ignore=shutil.ignore_patterns("cairn", "systemd"))
        (self.folder / "lib/containerd").mkdir(parents=True)
        for source, target in (("etc", "/etc"), ("lib", "/var/lib")):
            subprocess.run(["mount", "--bind", self.folder / source, target], check=True)
            self.stack.callback(subprocess.run, ["umount", "-l", target], check=True)
        pathlib.Path("/etc/containerd").mkdir(exist_ok=True)
        pathlib.Path("/etc/containerd/config.toml").write_text(CONFIG)

    def end(self):
        """Whatever the commands started."""
        for path in self.units.glob("*.pid"):
            pid = int(path.read_text())
            try:
                os.kill(pid, signal.SIGKILL)
                wait_for(f"{path.name} to end", lambda p=pid: not pathlib.Path(f"/proc/{p}").exists())
            except ProcessLookupError:
                pass

    def sh(self, script):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=self.env, cwd=self.folder, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                              check=False)
        self.assertEqual(done.returncode, 0, f"{script}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def whole(self, name):
        """Run it: the version and all checksums are right. No registry is there to ask."""
        ref, once = self.registry.ref(name), f"once-{os.urandom(4).hex()}"
        group = f"/{pathlib.Path(os.environ['CAIRN_RUN']).name}/{once}"
        self.sh(f"ctr -n {NS} images export --platform linux/amd64 image.tar {ref}; rm image.tar")
        out = self.sh(f"ctr -n {NS} run --rm --cgroup {group} {ref} {once} /bin/sh -c "
                      "'cat /etc/version && sha256sum -c /sums/* >/dev/null && echo whole'")
        self.assertEqual(out.split(), [image(name)["version"], "whole"])

    def follow(self, part):
        """Run that part of the guide. Returns all it printed."""
        out = []
        for where, info, text in blocks():
            if where != part:
                continue
            if info == "sh kubectl":  # there is no Kubernetes here: are they commands at all, and of one node?
                subprocess.run(["bash", "-n", "-c", text], check=True)
                for line in text.splitlines():
                    self.assertRegex(line, r'^kubectl (drain|uncordon|wait) .*"(node/)?\$NODE"')
                continue
            self.assertEqual(info, "sh")
            say("run", text)
            out.append(self.sh(text))
        return "\n".join(out)

    def check(self, out, plugin, names):
        """What the guide says that one must see."""
        lines = re.findall(r"^io\.containerd\.content\.v1 .*$", out, re.M)
        self.assertEqual(len(lines), 1, out)
        self.assertRegex(lines[0], rf"\s{plugin}\s.*\sok\s*$")
        for name in names:
            self.assertRegex(out, rf"(?m)^{re.escape(self.registry.ref(name))} .*\scomplete \(\d+/\d+\)")
        self.assertIn("all are there", out)
        self.assertNotIn("incomplete", out)

    def test_there_and_back(self):
        self.registry = self.enter(Registry(self.folder))
        pull = f"ctr -n {NS} images pull --plain-http "
        self.sh("systemctl start containerd; " + pull + self.registry.ref("demo/mid:v1"))

        say("there")
        out = self.follow("There")
        self.check(out, "cairn", ["demo/mid:v1"])
        self.assertRegex(out, r"(?m)^summary\tcontainerd answered\s+yes")  # on a terminal: ... in full
        self.assertRegex(out, r"(?m)^of these missing\t0$")
        self.registry.requests()
        old = pathlib.Path("/var/lib/containerd/io.containerd.content.v1.content")
        old.rename(old.with_name("away"))  # it must not be needed
        self.whole("demo/mid:v1")
        self.sh(pull + self.registry.ref("demo/small:v1"))
        self.whole("demo/small:v1")
        self.assertLessEqual({r.name for r in self.registry.blob_gets()},
                             digests("demo/small:v1") - digests("demo/mid:v1"))
        old.with_name("away").rename(old)

        say("and back")
        self.registry.requests()
        out = self.follow("And back")
        names = ["demo/mid:v1", "demo/small:v1"]
        self.check(out, "content", names)
        self.assertFalse(list(self.units.glob("cairnd.pid")))
        self.assertFalse(pathlib.Path("/var/lib/cairn").exists())
        self.assertEqual(pathlib.Path("/etc/containerd/config.toml").read_text(), CONFIG)
        for name in names:
            self.whole(name)
        self.assertEqual(self.registry.blob_gets(), [])
        self.sh("systemctl stop containerd")


if __name__ == "__main__":
    main()
