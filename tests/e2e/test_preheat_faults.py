"""Preheat from registries that lie or break, on disks that are full, and through crashes."""
import hashlib
import os
import pathlib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import PreheatCase, ScriptedRegistry, main, plain, random_layers, say, wait_for, write_docker_config  # noqa: E402,E501

MIB = 1 << 20


class Lies(PreheatCase):
    """One good image in each job: what is wrong with the other is told, and is its matter alone."""

    def begin(self, **options):
        self.r = self.enter(ScriptedRegistry())
        self.daemon(plain(self.r.host, *options.pop("hosts", [])), **options)
        self.number = 0

    def fresh(self, count=2, size=5000):
        self.number += 1
        return self.r.image(f"team/app{self.number}:v1", random_layers(count, size))

    def partial(self, one, *says, blob=None):
        """The job with `one` and a good image: partial; the error names the blob and the reason."""
        good = self.fresh()
        outcome = self.failing(one.ref, good.ref, state="partial", says=says)
        self.assertEqual(outcome.images[one.ref]["state"], "failed", outcome)
        self.assertEqual(outcome.images[good.ref]["state"], "succeeded", outcome)
        self.assertLessEqual(good.blobs, self.held())
        if blob:
            self.assertEqual(outcome.blobs[blob]["state"], "failed", outcome)
            self.assertIn(blob, outcome.images[one.ref]["error"])
            self.assertNotIn(blob, self.held())
            self.assertIn(f"cairnctl: {blob}: ", outcome.stderr)
        return outcome

    def test_blobs_for_good(self):
        """A layer that cannot be had, in each way that is not worth patience: partial, blob and reason named."""
        self.begin()
        cases = {
            "404": (self.r.status(404), ["404"]),
            "403": (self.r.status(403), ["403"]),
            "400": (self.r.status(400), ["400"]),
            "wrong bytes": (self.r.wrong(), ["digest"]),
            "one byte too many": (self.r.wrong(lambda data: data + b"x"), ["5001", "5000"]),
            "one byte too few, and says so": (self.r.wrong(lambda data: data[:-1]), ["4999", "5000"]),
            "a page in place of it": (self.r.status(200, {"Content-Type": "text/html"}, b"<html>log in</html>"),
                                      ["5000"]),
            "204": (self.r.status(204), ["204"]),
            "redirect to nowhere": (self.r.status(307), ["redirect"]),
            "redirect to itself": (self.r.status(307, {"Location": "?again"}), ["redirect", "more than"]),
            "redirect to a file": (self.r.status(307, {"Location": "file:///etc/passwd"}), ["redirect"]),
        }
        for name, (step, says) in cases.items():
            with self.subTest(name):
                say(name)
                one = self.fresh()
                self.r.always("GET", one.layers[1], step)
                self.partial(one, *says, blob=one.layers[1])
                self.assertLess(len(self.r.gets(name=one.layers[1])), 14)
        self.assert_clean()

    def test_blobs_that_recover(self):
        """What passes is waited out, and taken up where it broke: the job succeeds."""
        self.begin()
        r = self.r
        cases = {
            "short": ([r.short(1000)], [None, "bytes=1000-"]),
            "reset": ([r.reset(2000)], [None, "bytes=2000-"]),
            "closed at once": ([r.short(0)], [None, None]),
            "short many times": ([r.short(n) for n in (1000, 500, 500, 500, 500)],
                                 [None, "bytes=1000-", "bytes=1500-", "bytes=2000-", "bytes=2500-", "bytes=3000-"]),
            "no length": ([r.without_length()], [None]),
            "503 twice": ([r.status(503), r.status(502)], [None, None, None]),
            "429": ([r.status(429, {"Retry-After": "1"})], [None, None]),
            "wrong bytes once": ([r.wrong()], [None, None]),
            "range ignored": ([r.short(1000), lambda h: h.headers.replace_header("Range", "none") or r.answer(h)],
                              [None, "bytes=1000-"]),
            "401 in the middle": ([r.short(1000), r.status(401, {"WWW-Authenticate": 'Basic realm="x"'})],
                                  [None, "bytes=1000-", "bytes=1000-"]),
        }
        config = self.folder / "docker.json"
        write_docker_config(config, **{r.host: ("ci", "Mid-Way-8")})
        self.reconfigure(hosts=plain(r.host), docker_config=config)
        for name, (steps, ranges) in cases.items():
            with self.subTest(name):
                say(name)
                one = self.fresh()
                r.script("GET", one.layers[1], *steps)
                outcome = self.ok(one.ref)
                self.assertEqual([a.range for a in r.gets(name=one.layers[1])], ranges, outcome)
                if name in ("short", "reset"):
                    self.assertEqual(outcome.job["bytes"]["fetched"], outcome.job["bytes"]["total"])
                elif name == "401 in the middle":
                    self.assertIn("Authorization", r.gets(name=one.layers[1])[-1].headers)
        self.assert_clean("Mid-Way-8")

    def test_without_end(self):
        """A registry that is broken for good: bounded tries, then failed with the last reason."""
        self.begin()
        jobs = {}
        for name, step, text in (("503", self.r.status(503, {}, b"down for now"), "503"),
                                 ("429", self.r.status(429), "429"), ("cut", self.r.short(0), self.r.host)):
            one = self.fresh()
            self.r.always("GET", one.layers[1], step)
            jobs[name] = (self.detach(one.ref), one, text)
        for name, (job, one, text) in jobs.items():
            outcome = self.await_job(job, "failed")
            self.assertIn(text, outcome.blobs[one.layers[1]]["error"], name)
            self.assertIn(one.layers[1], outcome.images[one.ref]["error"])
            self.assertLessEqual(len(self.r.gets(name=one.layers[1])), 4, name)
            self.assertIn(one.layers[0], self.held(), "what came is kept")
        say("a registry that is not there")
        self.failing("127.0.0.1:1/team/app:v1", says="127.0.0.1:1")
        self.assert_clean()

    def test_manifests(self):
        """Manifests that are none, lie about their digest, are huge, or hostile JSON: failed, and nothing is kept."""
        self.begin()
        r = self.r
        huge = b'{"schemaVersion": 2, "x": "' + b"y" * (5 * MIB) + b'"}'
        deep = b"[" * 100000 + b"]" * 100000

        def manifest(**changes):
            _, value = r.manifest(random_layers(1))
            return {**value, **changes}

        def layers(**changes):
            value = manifest()
            return {**value, "layers": [{**value["layers"][0], **changes}]}
        cases = {
            "huge": (huge, "longer than"),
            "deep": (deep, ""),
            "no JSON": (b"\x00\xff<html>", ""),
            "empty": (b"", ""),
            "an array": (b"[]", ""),
            "a digest that is none": (layers(digest="sha256:../../etc/passwd"), "digest"),
            "a digest of another kind": (layers(digest="md5:d41d8cd98f00b204e9800998ecf8427e"), "digest"),
            "a negative size": (layers(size=-1), "size"),
            "an enormous size": (layers(size=2**62), "size"),
            "a size that is text": (layers(size="12"), "size"),
            "both kinds at once": (manifest(manifests=[]), "manifest"),
            "layers that are no list": (manifest(layers={"a": 1}), "layers"),
            "schema 1": ({"schemaVersion": 1, "name": "x", "fsLayers": []}, ""),
            "too many layers": (manifest(layers=manifest()["layers"] * 20000), "at most"),
            "control characters": (layers(digest="sha256:\x1b[2J\n"), "digest"),
        }
        for number, (name, (value, text)) in enumerate(cases.items()):
            with self.subTest(name):
                say(name)
                before = self.held()
                r.put_manifest(value, tag=f"bad/app{number}:v1")
                ref = r.ref(f"bad/app{number}:v1")
                outcome = self.failing(ref, says=text)
                self.assertEqual(outcome.images[ref]["state"], "failed")
                self.assertNotEqual(outcome.images[ref]["error"], "")
                self.assertTrue(outcome.stderr.replace("\n", "").isprintable(), outcome.stderr)
                say(outcome.stderr.splitlines()[0][:200])
                self.assertEqual({d for d in self.held() - before if d in r.types and value in (huge, deep)}, set())
        for name, step in (("404", r.status(404)), ("wrong bytes", r.wrong())):
            one = self.fresh()
            for tag in ("v1", one.digest):
                r.always("GET", tag, step)
            self.failing(one.ref, says="404" if name == "404" else "digest")
            self.assertNotIn(one.digest, self.held())
        self.assert_clean()

    def test_headers_of_manifests(self):
        """A digest header that lies, is absent or is nonsense; a wrong media type; HEAD that is not known."""
        self.begin()
        r = self.r
        lie = "sha256:" + hashlib.sha256(b"another").hexdigest()
        one = self.fresh()
        r.always("HEAD", "v1", r.with_headers(Docker_Content_Digest=lie))
        self.failing(one.ref, says="404")
        one = self.fresh()
        r.relent()
        r.always("GET", one.digest, r.with_headers(Docker_Content_Digest=lie))
        self.failing(one.ref, says=[lie, one.digest])
        self.assertNotIn(one.digest, self.held())
        for header in ("", "nonsense", "sha256:12"):
            r.relent()
            one = self.fresh()
            for method in ("HEAD", "GET"):
                for tag in ("v1", one.digest):
                    r.always(method, tag, r.with_headers(Docker_Content_Digest=header))
            self.assertEqual(set(self.ok(one.ref).blobs), one.blobs)
        r.relent()
        one = self.fresh()
        r.always("HEAD", "v1", r.status(405))
        self.assertEqual(set(self.ok(one.ref).blobs), one.blobs)
        r.relent()
        one = self.fresh()
        for tag in ("v1", one.digest):
            r.always("GET", tag, r.with_headers(Content_Type="text/plain; charset=utf-8"))
        self.assertEqual(set(self.ok(one.ref).blobs), one.blobs, "the bytes say what they are")
        self.assert_clean()

    def test_redirects(self):
        """Blobs are elsewhere, as with many registries: they come, and what authorizes us does not go there."""
        elsewhere = self.enter(ScriptedRegistry())
        self.begin()
        r = self.r
        config = self.folder / "docker.json"
        write_docker_config(config, **{r.host: ("ci", "Not-For-Storage-2")})
        self.reconfigure(hosts=plain(r.host), docker_config=config)
        one = self.fresh()
        challenge = r.status(401, {"WWW-Authenticate": 'Basic realm="x"'})

        def guarded(then):
            return lambda h: challenge(h) if "Authorization" not in h.headers else then(h)
        for digest in one.blobs | {"v1"}:
            for method in ("GET", "HEAD"):
                r.always(method, digest, guarded(r.answer))
        for layer in one.layers:
            elsewhere.blobs[layer] = r.blobs[layer]
            r.always("GET", layer, guarded(r.status(
                307, {"Location": f"http://{elsewhere.host}/v2/store/blobs/{layer}?sig=Signature-4"})))
        elsewhere.script("GET", one.layers[0], elsewhere.short(1234))
        self.ok(one.ref)
        self.assertEqual(len(elsewhere.gets()), 3)
        self.assertEqual([a for a in elsewhere.requests() if "Authorization" in a.headers], [])
        self.assertEqual([a.range for a in elsewhere.gets(name=one.layers[0])], [None, "bytes=1234-"])
        say("elsewhere fails: the signature of the address is not shown")
        two = self.fresh()
        for layer in two.layers:
            r.always("GET", layer, r.status(
                307, {"Location": f"http://{elsewhere.host}/v2/store/blobs/{layer}?sig=Signature-4"}))
        outcome = self.failing(two.ref, says=["404"])
        self.assertNotIn("Signature-4", outcome.stderr)
        say("elsewhere wants to know who we are")
        three = self.fresh()
        for layer in three.layers:
            r.always("GET", layer, r.status(307, {"Location": f"http://{elsewhere.host}/v2/store/blobs/{layer}"}))
            elsewhere.always("GET", layer, elsewhere.status(401, {"WWW-Authenticate": 'Basic realm="x"'}))
        self.failing(three.ref, says="401")
        self.assertEqual([a for a in elsewhere.requests() if "Authorization" in a.headers], [])
        self.assert_clean("Not-For-Storage-2", "Signature-4")

    def test_stall(self):
        """A registry that stands still: the job can be cancelled at once, and what came is not asked for again."""
        self.begin()
        one = self.fresh(size=300000)
        gate = self.r.hold("GET", one.layers[1], after=100000)
        job = self.detach(one.ref)
        self.assertTrue(gate.reached.wait(10))
        wait_for("its bytes", lambda: (self.show(job).blobs.get(one.layers[1]) or {}).get("done") == 100000)
        began = time.monotonic()
        self.tool.ok("cancel", job)
        outcome = self.await_job(job, "cancelled")
        self.assertLess(time.monotonic() - began, 15)
        self.assertIn(outcome.blobs[one.layers[1]]["state"], ("cancelled", "failed"))
        self.r.relent()
        self.ok(one.ref)
        self.assertEqual([a.range for a in self.r.gets(name=one.layers[1])], [None, "bytes=100000-"])
        self.assertEqual(len(self.r.gets(name=one.layers[0])), 1)
        self.assert_clean()

    def test_mirrors(self):
        """A mirror that lacks it, lies or is not there: the host itself is asked."""
        mirror = self.enter(ScriptedRegistry())
        self.begin()
        r = self.r
        self.reconfigure(hosts=f'{{host: "{r.host}", plain_http: true, mirrors: ["http://127.0.0.1:1", '
                               f'"http://{mirror.host}"]}}')
        one = self.fresh(3)
        mirror.tags.update(r.tags)
        mirror.types.update(r.types)
        mirror.blobs.update(r.blobs)
        mirror.always("GET", one.layers[0], mirror.status(404))
        mirror.script("GET", one.layers[1], mirror.short(1000))
        self.ok(one.ref)
        self.assertEqual(r.requests("manifests"), [])
        self.assertEqual(sorted((a.name, a.range) for a in r.gets()),
                         [(one.layers[0], None)], "one that gets on is asked for the rest itself")
        self.assertEqual([a.range for a in mirror.gets(name=one.layers[1])], [None, "bytes=1000-"])
        two = self.fresh()
        mirror.tags.update(r.tags)
        mirror.types.update(r.types)
        mirror.blobs.update(r.blobs)
        mirror.always("GET", two.layers[0], mirror.wrong())
        say("a mirror that lies is not found out before the last byte, and not asked again")
        asked = len(r.gets())
        self.ok(two.ref)
        self.assertEqual(len(mirror.gets(name=two.layers[0])), 1)
        self.assertEqual([a.name for a in r.gets()[asked:]].count(two.layers[0]), 1)
        self.assert_clean()


