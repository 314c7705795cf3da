"""The Debian package, in a tree of Debian 12 with nothing but what it depends on (tools/lib/debian-tree)."""
import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import E2E, Process, main, say, wait_for  # noqa: E402

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = TOP / "build/release"
EXPOSURE = 2.5  # of 10: what systemd thinks an attacker could do who is in cairnd
CONTENT = "/var/lib/containerd/io.containerd.content.v1.content"
# What Debian's tools keep of a package that is removed, and their own books.
BOOKS = re.compile(r"var/(lib/(dpkg|systemd)|log/(dpkg|alternatives)|cache/(debconf|ldconfig))"
                   r"|etc/systemd|etc/ld\.so\.cache|proc/|dev/|tmp/")


def run(*argv, status=0, **options):
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300, check=False, **options)
    if done.returncode != status:
        raise AssertionError(f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


class Unit(unittest.TestCase):
    """deploy/cairnd.service.in, by systemd's own tools; systemd need not run."""

    def setUp(self):
        self.unit = pathlib.Path(os.environ["CAIRN_TEST_DIR"], "cairnd.service")
        # What it starts must exist for systemd to be content.
        self.unit.write_text((TOP / "deploy/cairnd.service.in").read_text().replace("@SBINDIR@/cairnd", "/bin/true"))

    def test_is_valid(self):
        self.assertEqual(run("systemd-analyze", "verify", "--man=no", self.unit), "")

    def test_is_confined(self):
        """The figure is the one that docs/operations.md tells."""
        said = run("systemd-analyze", "security", "--offline=yes", "--no-pager", self.unit)
        figure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1])
        self.assertLessEqual(figure, EXPOSURE)
        self.assertIn(f"exposure level for cairnd.service: {figure}", (TOP / "docs/operations.md").read_text())

    def test_calls_beyond_those_of_ordinary_services(self):
        """cache/window.c asks what is in the page cache; @system-service has no such call (strace found no other)."""
        self.assertRegex(self.unit.read_text(), r"(?m)^SystemCallFilter=.*\bmincore\b")

    def test_other_files(self):
        (self.unit.parent / "etc").mkdir()
        for name in ("passwd", "group"):
            (self.unit.parent / "etc" / name).write_text(pathlib.Path("/etc", name).read_text())
        run("systemd-tmpfiles", "--create", "--root", self.unit.parent, TOP / "deploy/cairn.tmpfiles")
        self.assertEqual((self.unit.parent / "run/cairn").stat().st_mode & 0o777, 0o700)
        config = self.unit.parent / "logrotate"
        config.write_text((TOP / "deploy/cairn.logrotate").read_text())
        config.chmod(0o644)
        self.assertNotIn("error", run("logrotate", "--debug", "--state", self.unit.parent / "state", config).lower())


