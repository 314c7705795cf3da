"""What admins see: each verb of cairnctl on a terminal, in a pipe, and as JSON."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Cairnctl, Cairnd, Containerd, E2E, World, image, main, say, wait_for  # noqa: E402
from harness.registry import digests  # noqa: E402

TOP = pathlib.Path(__file__).resolve().parents[2]
VERBS = ["status", "ls", "explain", "versions", "preheat", "jobs", "cancel", "gc", "prune", "pin", "unpin", "verify",
         "peers", "import", "export", "containerd-config", "certs"]


def damage(path):
    """One bit, in the middle."""
    mode = path.stat().st_mode & 0o7777
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.chmod(path, mode)


class Documents(unittest.TestCase):
    """What is written is so."""

    def test_man_page_has_every_key_of_the_configuration(self):
        page = (TOP / "docs/man/cairn.yaml.5").read_text()
        effective, rest = page.split(".Sh KEYS WITHOUT EFFECT")
        rows = re.findall(r'^\t\{"([a-z0-9_.]+)", TYPE_(\w+), (?:"(.*?)"|NULL).*?AT\([\w.]+\),\s+(IDLE|RESTART|RELOAD)\}',
                          (TOP / "config/config.c").read_text(), re.M | re.S)
        self.assertGreater(len(rows), 40)
        for key, _, default, acts in rows:
            with self.subTest(key=key):
                part = rest if acts == "IDLE" else effective
                line = re.search(rf"(?m)^\.It Ic (.* )?{re.escape(key)}( ,.*)? : .*{re.escape(default)}.*$", part)
                self.assertIsNotNone(line)
                self.assertEqual(line.group().endswith(" Pq reload"), acts == "RELOAD", "marked as such")

    def test_documents_name_only_verbs_that_exist(self):
        for name in ("README.md", "docs/operations.md", "docs/preheat.md", "docs/swarm.md", "docs/certificates.md",
                     "docs/switch-over.md", "docs/man/cairnd.8", "docs/man/cairnctl.1", "docs/man/cairn.yaml.5"):
            text = (TOP / name).read_text()
            for verb in re.findall(r"(?:sudo |`|Dq )cairnctl (?:--json )?([a-z][a-z-]+)", text):
                self.assertIn(verb, VERBS, name)
            for tool in re.findall(r"\btools/([a-z-]+)", text):
                self.assertTrue((TOP / "tools" / tool).exists(), f"{name}: tools/{tool}")


class Completion(unittest.TestCase):
    """deploy/cairnctl.bash, in a real bash."""

    def complete(self, *words):
        """What the last of the words may become."""
        cairnctl = pathlib.Path(os.environ["CAIRN_BUILD"], "cairnctl")
        script = (f'source "{TOP}/deploy/cairnctl.bash"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _cairnctl; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", script, "bash", cairnctl, *words], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=True)
        self.assertEqual(done.stderr, "")
        return set(done.stdout.split())

    def test_every_verb_and_option(self):
        self.assertEqual(self.complete(""), set(VERBS))
        self.assertEqual(self.complete("--json", "--socket", "gc", "ver"), {"versions", "verify"})
        self.assertEqual(self.complete("-"), {"--socket", "--json", "--help", "--version", "--address", "--tls-cert",
                                               "--tls-key", "--tls-ca", "--tls-server-name"})
        offered = {verb: self.complete(verb, "-") for verb in VERBS}
        for verb, options in offered.items():
            with self.subTest(verb=verb):
                text = subprocess.run([pathlib.Path(os.environ["CAIRN_BUILD"], "cairnctl"), verb, "--help"],
                                      stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
                explained = set(re.findall(r"^  (--[a-z-]+)", text, re.M))
                self.assertLessEqual(explained | {"--socket", "--json", "--help"}, options)
        refused = {"--password", "--identity-token"}  # only known to say why not
        known = {f"--{name}" for path in (TOP / "cmd").glob("cairnctl*.c")
                 for name in re.findall(r'\{"([a-z-]+)", (?:no|required)_argument', path.read_text())}
        self.assertEqual(set().union(*offered.values()), known - refused - {"--version"})

    def test_values(self):
        self.assertEqual(self.complete("ls", "--state", ""), {"cached", "referenced"})
        self.assertEqual(self.complete("certs", ""), {"init", "issue"})
        self.assertEqual(self.complete("certs", "--dir", "init", "i"), {"init", "issue"})
        self.assertEqual(self.complete("preheat", "--file", f"{TOP}/READ"), {f"{TOP}/README.md"})
        self.assertEqual(self.complete("import", f"{TOP}/depl"), {f"{TOP}/deploy"})
        self.assertEqual(self.complete("preheat", "--keep-for", ""), set())
        self.assertEqual(self.complete("prune", "--nodes", ""), {"all"})


class Tools(E2E):
    def world(self, extra=""):
        w = self.enter(World(self.folder, extra=extra))
        self.cairnctl = Cairnctl(w.cairnd.socket, self.folder)
        return w

    def test_status(self):
        w = self.world()
        w.containerd.pull(w.registry.ref("demo/small:v1"))
        count = len(digests("demo/small:v1"))
        status = self.cairnctl.json("status")
        self.assertEqual(len(status), 1)
        self.assertEqual(status[0]["referenced"]["blobs"], count)
        self.assertEqual(status[0]["cached"], {"blobs": 0, "bytes": 0})
        self.assertEqual(status[0]["listen"], str(w.cairnd.socket))
        self.assertEqual(status[0]["state_dir"], str(w.cairnd.state))
        self.assertEqual(status[0]["containerd"]["address"], str(w.containerd.socket))
        fields = {line[0]: line[1:] for line in self.cairnctl.fields("status")}
        self.assertEqual(fields["referenced blobs"], [str(count), str(status[0]["referenced"]["bytes"])])
        self.assertEqual(fields["damaged blobs"], ["0"])
        code, text = self.cairnctl.terminal("status")
        self.assertEqual(code, 0)
        self.assertRegex(text, rf"(?m)^referenced blobs +{count}, [\d.]+ MiB$")
        self.assertRegex(text, r"(?m)^disk free +[\d.]+ [GT]iB$")

    def test_ls(self):
        w = self.world()
        refs = [w.registry.ref(name) for name in ("demo/small:v1", "demo/small:v2")]
        for ref in refs:
            w.containerd.pull(ref)
        w.containerd.remove(refs[1])
        used = digests("demo/small:v1")
        kept = digests("demo/small:v2") - used
        self.assertEqual({o["digest"] for o in self.cairnctl.json("ls")}, used | kept)
        self.assertEqual({f[0]: f[2] for f in self.cairnctl.fields("ls", "--state", "cached")},
                         {digest: "cached" for digest in kept})
        self.assertEqual({o["digest"] for o in self.cairnctl.json("ls", "--state", "referenced")}, used)
        self.assertEqual(self.cairnctl.ok("ls", "--damaged"), "")
        lines = self.cairnctl.fields("ls")
        self.assertEqual({len(f) for f in lines}, {10})  # new fields come after those that scripts cut
        sizes = {f[0]: int(f[1]) for f in lines}
        for digest in used | kept:
            self.assertEqual(sizes[digest], w.cairnd.blob_path(digest).stat().st_size)
        code, text = self.cairnctl.terminal("ls", "--state=referenced")
        self.assertEqual(code, 0)
        lines = text.splitlines()
        self.assertRegex(lines[0], r"^DIGEST +SIZE +STATE +IDLE +NAMESPACES +WHY$")
        self.assertEqual([line.split()[0] for line in lines[1:]], sorted(used))
        self.assertRegex(lines[1], r"^sha256:\w{64} +[\d.]+ (B|KiB|MiB)  referenced +(now|\d+ s) ")

    def test_ls_into_head(self):
        """A reader that has enough ends it without noise."""
        w = self.world()
        w.containerd.pull(w.registry.ref("demo/small:v1"))
        words = " ".join(map(str, self.cairnctl.argv("ls")))
        done = subprocess.run(["sh", "-c", f"{words} | head -n 1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=60, check=True)
        self.assertTrue(done.stdout.startswith("sha256:"))
        self.assertEqual(done.stderr, "")
        argv = [str(a) for a in self.cairnctl.argv("ls")]
        reader, writer = os.pipe()
        os.close(reader)  # gone before the first line
        verify = [str(a) for a in self.cairnctl.argv("--json", "verify")]
        for verb in (argv, verify):
            done = subprocess.run(verb, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            self.assertEqual((done.returncode, done.stderr), (1, ""))
        os.close(writer)
        with open("/dev/full", "w", encoding="utf-8") as full:
            for verb in (argv, argv[:1] + ["--help"]):
                done = subprocess.run(verb, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
                self.assertEqual((done.returncode, done.stderr), (1, "cairnctl: write: No space left on device\n"))

    def test_explain(self):
        w = self.world()
        ref = w.registry.ref("demo/small:v1")
        w.containerd.pull(ref)
        w.containerd.pull(ref, ns="other")
        layer = image("demo/small:v1")["layers"][1]
        one = self.cairnctl.json("explain", layer)[0]
        self.assertEqual(one["blob"]["state"], "referenced")
        self.assertEqual(sorted(one["recorded_in"]), ["default", "other"])
        self.assertTrue(one["recorded_known"])
        self.assertEqual(one["remedies"], [])
        reasons = [f[1] for f in self.cairnctl.fields("explain", layer) if f[0] == "reason"]
        self.assertTrue(any(re.fullmatch(r"containerd records it in namespace other, as part of an image from "
                                         r"\S+/demo/small", r) for r in reasons), reasons)
        code, text = self.cairnctl.terminal("explain", layer)
        self.assertEqual(code, 0)
        self.assertRegex(text, r"(?m)^state +referenced$")
        for ns in ("default", "other"):
            w.containerd.remove(ref, ns=ns)
        wait_for("the blob to be cached", lambda: self.cairnctl.json("explain", layer)[0]["blob"]["state"] == "cached")
        self.assertIn("cached: containerd has no record of it", self.cairnctl.ok("explain", layer))
        unknown = "sha256:" + "0" * 64
        error = self.cairnctl.expect(1, "explain", unknown).stderr
        self.assertIn(unknown, error)
        self.assertIn("not here, and containerd does not record it", error)
        self.assertIn("invalid digest", self.cairnctl.expect(1, "explain", "sha256:xyz").stderr)

    # ---- garbage collection: each verb on a terminal, in a pipe, as JSON ----

    GC = "gc: {interval: 1h, keep_storage: 0s, high_watermark: 100%, low_watermark: 100%, min_free: 0%}\n"
    WHEN = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"

    def two_versions(self, gc=GC):
        """demo/small:live was v1, is v2; all is here, and cairnd has seen both."""
        w = self.world(gc)
        ref = w.registry.ref("demo/small:live")
        for version in ("v1", "v2"):
            w.registry.retag("demo/small", "live", version)
            w.containerd.pull(ref)
            self.cairnctl.ok("gc", "--dry-run")
        old = digests("demo/small:v1") - digests("demo/small:v2")
        wait_for("containerd's GC", lambda: {f[0] for f in self.cairnctl.fields("ls", "--state", "cached")} == old)
        return w, ref, old

    def test_gc(self):
        w = self.world(self.GC.replace("keep_storage", "keep_versions: 0, keep_storage"))
        ref, blobs = w.registry.ref("demo/small:v1"), sorted(digests("demo/small:v1"))
        size = sum(os.stat(w.registry.blob_path(digest)).st_size for digest in blobs)
        w.containerd.pull(ref)
        layer = image("demo/small:v1")["layers"][0]
        self.cairnctl.ok("pin", layer)
        w.containerd.remove(ref)

        say("a dry run, on a terminal")
        code, text = self.cairnctl.terminal("gc", "--dry-run", "--all")
        self.assertEqual(code, 0)
        lines = text.splitlines()
        for digest in blobs:
            line = next(line for line in lines if digest in line)
            if digest == layer:
                self.assertRegex(line, rf"^would keep +{layer} +[\d.]+ [KM]iB  pin +{layer}$")
            else:
                self.assertRegex(line, rf"^would evict +{digest} +[\d.]+ (B|KiB|MiB)  ttl +unused for \d+ s$")
        size_of = r"[\d.]+ [KM]iB"
        self.assertRegex(text, rf"(?m)^would evict 3 blobs, {size_of}; would keep 1 blobs, {size_of}; took \d+ ms$")
        self.assertRegex(text, r"(?m)^  pin +1 blobs +[\d.]+ [KM]iB$")
        self.assertIn("\ncontainerd answered in full\n", text)
        self.assertNotIn(layer, self.cairnctl.terminal("gc", "--dry-run")[1])

        say("in a pipe")
        fields = self.cairnctl.fields("gc", "--dry-run", "--all")
        decisions = {f[1]: (f[0], f[3], f[4]) for f in fields if f[0] in ("evict", "keep")}
        self.assertEqual(decisions, {digest: ("keep", "pin", layer) if digest == layer else ("evict", "ttl", "-")
                                     for digest in blobs})
        self.assertEqual(sum(int(f[2]) for f in fields if f[0] in ("evict", "keep")), size)
        summary = {f[1]: f[2:] for f in fields if f[0] == "summary"}
        self.assertEqual([summary[name] for name in ("dry run", "containerd answered", "to free", "ingests dropped")],
                         [["yes"], ["yes", "-"], ["0", "-"], ["0"]])
        self.assertEqual((summary["evicted"][0], summary["kept"], summary["kept pin"]),
                         ("3", summary["kept pin"], ["1", str(w.cairnd.blob_path(layer).stat().st_size)]))
        self.assertRegex(summary["seconds"][0], r"^\d+\.\d{3}$")

        say("and really, as JSON")
        lines = self.cairnctl.json("gc", "--all")
        self.assertEqual({line["digest"] for line in lines[:-1]}, set(blobs))
        self.assertEqual({line["type"] for line in lines[:-1]}, {"decision"})
        last = lines[-1]
        self.assertEqual((last["type"], last["trigger"], last["dry_run"], last["sure"], last["unsure_why"]),
                         ("summary", "request", False, True, ""))
        self.assertEqual(last["evicted"]["bytes"] + last["kept"]["bytes"], size)
        self.assertEqual(last["kept"]["by_reason"]["pin"]["blobs"], 1)
        self.assertEqual([f[0] for f in self.cairnctl.fields("ls")], [layer])
        self.assertEqual(self.cairnctl.json("gc")[0]["evicted"], {"blobs": 0, "bytes": 0})
        status = self.cairnctl.json("status")[0]["gc"]
        self.assertEqual((status["evicted"]["blobs"], status["pins"], status["last"]["trigger"]), (3, 1, "request"))
        fields = {f[0]: f[1:] for f in self.cairnctl.fields("status")}
        self.assertEqual(fields["unrelieved"], ["no"])
        self.assertRegex("\t".join(fields["last gc"]), rf"^{self.WHEN}\trequest\t0\t0$")

    def test_versions(self):
        w, ref, _ = self.two_versions()
        new, old = (image(f"demo/small:{version}")["target"]["digest"] for version in ("v2", "v1"))
        code, text = self.cairnctl.terminal("versions")
        self.assertEqual(code, 0)
        lines = text.splitlines()
        self.assertRegex(lines[0], r"^  DIGEST +CURRENT +ROLL-BACK +KEPT +SIZE +FIRST SEEN +LAST SEEN$")
        self.assertEqual(lines[1], ref)
        self.assertRegex(lines[2], rf"^  {new}  current  ready +kept +[\d.]+ MiB +(now|\d+ s) +(now|\d+ s)$")
        self.assertRegex(lines[3], rf"^  {old}  - +ready +kept +[\d.]+ MiB +(now|\d+ s) +(now|\d+ s)$")
        self.assertEqual(len(lines), 4)
        fields = self.cairnctl.fields("versions", ref)
        self.assertEqual([f[:7] for f in fields], [[ref, new, "current", "complete", "0", "0", "kept"],
                                                   [ref, old, "-", "complete", "0", "0", "kept"]])
        self.assertEqual([f[7] for f in fields], ["4", "4"])
        self.assertRegex("\t".join(fields[0][9:]), rf"^{self.WHEN}\t{self.WHEN}$")
        self.assertEqual([(v["name"], v["digest"], v["current"], v["complete"], v["kept"], v["missing_blobs"])
                          for v in self.cairnctl.json("versions", ref)],
                         [(ref, new, True, True, True, 0), (ref, old, False, True, True, 0)])
        self.assertEqual(self.cairnctl.json("explain", ref)[0]["blob"]["digest"], new)
        self.assertEqual(self.cairnctl.json("explain", ref)[0]["name"], ref)
        say("a version of which a blob lacks")
        layer = image("demo/small:v1")["layers"][0]
        w.cairnd.blob_path(layer).unlink()
        self.cairnctl.expect(1, "verify", layer)
        lines = self.cairnctl.terminal("versions", ref)[1].splitlines()
        self.assertRegex(lines[3], r" lacks 1, [\d.]+ MiB ")
        self.assertEqual(self.cairnctl.fields("versions", ref)[1][3:5], ["incomplete", "1"])
        say("names")
        self.assertIn("no version of it is known", self.cairnctl.expect(1, "versions", "demo/none:v1").stderr)
        self.assertEqual(self.cairnctl.json("versions", "demo/none:v1", status=1), [])

    def test_prune(self):
        _, ref, old = self.two_versions()
        code, text = self.cairnctl.terminal("prune", ref, "--dry-run")
        self.assertEqual(code, 0)
        for digest in old:
            self.assertRegex(text, rf"(?m)^would evict +{digest} +[\d.]+ (B|KiB|MiB)  prune +{re.escape(ref)}$")
        self.assertRegex(text, r"(?m)^would evict 3 blobs, [\d.]+ MiB; would keep 4 blobs, ")
        self.assertEqual(len(self.cairnctl.json("versions", ref)), 2)
        self.assertEqual(self.cairnctl.json("prune", ref, "--keep", "2")[-1]["evicted"]["blobs"], 0)
        fields = self.cairnctl.fields("prune", ref, "--keep=1", "--dry-run")
        self.assertEqual({tuple(f[i] for i in (0, 1, 3, 4)) for f in fields if f[0] == "evict"},
                         {("evict", digest, "prune", ref) for digest in old})
        lines = self.cairnctl.json("prune", ref)
        self.assertEqual({line["digest"] for line in lines[:-1] if line["evict"]}, old)
        self.assertEqual((lines[-1]["evicted"]["blobs"], lines[-1]["versions_dropped"]), (3, 1))
        self.assertEqual(len(self.cairnctl.json("versions", ref)), 1)
        self.assertFalse(old & {f[0] for f in self.cairnctl.fields("ls")})
        for unknown in ("demo/none:v1", "busybox"):
            self.assertRegex(self.cairnctl.expect(1, "prune", unknown).stderr, r"no version of \S+ is known")

    def test_pin_and_unpin(self):
        _, ref, _ = self.two_versions()
        layer = image("demo/small:v1")["layers"][1]
        size = os.stat(self.folder / "cairnd/state/blobs/sha256" / layer[7:]).st_size
        code, text = self.cairnctl.terminal("pin", layer, "--for", "7d")
        self.assertEqual(code, 0)
        self.assertRegex(text, rf"^pinned {layer} for 7 d; here and kept by that now: 1 blobs, [\d.]+ [KM]iB\n$")
        self.assertEqual(self.cairnctl.fields("pin", layer, "--for=90s"), [[layer, "1", str(size), "90"]])
        done = self.cairnctl.json("pin", ref)[0]
        self.assertEqual((done["target"], done["blobs"], done["for_seconds"]), (ref, 4, 0))
        code, text = self.cairnctl.terminal("pin", ref)
        self.assertRegex(text, rf"^pinned {re.escape(ref)} until it is unpinned; here and kept by that now: 4 blobs, ")
        self.assertEqual(self.cairnctl.json("status")[0]["gc"]["pins"], 2)
        say("a name is told in full, and need not be known yet")
        self.assertEqual(self.cairnctl.fields("pin", "busybox")[0], ["docker.io/library/busybox:latest", "0", "0", "0"])
        self.assertEqual(self.cairnctl.json("status")[0]["gc"]["pins"], 3)
        say("and back")
        code, text = self.cairnctl.terminal("unpin", layer)
        self.assertEqual((code, text), (0, f"{layer} is pinned no longer\n"))
        self.assertEqual(self.cairnctl.fields("unpin", ref), [[ref]])
        self.assertTrue(self.cairnctl.json("unpin", "busybox")[0]["was_pinned"])
        self.assertEqual(self.cairnctl.json("status")[0]["gc"]["pins"], 0)
        for target in (layer, ref, "busybox"):
            self.assertIn(f"{target} is not pinned", self.cairnctl.expect(1, "unpin", target).stderr)
        self.assertEqual(self.cairnctl.json("unpin", layer, status=1), [{"target": layer, "was_pinned": False}])

    def test_names_that_are_none(self):
        """What is no image name and no digest is refused, and said so, by every verb that takes one."""
        self.world(self.GC)
        for verb in ("prune", "pin", "unpin", "versions", "explain"):
            for name in ("app/CASE:v1", "a b", "app:", "app@sha256:12", "-/x", "app:v1:v2", "a" * 5000):
                with self.subTest(verb=verb, name=name[:20]):
                    done = self.cairnctl.expect(1, verb, "--", name)
                    self.assertEqual(done.stdout, "")
                    self.assertRegex(done.stderr, r"^cairnctl: [^\n]{10,600}\n$")
                    self.assertNotIn("is not pinned", done.stderr)
        say("a digest that was cut is none either, and no name with a tag")
        for verb in ("pin", "unpin", "explain"):
            for digest in ("sha256:12", "sha256:" + "a" * 63, "sha512:" + "a" * 64):
                self.assertIn("invalid digest", self.cairnctl.expect(1, verb, digest).stderr)
        self.assertEqual(self.cairnctl.json("status")[0]["gc"]["pins"], 0)

    def test_verify_finds_damage_and_its_advice_heals(self):
        """A layer rots on the disk; verify finds it, and what explain says brings it back."""
        w = self.world()
        ref = w.registry.ref("demo/mid:v1")
        w.containerd.pull(ref)
        w.containerd.pull(ref, ns="other")
        self.assertRegex(self.cairnctl.ok("verify"), r"(?m)^\d+ blobs, [\d.]+ MiB: all are what their digests say$")
        layer = image("demo/mid:v1")["layers"][1]
        damage(w.cairnd.blob_path(layer))

        say("verify finds it, in each form")
        lines = self.cairnctl.json("verify", status=1)
        found = [line for line in lines if line["type"] == "finding"]
        self.assertEqual([line["digest"] for line in found], [layer])
        self.assertEqual(found[0]["state"], "referenced")
        self.assertEqual(lines[-1]["type"], "done")
        self.assertEqual(lines[-1]["findings"], 1)
        self.assertIn(f"damaged\t{layer}\treferenced\t", self.cairnctl.expect(1, "verify", layer).stdout)
        code, text = self.cairnctl.terminal("verify")
        self.assertEqual(code, 1)
        self.assertRegex(text, r"\r\[[=> ]+\] +\d+%  [\d.]+ \w+ of [\d.]+ MiB  .*/s  ETA .* blobs")
        self.assertIn(f"ctr -a {w.containerd.socket} -n default content rm {layer}", text)

        say("it is out of service")
        self.assertEqual([f[0] for f in self.cairnctl.fields("ls", "--damaged")], [layer])
        self.assertEqual(self.cairnctl.json("status")[0]["damaged"], 1)
        target = self.folder / "image.tar"
        done = w.containerd.ctr("images", "export", target, ref, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(layer, done.stderr)

        say("what explain says")
        remedies = self.cairnctl.json("explain", layer)[0]["remedies"]
        commands = [line.split("  #")[0] for line in remedies]
        removals = [c for c in commands if " content rm " in c]
        self.assertEqual(len(removals), 2)
        self.assertIn("  " + remedies[0], self.cairnctl.terminal("explain", layer)[1])
        for command in removals:
            subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL, timeout=60)
        again = next(c for c in commands if " explain " in c)
        self.assertEqual(again.split(), ["cairnctl", *self.cairnctl.argv("explain", layer)[1:]])
        wait_for("explain to say that it is not here",
                 lambda: "not here" in self.cairnctl.run("explain", layer).stderr)
        w.registry.requests()
        pulls = [c.replace("IMAGE", ref).split() for c in commands if c.endswith("images pull IMAGE")]
        self.assertEqual(len(pulls), 2)
        for command in pulls:
            subprocess.run([*command, "--plain-http"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        self.assertEqual([r.name for r in w.registry.blob_gets()], [layer])
        self.cairnctl.ok("verify")
        self.assertEqual(self.cairnctl.ok("ls", "--damaged"), "")
        for ns in ("default", "other"):
            w.containerd.ctr("images", "export", target, ref, ns=ns)
            w.containerd.whole(ref, "v1", ns=ns)

    def test_damage_is_healed_by_a_copy(self):
        """The other advice: import a good copy from elsewhere."""
        w = self.world()
        ref = w.registry.ref("demo/small:v1")
        w.containerd.pull(ref)
        layer = image("demo/small:v1")["layers"][1]
        damage(w.cairnd.blob_path(layer))
        remedies = [f[1] for f in self.cairnctl.fields("explain", layer) if f[0] == "remedy"]
        self.assertEqual(remedies, [])  # nobody has looked yet
        self.cairnctl.expect(1, "verify")
        remedies = [f[1] for f in self.cairnctl.fields("explain", layer) if f[0] == "remedy"]
        where = re.search(r"if DIR(/blobs/\S+) is a good copy", remedies[-1]).group(1)
        copy = self.folder / "copy"
        (copy / "blobs/sha256").mkdir(parents=True)
        shutil.copyfile(w.registry.blob_path(layer), f"{copy}{where}")
        text = self.cairnctl.ok("import", "copy")  # a relative path is the caller's
        self.assertIn("1 blobs", text)
        self.assertIn("no containerd database", text)
        self.cairnctl.ok("verify")
        w.containerd.ctr("images", "export", self.folder / "image.tar", ref)

    def test_interrupt_ends_the_work_in_cairnd(self):
        """Ctrl-C in the middle of a long import: it says so, and cairnd stops at once."""
        w = self.world()
        folder = self.folder / "huge/blobs/sha256"
        folder.mkdir(parents=True)
        with open(folder / ("0" * 64), "wb") as file:
            file.truncate(1 << 40)
        code, text = self.cairnctl.terminal("import", self.folder / "huge", type_after=("ETA", "\x03"))
        self.assertEqual(code, 1)
        self.assertIn("cairnctl: interrupted; cairnd was told to stop", text)
        (folder / ("0" * 64)).unlink()
        wait_for("the import to have ended", lambda: self.cairnctl.run("import", "huge").returncode == 0, 10)
        self.assertLess(sum(p.stat().st_blocks for p in w.cairnd.state.rglob("*")) * 512, 50 << 20)

    def test_import_and_export_on_a_terminal_and_in_a_pipe(self):
        w = self.world()
        w.containerd.pull(w.registry.ref("demo/app:v1"))
        code, text = self.cairnctl.terminal("export", self.folder / "out")
        self.assertEqual(code, 0)
        self.assertRegex(text, r"\r\[[=> ]+\] +\d+%  .*ETA")
        count = len(digests("demo/app:v1"))
        self.assertRegex(text, rf"{count} blobs, [\d.]+ MiB: {count} linked, 0 copied, 0 there already, 0 failed\n")
        text = self.cairnctl.ok("export", "out", "--metadata", w.containerd.database)
        self.assertNotIn("\r", text)
        self.assertIn(f"{count} there already", text)
        self.assertIn(f"containerd records {count} blobs ({w.containerd.database}): all are there\n", text)
        self.assertIn("containerd is running", text)
        # With a database named that cannot be read, the question stays open: that is a failure.
        self.assertIn("could not be read", self.cairnctl.expect(1, "export", "out", "--metadata", "none").stdout)
        self.assertEqual({p.name for p in (self.folder / "out/blobs/sha256").iterdir()},
                         {digest[7:] for digest in digests("demo/app:v1")})

    def test_containerd_config_is_what_containerd_needs(self):
        """A containerd with exactly what is printed, and paths of its own, uses cairnd."""
        w = self.world()
        printed = self.cairnctl.ok("containerd-config")
        folder = self.folder / "second"
        second = Containerd(folder, store=w.cairnd.socket)
        second.folder.mkdir(parents=True)
        (second.folder / "config.toml").write_text(
            f'root = "{second.folder}/root"\nstate = "{second.folder}/state"\n{printed}'
            f'[grpc]\n  address = "{second.socket}"\n[ttrpc]\n  address = "{second.socket}.ttrpc"\n')
        self.stack.push(second)
        second.start()
        plugins = [line.split() for line in second.ctr("plugins", "ls").stdout.splitlines()
                   if line.startswith("io.containerd.content.v1")]
        self.assertEqual([(line[1], line[-1]) for line in plugins], [("cairn", "ok")])
        second.pull(w.registry.ref("demo/small:v1"))
        self.assertEqual({f[0] for f in self.cairnctl.fields("ls", "--state", "referenced")},
                         digests("demo/small:v1"))

    def test_containerd_config_for_every_version(self):
        offline = Cairnctl("/run/cairn/cairn.sock", self.folder)
        texts = {}
        for version, native in (("1.6", "2"), ("1.7", "2"), ("2.x", "3"), ("2.1", "3"), ("v1.7.22", "2")):
            text = texts[version] = offline.ok("containerd-config", "--containerd-version", version)
            self.assertIn(f"\nversion = {native}\n", text)
            self.assertIn('\ndisabled_plugins = ["io.containerd.content.v1.content"]\n', text)
            self.assertIn('\n[proxy_plugins.cairn]\n  type = "content"\n  address = "/run/cairn/cairn.sock"\n', text)
        self.assertEqual(texts["2.x"], texts["2.1"])
        self.assertEqual(offline.ok("containerd-config"), texts["1.6"])  # Debian's
        self.assertEqual(offline.json("containerd-config")[0], {"version": "1.6", "config": texts["1.6"]})
        for version in ("1.5", "3", "latest", ""):
            offline.expect(2, "containerd-config", "--containerd-version", version)

    def test_wrong_usage(self):
        tool = Cairnctl(self.folder / "none.sock", self.folder)
        for args in ([], ["frobnicate"], ["--frobnicate"], ["ls", "extra"], ["ls", "--state", "odd"], ["explain"],
                     ["explain", "a", "b"], ["import"], ["import", "a", "b"], ["import", ""], ["export"],
                     ["status", "now"], ["status", "--metadata", "x"], ["--socket"], ["import", "x", "--metadata", ""],
                     ["gc", "now"], ["gc", "--dryrun"], ["prune"], ["prune", ""], ["prune", "a", "b"],
                     ["prune", "a", "--keep", "1001"], ["prune", "a", "--keep", "-1"], ["prune", "a", "--keep", ""],
                     ["pin"], ["pin", ""], ["pin", "a", "b"], ["unpin"], ["unpin", ""], ["unpin", "a", "b"],
                     ["versions", "a", "b"], ["versions", ""], ["explain", ""], ["pin", "a", "--for"],
                     ["preheat"], ["preheat", ""], ["preheat", "--file", "/dev/null"],
                     ["preheat", "a", "--namespace", ""], ["preheat", "a", "--username", "u"],
                     ["preheat", "a", "--password-stdin"],
                     ["preheat", "a", "--batch", "2"], ["preheat", "a", "--nodes", ""],
                     ["preheat", "a", "--nodes", "all", "--max-failures", "x"], ["versions", "--fleet"],
                     ["prune", "a", "--nodes", ""],
                     ["preheat", "a", "--identity-token-stdin"],  # nothing there
                     ["preheat", "a", "--username", "u", "--identity-token-stdin"],
                     ["preheat", "a", "--file", "-", "--username", "u", "--password-stdin"],
                     ["jobs", "a", "b"], ["jobs", ""], ["jobs", "--watch"], ["cancel"], ["cancel", ""],
                     ["cancel", "a", "b"]):
            done = tool.expect(2, *args)
            self.assertEqual(done.stdout, "")
            self.assertIn("--help", done.stderr)
        for span in ("", "7", "-7d", "0s", "1.5h", "forever", "3651d", "99999999999999999999d"):
            self.assertIn(f'--for is a number with s, m, h or d, from 1s to 3650d (such as 72h), not "{span}"',
                          tool.expect(2, "pin", "a", "--for", span).stderr)
            self.assertIn(f'--keep-for is a number with s, m, h or d, from 1s to 3650d (such as 72h), not "{span}"',
                          tool.expect(2, "preheat", "a", "--keep-for", span).stderr)
        self.assertIn('--keep is a number from 0 to 1000, not "two"',
                      tool.expect(2, "prune", "a", "--keep", "two").stderr)
        self.assertIn('--priority is a number from -100 to 100, not "101"',
                      tool.expect(2, "preheat", "a", "--priority", "101").stderr)
        self.assertIn('--platform is os/arch, os/arch/variant, node or all, not "linux"',
                      tool.expect(2, "preheat", "a", "--platform", "linux").stderr)

    def test_a_password_in_the_command_line_is_refused_and_not_shown(self):
        tool = Cairnctl(self.folder / "none.sock", self.folder)
        listed = self.folder / "list"
        listed.write_text("# images\nbusybox\nuser:hunter2@registry.example/app # here\n")
        for args in (["user:hunter2@registry.example/app"], ["--file", listed], ["a", "--password", "hunter2"],
                     ["a", "--password=hunter2"], ["a", "--password-stdin=hunter2"],
                     ["a", "--identity-token", "hunter2"]):
            done = tool.expect(2, "preheat", *args)
            self.assertEqual(done.stdout, "")
            self.assertNotIn("hunter2", done.stderr)
        self.assertIn(f"{listed}, line 3: ", tool.expect(2, "preheat", "--file", listed).stderr)
        self.assertIn("No such file", tool.expect(1, "preheat", "--file", "absent").stderr)

    def test_help_and_version_everywhere(self):
        tool = Cairnctl(self.folder / "none.sock", self.folder)
        text = tool.ok("--help")
        for verb in VERBS:
            self.assertRegex(text, rf"(?m)^  {verb} ")
            self.assertIn(f"[--json] {verb}", tool.ok(verb, "--help"))
            self.assertRegex(tool.ok(verb, "--version"), r"^cairnctl \d")
        self.assertRegex(tool.ok("--version"), r"^cairnctl \d")

    def test_errors_say_what_to_do(self):
        """No daemon, a stale socket, a socket of somebody else's."""
        tool = Cairnctl(self.folder / "none.sock", self.folder)
        for args in (["status"], ["ls"], ["verify"], ["import", "/"], ["explain", "sha256:" + "0" * 64], ["gc"],
                     ["prune", "a"], ["pin", "a", "--for", "7d"], ["unpin", "a"], ["versions"], ["preheat", "a"],
                     ["preheat", "a", "--detach"], ["jobs"], ["jobs", "a"], ["jobs", "a", "--watch"], ["cancel", "a"]):
            error = tool.expect(1, *args).stderr
            self.assertIn(str(tool.socket), error)
            self.assertIn("cairnd does not run", error)
        cairnd = self.enter(Cairnd(self.folder))
        tool.socket = cairnd.socket
        tool.ok("status")
        self.folder.chmod(0o755)
        cairnd.folder.chmod(0o755)
        done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *tool.argv("status")],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        if "Permission denied" not in done.stderr:  # of the program itself, where its folder is private
            self.assertEqual(done.returncode, 1)
            self.assertIn("try sudo", done.stderr)
        cairnd.kill()
        error = tool.expect(1, "status").stderr
        self.assertIn("nobody answers", error)
        cairnd.start()

    def test_json_of_a_path_that_is_not_utf8(self):
        w = self.world()
        w.containerd.pull(w.registry.ref("demo/small:v1"))
        odd = os.fsdecode(os.fsencode(str(self.folder)) + b"/\xff\xfe")
        os.mkdir(odd)
        done = self.cairnctl.json("export", f"{odd}/out")[-1]
        self.assertIn("/??/io.containerd.metadata.v1.bolt/meta.db", done["records_path"])

    def test_json_is_one_object_a_line(self):
        w = self.world()
        w.containerd.pull(w.registry.ref("demo/small:v1"))
        ref = w.registry.ref("demo/small:v1")
        for args in (["status"], ["ls"], ["verify"], ["export", self.folder / "out"], ["import", self.folder / "out"],
                     ["gc", "--all"], ["gc", "--dry-run"], ["prune", ref], ["pin", ref], ["explain", ref],
                     ["versions"], ["unpin", ref]):
            text = self.cairnctl.ok("--json", *args)
            self.assertTrue(text.endswith("\n"))
            for line in text.splitlines():
                self.assertIsInstance(json.loads(line), dict)


if __name__ == "__main__":
    main()