class Crashes(PreheatCase):
    def begin(self, **options):
        self.r = self.enter(ScriptedRegistry())
        self.daemon(plain(self.r.host), **options)
        return self.r

    def test_kill(self):
        """kill -9 in mid-job: the next start completes it, without what was whole, and the rest by Range."""
        r = self.begin()
        one = r.image("team/app:v1", random_layers(3, 2 * MIB) + random_layers(1, 70 * MIB))
        gate = r.hold("GET", one.layers[3], after=66 * MIB + 5)
        job = self.detach(one.ref, "--priority", 7, "--keep-for", "1h")
        queued = [self.detach(one.ref, "--priority", -9) for _ in range(2)]
        self.assertTrue(gate.reached.wait(20))
        wait_for("the rest", lambda: set(one.layers[:3]) <= self.held())
        wait_for("its bytes to be on the disk", self.cairnd.checkpoints)
        self.cairnd.kill()
        r.forget()
        r.relent()
        self.cairnd.start()
        outcome = self.await_job(job, "succeeded")
        for other in queued:
            self.await_job(other, "succeeded")
        listed = self.tool.json("jobs")
        self.assertEqual([j["id"] for j in listed], [*reversed(queued), job])
        self.assertEqual([j["priority"] for j in listed], [-9, -9, 7])
        gets = r.gets()
        self.assertEqual([a.name for a in gets if a.kind == "blobs"], [one.layers[3]])
        self.assertRegex(gets[-1].range or "", r"^bytes=6\d{7}-$")
        self.assertLess(outcome.job["bytes"]["fetched"], 7 * MIB)
        self.assertEqual(self.dry_run()[0][one.layers[3]]["why"], "pin")
        say("and once more, at rest")
        self.cairnd.restart(kill=True)
        self.assertEqual([(j["id"], j["state"]) for j in self.tool.json("jobs")],
                         [(j["id"], j["state"]) for j in listed])
        self.assertEqual(self.show(job).images[one.ref]["digest"], one.digest)
        self.assert_clean()

    def test_login_by_hand(self):
        """A login that was given by hand is not stored: after a restart docker_config has to do."""
        config = self.folder / "docker.json"
        r = self.begin(docker_config=config)
        challenge = r.status(401, {"WWW-Authenticate": 'Basic realm="x"'})
        jobs = []
        for number in range(2):
            one = r.image(f"team/app{number}:v1", random_layers(2, MIB))
            jobs.append([one, r.hold("GET", one.layers[1], after=1000)])
            halt = r.scripts["GET", one.layers[1]]

            def guarded(handler, step=halt):
                return step(handler) if "Authorization" in handler.headers else challenge(handler)
            r.always("GET", one.layers[1], guarded)
            jobs[-1].append(self.detach(one.ref, "--username", "hand", "--password-stdin", stdin="By-Hand-Only-6\n"))
            self.assertTrue(jobs[-1][1].reached.wait(20))
        self.assert_no_secret("By-Hand-Only-6")
        self.cairnd.kill()
        r.forget()
        write_docker_config(config, **{r.host: ("file", "In-The-File-7")})
        for _, gate, _ in jobs:
            gate.open()
        self.cairnd.start()
        for one, _, job in jobs:
            self.await_job(job, "succeeded")
        users = {a.headers["Authorization"] for a in r.gets() if "Authorization" in a.headers}
        self.assertEqual(len(users), 1)
        self.assert_clean("By-Hand-Only-6", "In-The-File-7")

    def test_terminate(self):
        """SIGTERM in mid-job ends within drain; who follows is told that the job goes on; and it does."""
        r = self.begin(drain="20s")
        one = r.image("team/app:v1", random_layers(3, MIB))
        gate = r.hold("GET", one.layers[2], after=1000)
        following = self.start_preheat(one.ref)
        self.assertTrue(gate.reached.wait(20))
        job = self.tool.json("jobs")[0]["id"]
        began = time.monotonic()
        self.cairnd.stop()
        self.assertLess(time.monotonic() - began, 15, "drain")
        self.assertEqual(following.wait(10), 1)
        self.assertIn(job, following.log_text())
        self.assertIn("once cairnd is back", following.log_text())
        r.forget()
        r.relent()
        self.cairnd.start()
        self.await_job(job, "succeeded")
        self.assertEqual([a.name for a in r.gets() if a.kind == "blobs"], [one.layers[2]])
        self.assert_clean()

    def test_damaged_files(self):
        """Files in state_dir/jobs that are no jobs: the daemon starts, says so, and keeps the others."""
        r = self.begin()
        one = r.image("team/app:v1", random_layers(1))
        job = self.ok(one.ref).job["id"]
        self.cairnd.stop()
        jobs = self.cairnd.state / "jobs"
        good = (jobs / job).read_bytes()
        (jobs / "p-1111111111111111").write_bytes(good)
        (jobs / "p-2222222222222222").write_bytes(os.urandom(500))
        (jobs / "p-3333333333333333").write_bytes(b"")
        (jobs / "p-4444444444444444").write_bytes(good[:len(good) // 2])
        (jobs / ".new").write_bytes(good[:20])
        (jobs / ("x" * 200)).write_bytes(good)
        self.cairnd.start()
        self.assertEqual([j["id"] for j in self.tool.json("jobs")], [job])
        self.assertEqual([p.name for p in jobs.iterdir()], [job])
        self.assertIn("ev=job_dropped", self.cairnd.process.log_text())

    def test_rot(self):
        """A blob that rots on the disk is not counted as here: the next preheat gets it again."""
        r = self.begin()
        one = r.image("team/app:v1", random_layers(2, MIB))
        self.ok(one.ref)
        self.cairnd.stop()
        with open(self.cairnd.blob_path(one.layers[0]), "r+b") as file:
            file.seek(5000)
            file.write(b"rot")
        self.cairnd.blob_path(one.layers[1]).unlink()
        self.cairnd.start()
        r.forget()
        self.ok(one.ref)
        self.assertEqual({a.name for a in r.gets() if a.kind == "blobs"}, set(one.layers))
        self.assert_clean()


class Disk(PreheatCase):
    def begin(self, mib=64, gc="interval: 1h, keep_storage: 24h, keep_versions: 0, high_watermark: 100%, "
                               "low_watermark: 100%, min_free: 0%", ext4=False):
        mount = self.folder / "disk"
        mount.mkdir()
        if ext4:
            with open(self.folder / "disk.img", "wb") as out:
                out.truncate(mib * MIB)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", self.folder / "disk.img"], check=True)
            subprocess.run(["mount", "-o", "loop", self.folder / "disk.img", mount], check=True)
        else:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", mount], check=True)
        self.stack.callback(subprocess.run, ["umount", "-l", mount], check=False)
        self.mount = mount
        self.r = self.enter(ScriptedRegistry())
        self.daemon(plain(self.r.host), gc=gc, state=mount / "state")

    def free(self):
        st = os.statvfs(self.mount)
        return st.f_bavail * st.f_frsize

    def test_does_not_fit(self):
        """A job that does not fit is refused before the first byte of a layer, and says how much is missing."""
        self.begin()
        one = self.r.image("team/app:v1", random_layers(4, 20 * MIB))
        free = self.free()
        outcome = self.failing(one.ref, says=["the disk has no room", "missing"])
        words = outcome.job["error"].split()
        needed, room, missing = [int(w) for w in words if w.isdigit()]
        self.assertLessEqual(abs(needed - 80 * MIB), MIB)
        self.assertLessEqual(abs(room - free), MIB)
        self.assertEqual(missing, needed - room)
        self.assertFalse(set(self.r.blobs) & {a.name for a in self.r.gets()} & set(one.layers))
        self.assertIn("the disk has no room", outcome.images[one.ref]["error"], "the image says why, too")
        self.assertEqual({b["state"] for d, b in outcome.blobs.items() if d in one.layers} & {"succeeded"}, set())
        say("what fits goes on to work")
        self.ok(self.r.image("team/app:v2", random_layers(2, MIB)).ref)
        self.assert_clean()

    def test_garbage_makes_room(self):
        """GC makes room first where it may, with what was used longest ago."""
        self.begin(80, ext4=True)
        old = self.r.image("team/old:v1", random_layers(4, 10 * MIB))
        pinned = self.r.image("team/pinned:v1", random_layers(1, 10 * MIB))
        self.ok(pinned.ref, "--keep-for", "1h")
        self.ok(old.ref)
        new = self.r.image("team/new:v1", random_layers(2, 15 * MIB))
        self.ok(new.ref)
        self.assertLessEqual(new.blobs | pinned.blobs, self.held())
        self.assertFalse(old.blobs <= self.held())
        say("but a pin is a pin")
        self.ok(new.ref, "--keep-for", "1h")
        self.failing(self.r.image("team/more:v1", random_layers(2, 20 * MIB)).ref, says="the disk has no room")
        self.assertLessEqual(new.blobs | pinned.blobs, self.held())
        self.assert_clean()

    def test_room_is_not_made_of_what_is_needed(self):
        """The layer that was used longest ago is one that the job needs: it stays, and another goes."""
        self.begin()
        shared, other, new = random_layers(1, 15 * MIB), random_layers(1, 30 * MIB), random_layers(1, 30 * MIB)
        self.ok(self.r.image("team/first:v1", shared).ref)
        second = self.r.image("team/second:v1", other)
        self.ok(second.ref)
        third = self.r.image("team/third:v1", shared + new)
        self.ok(third.ref)
        self.assertLessEqual(third.blobs, self.held())
        self.assertNotIn(second.layers[0], self.held())
        self.assertEqual(len(self.r.gets(name=third.layers[0])), 1)
        self.assert_clean()

    def test_resume_on_a_tight_disk(self):
        """Bytes that a crash left are part of the job that goes on: they are not counted as missing."""
        self.begin()
        one = self.r.image("team/app:v1", random_layers(1, 48 * MIB))
        gate = self.r.hold("GET", one.layers[0], after=40 * MIB)
        job = self.detach(one.ref)
        self.assertTrue(gate.reached.wait(20))
        wait_for("its bytes", lambda: (self.show(job).blobs.get(one.layers[0]) or {}).get("done") == 40 * MIB)
        self.cairnd.stop()
        self.r.forget()
        self.r.relent()
        self.cairnd.start()
        self.await_job(job, "succeeded")
        self.assertRegex(self.r.gets(name=one.layers[0])[-1].range or "", r"^bytes=\d{8}-$")
        self.assert_clean()

    def test_fills_up_in_mid_job(self):
        """Another tenant takes the rest of the disk: that job fails and says so; the daemon lives, others go on."""
        self.begin()
        big = self.r.image("team/big:v1", random_layers(1, 40 * MIB))
        gate = self.r.hold("GET", big.layers[0], after=10 * MIB)
        job = self.detach(big.ref)
        self.assertTrue(gate.reached.wait(20))
        with open(self.mount / "tenant", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free() - 8 * MIB)
        gate.open()
        outcome = self.await_job(job, "failed")
        self.assertRegex(outcome.images[big.ref]["error"], "(?i)no space|no room|disk")
        self.assertIn(big.layers[0], outcome.images[big.ref]["error"])
        (self.mount / "tenant").unlink()
        self.r.forget()
        self.ok(big.ref)
        self.assert_clean()


if __name__ == "__main__":
    main()