class Defaults(unittest.TestCase):
    """/etc/cairn/cairn.yaml of the package."""

    def test_every_key_with_its_default_in_a_comment(self):
        text = (TOP / "deploy/cairn.yaml").read_text()
        self.assertNotRegex(text, r"(?m)^[^#\n]")
        path = pathlib.Path(os.environ["CAIRN_TEST_DIR"], "cairn.yaml")
        path.write_text(re.sub(r"(?m)^#(?=[a-z]|  )", "", text))
        said = run(pathlib.Path(os.environ["CAIRN_BUILD"], "cairnd"), "--check-config", "--config", path)
        self.assertEqual(said, f"{path}: valid\n")
        found, parents = set(), []
        for indent, key, value in re.findall(r"(?m)^( *)([a-z0-9_]+):(.*)$", path.read_text()):
            parents = parents[:len(indent) // 2] + [key]
            if value:
                found.add(".".join(parents))
        keys = set(re.findall(r'^\t\{"([a-z0-9_.]+)", TYPE_', (TOP / "config/config.c").read_text(), re.M))
        self.assertEqual(found, keys)


class Package(E2E):
    """One life: built, installed, used, changed, removed, purged."""

    def build(self):
        say("build the package")
        if not (BUILD / "build.ninja").exists():
            run("cmake", "--preset", "release", cwd=TOP)
        run("cmake", "--build", "--preset", "release", "--target", "package", cwd=TOP)
        version = re.search(r"project\(cairn VERSION ([\d.]+)", (TOP / "CMakeLists.txt").read_text())[1]
        arch = run("dpkg", "--print-architecture").strip()
        return BUILD / f"cairn_{version}-1_{arch}.deb"

    def unpack(self):
        say("a tree of Debian 12")
        tar = os.environ.get("CAIRN_DEBIAN_TREE")
        self.assertTrue(tar, "tools/test sets CAIRN_DEBIAN_TREE to what tools/lib/debian-tree prints")
        self.tree = self.folder / "debian"
        self.tree.mkdir()
        run("tar", "-C", self.tree, "-xf", tar)
        run("mount", "-t", "proc", "proc", self.tree / "proc")
        self.stack.callback(run, "umount", "-l", self.tree / "proc")

    def inside(self, *argv, **options):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        return run("chroot", self.tree, *argv, env=env, **options)

    def files(self):
        found = set()
        for folder, folders, files in os.walk(self.tree):
            relative = pathlib.Path(folder).relative_to(self.tree)
            if str(relative) in ("proc", "dev", "tmp"):
                folders.clear()
                continue
            found |= {str(relative / name) for name in files + folders}
        return {name for name in found if not BOOKS.match(name)}

    def ini(self, key):
        """Every value of it in the installed unit."""
        return re.findall(rf"(?m)^{key}=(.*)$", (self.tree / "lib/systemd/system/cairnd.service").read_text())

    def service(self):
        """What the unit says, as its user, and with no more capabilities than it leaves."""
        capabilities = [c.removeprefix("CAP_").lower() for c in self.ini("CapabilityBoundingSet")[0].split()]
        self.assertEqual(self.ini("NoNewPrivileges"), ["yes"])
        bounding = ",".join(["-all"] + [f"+{c}" for c in capabilities])
        argv = ["chroot", self.tree, "setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={bounding}",
                "/bin/sh", "-c", f"umask {self.ini('UMask')[0]}; exec {self.ini('ExecStart')[0]}"]
        process = Process("cairnd", argv, self.folder / "log", {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}).start()
        self.stack.callback(process.kill)

        def answers():
            self.assertTrue(process.alive(), process.log_text())
            with contextlib.suppress(AssertionError):
                return json.loads(self.inside("cairnctl", "--json", "status"))
            return None
        return process, wait_for("cairnctl status", answers)

    def use(self):
        say("the daemon runs, and adopts what containerd has")
        blob = os.urandom(1 << 20)
        digest = hashlib.sha256(blob).hexdigest()
        path = self.tree / CONTENT[1:] / "blobs/sha256" / digest
        path.parent.mkdir(parents=True)
        path.write_bytes(blob)
        self.inside("cairnd", "--check-config", "--config", "/etc/cairn/cairn.yaml")
        process, status = self.service()
        self.assertEqual(status["listen"], "/run/cairn/cairn.sock")
        self.inside("cairnctl", "import", CONTENT)
        held = self.tree / "var/lib/cairn/blobs/sha256" / digest
        self.assertEqual(held.stat().st_ino, path.stat().st_ino, "a hard link")
        say("it is configured")
        config = self.tree / "etc/cairn/cairn.yaml"
        log = "gc: {log: /var/log/cairn/gc.log, keep_versions: 7}\n"
        (self.tree / "var/log/cairn").mkdir(parents=True, exist_ok=True)
        config.write_text(config.read_text() + log)
        process.signal(signal.SIGHUP)
        wait_for("the reload", lambda: "applied=2 needs_restart=0" in process.log_text())
        self.assertTrue((self.tree / "var/log/cairn/gc.log").exists())
        say("a new version keeps what the admin wrote")
        self.inside("dpkg", "--install", "/tmp/cairn.deb")
        self.assertIn(log, config.read_text())
        self.assertEqual(process.stop(), 0)
        return held

    def test_life(self):
        deb = self.build()
        lintian = run("lintian", "--allow-root", "--fail-on", "error", deb)
        self.assertNotRegex(lintian, r"(?m)^E:")
        self.unpack()
        before = self.files()
        run("cp", deb, self.tree / "tmp/cairn.deb")
        say("install")
        self.inside("dpkg", "--install", "/tmp/cairn.deb")
        self.assertEqual(self.inside("dpkg", "--audit"), "")
        wants = self.tree / "etc/systemd/system/multi-user.target.wants/cairnd.service"
        self.assertTrue(wants.is_symlink(), "enabled at boot")
        for tool in ("cairnd", "cairnctl"):
            self.assertIn(deb.name.split("_")[1].split("-")[0], self.inside(tool, "--version"))
            page = next(self.tree.glob(f"usr/share/man/man*/{tool}.*.gz"))
            self.assertIn(b".Sh NAME", subprocess.check_output(["zcat", page]))
        held = self.use()

        say("remove")
        self.inside("dpkg", "--remove", "cairn")
        left = {name for name in self.files() - before
                if not name.startswith(("var/lib/cairn", "var/lib/containerd", "var/log/cairn"))}
        self.assertEqual(left, {"etc/cairn", "etc/cairn/cairn.yaml", "etc/logrotate.d/cairn"} |
                         ({"etc/logrotate.d"} - before))
        self.assertTrue(held.exists())
        say("purge")
        said = self.inside("dpkg", "--purge", "cairn")
        self.assertIn("/var/lib/cairn stays", said)
        left = self.files() - before - {"etc/logrotate.d"}
        self.assertEqual({name for name in left if not name.startswith(("var/lib/cairn", "var/lib/containerd"))}, set())
        self.assertFalse(wants.is_symlink())
        self.assertTrue(held.exists(), "containerd may have no other copy")


if __name__ == "__main__":
    main()
