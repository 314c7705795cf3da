"""Preheat against a real registry, and together with containerd."""
import collections
import concurrent.futures
import crypt
import os
import pathlib
import re
import signal
import sys
import time

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import (  # noqa: E402
    Cairnctl, Certificates, PreheatCase, Registry, ScriptedRegistry, TokenServer, WebProxy, World, digests, image,
    main, plain, random_layers, say, wait_for, write_docker_config)
from harness.content import cairn_pb2  # noqa: E402

MIB = 1 << 20
PATIENT = 'p2p: {stall: 60s, min_rate: 1B}\n'


class Registries(PreheatCase):
    """cairnd alone, and docker-registry."""

    def registry(self, **options):
        self.reg = self.enter(Registry(self.folder, **options))
        return self.reg

    def test_plain_http(self):
        """Images of 1, 10 and 100 layers: every blob is here, checked, and was asked for once."""
        reg = self.registry()
        self.daemon(plain(reg.host))
        for count in (1, 10, 100):
            one = reg.add(f"many/l{count}:v1", random_layers(count))
            reg.requests()
            done = self.ok(reg.ref(f"many/l{count}:v1"))
            blobs = {one["target"]["digest"], one["config"], *one["layers"]}
            self.assertEqual(set(done.blobs), blobs)
            self.assertEqual(done.images[reg.ref(f"many/l{count}:v1")]["digest"], one["target"]["digest"])
            self.assertEqual(done.job["blobs"], {"done": len(blobs), "total": len(blobs)})
            self.assertEqual(done.job["bytes"]["fetched"], done.job["bytes"]["total"])
            self.assertEqual({b["source"] for b in done.blobs.values()}, {"registry"})
            self.assertLessEqual(blobs, self.held())
            asked = reg.requests()
            self.assertEqual(sorted(r.name for r in asked if r.method == "GET"), sorted(blobs), "each once")
            self.assertEqual([r.name for r in asked if r.method == "HEAD"], ["v1"])
            again = self.ok(reg.ref(f"many/l{count}:v1"))
            self.assertEqual([(r.method, r.name) for r in reg.requests()], [("HEAD", "v1")])
            self.assertEqual(again.job["bytes"]["fetched"], 0)
            self.assertEqual({b["source"] for b in again.blobs.values()}, {"cache"})
        self.assertEqual({row["state"] for row in self.rows().values()}, {"cached"})
        self.assert_clean()

    def test_index(self):
        """Of an index ours alone, then all; its manifests are asked for as manifests."""
        reg = self.registry()
        self.daemon(plain(reg.host))
        ours = digests("demo/multi:v1")
        self.assertEqual(set(self.ok(reg.ref("demo/multi:v1")).blobs), ours)
        asked = reg.requests()
        self.assertEqual({(r.kind, r.status) for r in asked if r.name in {
            m["digest"] for m in image("demo/multi:v1")["manifests"]}}, {("manifests", 200)})
        self.assertEqual(sorted(r.name for r in asked if r.method == "GET"), sorted(ours))
        done = self.ok(reg.ref("demo/multi:v1"), "--platform", "all")
        self.assertIn(image("demo/multi:v1")["manifests"][1]["digest"], done.blobs)
        self.assertFalse(ours & {r.name for r in reg.requests() if r.method == "GET"})
        self.assert_clean()

    def test_ten_images_and_two_jobs(self):
        """10 images in one job, and an equal job beside it: each blob is asked for once."""
        reg = self.registry()
        names = [f"ten/app{n}:v1" for n in range(10)]
        images = [reg.add(name, random_layers(3, 100000)) for name in names]
        self.daemon(plain(reg.host))
        listing = self.folder / "images.txt"
        listing.write_text("# release\n" + "".join(f"{reg.ref(name)}  # {n}\n" for n, name in enumerate(names)))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(self.ok, "--file", listing) for _ in range(2)]
            first, second = [job.result() for job in jobs]
        blobs = {d for i in images for d in (i["target"]["digest"], i["config"], *i["layers"])}
        self.assertEqual(set(first.blobs), blobs)
        self.assertEqual(set(second.blobs), blobs)
        self.assertEqual(first.job["images"], {"done": 10, "total": 10})
        got = collections.Counter(r.name for r in reg.requests() if r.method == "GET" and r.kind == "blobs")
        self.assertEqual(got, {d: 1 for i in images for d in (i["config"], *i["layers"])})
        self.assertEqual(first.job["bytes"]["done"], first.job["bytes"]["total"])
        self.assert_clean()

    def test_tls(self):
        """A certificate authority of our own: not without `ca`, and not by plain HTTP."""
        certs = Certificates(self.folder / "certs")
        reg = self.registry(tls=(certs.cert, certs.key))
        self.daemon()
        ref = reg.ref("demo/small:v1")
        self.failing(ref, says=["certificate", reg.host])
        self.reconfigure(hosts=f'{{host: "{reg.host}", ca: "{certs.ca}"}}')
        done = self.ok(ref)
        self.assertEqual(set(done.blobs), digests("demo/small:v1"))
        self.assert_clean()

    def test_https_where_http_is_spoken(self):
        """A registry that must be configured as plain_http: the error leads there."""
        reg = self.registry()
        self.daemon()
        began = time.monotonic()
        outcome = self.failing(reg.ref("demo/small:v1"), says=reg.host)
        self.assertRegex(outcome.stderr, "(?i)tls|ssl|https")
        self.assertLess(time.monotonic() - began, 10)

    def test_download_limit(self):
        """p2p.download_limit is for all downloads of the node together."""
        reg = self.registry()
        one = reg.add("demo/limited:v1", random_layers(4, MIB))
        self.daemon(plain(reg.host), extra="p2p: {download_limit: 1MiB}\n")
        began = time.monotonic()
        done = self.ok(reg.ref("demo/limited:v1"))
        self.assertLessEqual(set(one["layers"]), set(done.blobs))
        # A quarter of a second's bytes may come at once.
        self.assertGreater(time.monotonic() - began, 3)

    def test_proxy(self):
        """A registry that only the proxy of the environment can reach; no_proxy is for who is reached without."""
        reg = self.registry()
        with WebProxy("registry.invalid:5000", reg.host) as proxy:
            self.daemon(plain("registry.invalid:5000", reg.host), env={"http_proxy": proxy.url, "no_proxy": "127.0.0.1"})
            done = self.ok("registry.invalid:5000/demo/small:v1")
            self.assertEqual(set(done.blobs), digests("demo/small:v1"))
            asked = list(proxy.asked)
            self.assertIn(("GET", f"/v2/demo/small/blobs/{image('demo/small:v1')['layers'][0]}"), asked)
            self.ok(reg.ref("demo/mid:v1"))
            self.assertEqual(proxy.asked, asked)
        self.assert_clean()

    def htpasswd(self, user, password):
        path = self.folder / "htpasswd"
        path.write_text(f"{user}:{crypt.crypt(password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))}\n")
        return {"htpasswd": {"realm": "tests", "path": str(path)}}

    def test_basic(self):
        """A name and a password: none, a wrong one, from docker_config, from standard input; seen nowhere."""
        user, good, wrong = "ci-robot", "Correct-Horse-7", "Wrong-Staple-9"
        reg = self.registry(auth=self.htpasswd(user, good))
        config = self.folder / "docker.json"
        self.daemon(plain(reg.host), docker_config=config)
        ref, other = reg.ref("demo/small:v1"), reg.ref("demo/mid:v1")
        write_docker_config(config, **{"elsewhere.example": (user, good)})
        self.failing(ref, says=[reg.host, "no credentials are configured"])
        self.failing(ref, "--username", user, "--password-stdin", says="401", stdin=wrong + "\n")
        self.assertEqual(self.held(), set())
        self.ok(ref, "--username", user, "--password-stdin", stdin=good + "\n")
        say("the login was for that job alone")
        self.failing(other, says="no credentials are configured")
        write_docker_config(config, **{reg.host: (user, good)})
        self.ok(other)
        self.assert_clean(good, wrong)

    def test_one_login_for_two_registries(self):
        """A login is for one registry: with references of two, whose would it be?"""
        with ScriptedRegistry() as thief:
            theirs = thief.image("their/app:v1", random_layers(3))
            basic = thief.status(401, {"WWW-Authenticate": 'Basic realm="give it to me"'})
            for name in ("v1", *theirs.blobs):
                for method in ("GET", "HEAD"):
                    thief.always(method, name, lambda h: basic(h))
            reg = self.registry(auth=self.htpasswd("ci", "Only-For-Ours-1"))
            self.daemon(plain(reg.host, thief.host))
            done = self.tool.run("preheat", reg.ref("demo/small:v1"), theirs.ref, "--username", "ci",
                                 "--password-stdin", stdin="Only-For-Ours-1\n")
            self.assertEqual([a for a in thief.requests() if "Authorization" in a.headers], [])
            self.assertEqual(done.returncode, 1)
            self.assertIn("login", done.stderr)
            self.assertIn(thief.host, done.stderr)

    def test_bearer(self):
        """Tokens that live for two seconds, in a job that takes longer; and a refresh token in place of a password."""
        certs = Certificates(self.folder / "certs")
        tokens = self.enter(TokenServer(certs, "ci", "Pass-For-Tokens-3", "Refresh-Me-5", lives=2, says=300))
        reg = self.registry(auth=tokens.auth())
        reg.add("priv/many:v1", random_layers(30, 100000))
        config = self.folder / "docker.json"
        write_docker_config(config, **{reg.host: ("ci", "Pass-For-Tokens-3")})
        front = self.enter(SlowFront(reg, 0.4))
        write_docker_config(config, **{front.host: ("ci", "Pass-For-Tokens-3")})
        self.daemon(plain(front.host), docker_config=config)
        done = self.ok(front.ref("priv/many:v1"))
        self.assertEqual(done.job["bytes"]["fetched"], done.job["bytes"]["total"])
        say(len(tokens.issued), "tokens")
        self.assertGreater(len(tokens.issued), 4, "four workers, and each was refused at least once")
        self.assertEqual({tuple(scopes) for _, scopes in tokens.asked}, {("repository:priv/many:pull",)})
        self.assertIn(401, [r.status for r in reg.requests() if r.kind == "blobs"], "a token ended in mid-job")
        self.assert_no_secret("Pass-For-Tokens-3", *tokens.issued)
        say("a refresh token")
        self.reconfigure(hosts=plain(front.host))
        tokens.asked.clear()
        self.failing(front.ref("demo/small:v1"), says="401")
        self.ok(front.ref("demo/small:v1"), "--identity-token-stdin", stdin="Refresh-Me-5\n")
        self.assertIn("POST", {method for method, _ in tokens.asked})
        self.assert_clean("Refresh-Me-5", *tokens.issued)

    def test_large_layer(self):
        """200 MiB: what is told of it only grows, often enough for a bar, and the bar is there."""
        reg = self.registry()
        reg.add("big/one:v1", [os.urandom(200 * MIB)])
        reg.add("big/two:v1", [os.urandom(200 * MIB)])
        r = self.enter(ScriptedRegistry())
        one = r.image("big/half:v1", [os.urandom(50 * MIB)])
        self.daemon(plain(reg.host, r.host))
        gate = r.hold("GET", one.layers[0], after=20 * MIB)
        job = self.detach(one.ref)

        def halfway():
            return (self.show(job).blobs.get(one.layers[0]) or {}).get("done") == 20 * MIB
        wait_for("what was sent to be told", lambda: gate.reached.is_set() and halfway())
        wait_for("the others to be through", lambda: self.show(job).job["blobs"]["done"] == 2)
        shown = self.show(job)
        self.assertEqual(shown.job["bytes"]["total"], sum(len(r.blobs[d]) for d in one.blobs))
        self.assertGreater(shown.job["bytes"]["done"], 20 * MIB)
        self.assertEqual(shown.job["blobs"], {"done": 2, "total": 3})
        gate.open()
        self.await_job(job, "succeeded")
        done = self.ok(reg.ref("big/one:v1"))
        told = [line["bytes"]["done"] for line in done.lines if line["type"] == "job"]
        self.assertEqual(told, sorted(told))
        self.assertGreaterEqual(len(set(told)), 3)
        self.assertGreaterEqual(told[-1], 200 * MIB)
        self.assertEqual(done.job["bytes"]["fetched"], done.job["bytes"]["total"])
        status, text = self.tool.terminal("preheat", reg.ref("big/two:v1"))
        self.assertEqual(status, 0, text[-2000:])
        self.assertRegex(text, r"\[=+>? *\] +\d+%  [\d.]+ MiB of 200\.0 MiB")
        self.assertRegex(text, r"succeeded: 1 of 1 images, 3 of 3 blobs, 200\.0 MiB are here; 200\.0 MiB of that "
                               r"came from registries, in \d+ s\n$")


class SlowFront(ScriptedRegistry):
    """Before a docker-registry: each blob comes after a pause of so many seconds; all headers pass."""

    def __init__(self, registry, pause):
        super().__init__()
        self.registry, self.pause = registry, pause

    def answer(self, handler, **_):
        import http.client  # pylint: disable=import-outside-toplevel
        if "/blobs/" in handler.path:
            time.sleep(self.pause)
        upstream = http.client.HTTPConnection("127.0.0.1", self.registry.port, timeout=60)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection")}
        upstream.request(handler.command, handler.path, headers=headers)
        response = upstream.getresponse()
        body = response.read()
        self.send(handler, response.status, {k: v for k, v in response.getheaders() if k.lower() not in (
            "connection", "transfer-encoding", "date", "server")}, body)
        upstream.close()


class Pulls(PreheatCase):
    """What is preheated, as containerd finds it."""

    def world(self, gc="interval: 1h, keep_storage: 0s, keep_versions: 0", p2p=PATIENT, extra="", **options):
        def lines(w):
            return self.lines(plain(w.registry.host, *([w.front.host] if w.front else [])), gc, p2p + extra)
        self.w = self.enter(World(self.folder, extra=lines, **options))
        self.cairnd = self.w.cairnd
        self.tool = Cairnctl(self.w.cairnd.socket, self.folder)
        return self.w

    def scripted(self, *names, **options):
        """A world whose front is a scripted registry with these images."""
        w = self.world(front=ScriptedRegistry, **options)
        w.front.demo(*names)
        return w

    def test_then_pull(self):
        """After a preheat, ctr and CRI ask for the tag and nothing else; the container runs."""
        w = self.world(cri=True)
        ref, small = w.registry.ref("demo/app:v1"), w.registry.ref("demo/small:v1")
        self.ok(ref, small)
        self.assertEqual(self.client().listed(), set(), "containerd does not know yet")
        w.registry.requests()
        w.containerd.pull(ref)
        self.assertEqual([(r.method, r.name) for r in w.registry.requests()], [("HEAD", "v1")])
        w.containerd.whole(ref, "v1")
        w.containerd.cri.pull(small)
        self.assertEqual([(r.method, r.name) for r in w.registry.requests()], [("HEAD", "v1")])
        w.containerd.whole(small, "v1", ns="k8s.io")
        self.assertLessEqual(digests("demo/app:v1"), self.client().listed())
        say("what a pull got, a preheat does not get again")
        mid = w.registry.ref("demo/mid:v1")
        w.containerd.pull(mid)
        w.registry.requests()
        self.ok(mid)
        self.assertEqual([(r.method, r.name) for r in w.registry.requests()], [("HEAD", "v1")])
        self.assert_clean()

    def client(self):
        return self.cairnd.client()

    def waiting_pull(self, w, name):
        """A preheat halts in the last layer of the image, and a pull of the same has come to wait for it:
        (job, pull, layer, gate)."""
        layer = image(name)["layers"][-1]
        gate = w.front.hold("GET", layer, after=100000, agent="cairn")
        w.front.forget()
        job = self.detach(w.front.ref(name))
        self.assertTrue(gate.reached.wait(20))
        wait_for("the other blobs", lambda: len(self.held()) >= len(digests(name)) - 1)
        pull = w.containerd.start_pull(w.front.ref(name))
        wait_for("the pull", lambda: any(layer in s.ref for s in self.client().statuses()))
        return job, pull, layer, gate

    def end_well(self, w, name, pull):
        self.assertEqual(pull.wait(60), 0, pull.log_text())
        w.containerd.whole(w.front.ref(name), image(name)["version"])

    def forget_all(self, w, name):
        w.front.relent()
        w.containerd.remove(w.front.ref(name))
        wait_for("nothing to be held", lambda: self.tool.run("gc").returncode == 0 and not self.held())

    def test_pull_meets_preheat(self):
        """A pull waits for the preheat of the same image, and downloads nothing; when that is cancelled, the
        pull goes on by itself."""
        w = self.scripted("demo/mid:v1")
        name = "demo/mid:v1"
        say("waits")
        job, pull, layer, gate = self.waiting_pull(w, name)
        self.assertTrue(pull.alive())
        self.assertEqual(w.front.gets(agent="containerd"), [])
        gate.open()
        self.end_well(w, name, pull)
        self.assertEqual(self.await_job(job).state, "succeeded")
        self.assertEqual(w.front.gets(agent="containerd"), [])
        self.assertEqual(len(w.front.gets(name=layer)), 1)
        self.forget_all(w, name)

        say("cancelled")
        job, pull, layer, gate = self.waiting_pull(w, name)
        self.assertEqual(w.front.gets(agent="containerd"), [])
        self.assertEqual(self.tool.ok("cancel", job), job + "\n")
        self.end_well(w, name, pull)
        self.await_job(job, "cancelled")
        self.assertEqual([a.name for a in w.front.gets(agent="containerd")], [layer])
        self.forget_all(w, name)

        self.assert_clean()

    def test_preheat_fails_under_a_pull(self):
        """The blob cannot be had: the preheat names it, and the pull that waited gets it itself."""
        w = self.scripted("demo/mid:v1")
        name, layer = "demo/mid:v1", image("demo/mid:v1")["layers"][-1]
        gate = w.front.hold("HEAD", "nothing")
        held = w.front.status(404)

        def step(handler):
            if "containerd" in handler.headers.get("User-Agent", ""):
                return w.front.answer(handler)
            gate.reached.set()
            gate.opened.wait()
            return held(handler)
        w.front.always("GET", layer, step)
        job = self.detach(w.front.ref(name))
        self.assertTrue(gate.reached.wait(20))
        pull = w.containerd.start_pull(w.front.ref(name))
        wait_for("the pull", lambda: any(layer in s.ref for s in self.client().statuses()))
        gate.open()
        self.end_well(w, name, pull)
        outcome = self.await_job(job)
        self.assertIn(outcome.state, ("failed", "succeeded"), "it may have found the pull's")
        self.assertEqual([a.name for a in w.front.gets(agent="containerd") if a.name == layer], [layer])

    def test_preheat_stalls_under_a_pull(self):
        """p2p.stall: the pull does not wait for what does not come; nor for what was always too slow."""
        w = self.scripted("demo/mid:v1", p2p="p2p: {stall: 1s}\n")
        name = "demo/mid:v1"
        job, pull, layer, gate = self.waiting_pull(w, name)
        began = time.monotonic()
        self.end_well(w, name, pull)
        self.assertLess(time.monotonic() - began, 15)
        self.assertFalse(gate.opened.is_set())
        self.assertIn(layer, [a.name for a in w.front.gets(agent="containerd")])
        gate.open()
        self.assertEqual(self.await_job(job).state, "succeeded")
        self.assert_clean()

    def test_preheat_is_slow_under_a_pull(self):
        """p2p.min_rate: bytes come all the time, but too few of them: the pull goes on by itself."""
        w = self.scripted("demo/mid:v1", p2p="p2p: {stall: 60s, min_rate: 400KiB}\n")
        layer = image("demo/mid:v1")["layers"][-1]
        w.front.always("GET", layer, w.front.drip(100000, agent="cairn"))
        job = self.detach(w.front.ref("demo/mid:v1"))
        wait_for("its bytes", lambda: (self.show(job).blobs.get(layer) or {}).get("done"))
        began = time.monotonic()
        w.containerd.pull(w.front.ref("demo/mid:v1"))
        self.assertLess(time.monotonic() - began, 25)
        self.assertEqual([a.name for a in w.front.gets(agent="containerd") if a.name == layer], [layer])
        w.containerd.whole(w.front.ref("demo/mid:v1"), "v1")
        w.front.relent()
        self.await_job(job, "succeeded")

    def test_pull_by_cri_meets_preheat(self):
        """kubelet's pull waits for the preheat, too, and downloads nothing."""
        w = self.scripted("demo/mid:v1", cri=True)
        layer = image("demo/mid:v1")["layers"][-1]
        gate = w.front.hold("GET", layer, after=100000, agent="cairn")
        job = self.detach(w.front.ref("demo/mid:v1"))
        self.assertTrue(gate.reached.wait(20))
        pull = w.containerd.cri.start_pull(w.front.ref("demo/mid:v1"))
        wait_for("the pull", lambda: any(layer in s.ref for s in self.client().statuses()))
        self.assertFalse(pull.done())
        gate.open()
        pull.result()
        self.await_job(job, "succeeded")
        self.assertEqual([a for a in w.front.gets(agent="containerd") if a.name == layer], [])
        w.containerd.whole(w.front.ref("demo/mid:v1"), "v1", ns="k8s.io")

    def test_without_waiting(self):
        """containerd.swarm_wait: false: the pull downloads for itself at once."""
        w = self.scripted("demo/mid:v1")
        w.cairnd.stop()
        path = w.cairnd.folder / "cairn.yaml"
        path.write_text(path.read_text().replace("containerd: {", "containerd: {swarm_wait: false, "))
        w.cairnd.start()
        layer = image("demo/mid:v1")["layers"][-1]
        gate = w.front.hold("GET", layer, after=1000, agent="cairn")
        job = self.detach(w.front.ref("demo/mid:v1"))
        self.assertTrue(gate.reached.wait(20))
        w.containerd.pull(w.front.ref("demo/mid:v1"))
        self.assertIn(layer, [a.name for a in w.front.gets(agent="containerd")])
        gate.open()
        self.await_job(job, "succeeded")
        w.containerd.whole(w.front.ref("demo/mid:v1"), "v1")

    def test_preheat_meets_pull(self):
        """A preheat that comes while a pull runs takes what that gets, and downloads no blob twice."""
        w = self.scripted("demo/mid:v1")
        layer = image("demo/mid:v1")["layers"][-1]
        gate = w.front.hold("GET", layer, after=MIB)
        pull = w.containerd.start_pull(w.front.ref("demo/mid:v1"))
        self.assertTrue(gate.reached.wait(20))
        job = self.detach(w.front.ref("demo/mid:v1"))
        wait_for("the preheat to follow it", lambda: (self.show(job).blobs.get(layer) or {}).get("source") == "pull")
        gate.open()
        self.end_well(w, "demo/mid:v1", pull)
        self.await_job(job, "succeeded")
        twice = {n: c for n, c in collections.Counter(a.name for a in w.front.gets()).items() if c > 1}
        self.assertEqual(twice, {})
        self.assertEqual([a.agent for a in w.front.gets(name=layer)], ["containerd"])

    def test_no_circle(self):
        """A pull that opened its stream, and a preheat that finds it: they do not wait for each other."""
        r = self.enter(ScriptedRegistry())
        one = r.image("team/app:v1", random_layers(1, MIB))
        self.daemon(plain(r.host), extra=PATIENT)
        with self.client() as client, client.write(timeout=60) as writer:
            writer.stat(ref=f"k8s.io/1/layer-{one.layers[0]}", total=MIB)
            job = self.detach(one.ref)
            wait_for("the preheat to find it", lambda: (self.show(job).blobs.get(one.layers[0]) or {}).get(
                "source") == "pull")
            began = time.monotonic()
            self.assertEqual(writer.stat().offset, 0)
            self.assertLess(time.monotonic() - began, 15, "there was nothing to wait for")
            writer.data(r.blobs[one.layers[0]], 0)
            writer.commit(one.layers[0], MIB, MIB)
        self.await_job(job, "succeeded")
        self.assertEqual(r.gets(name=one.layers[0]), [])

    def test_namespaces(self):
        """containerd.sharing: namespace: a job for a serves the pulls of a, and not those of b."""
        r = self.enter(ScriptedRegistry())
        one, two = r.image("team/app:v1", random_layers(2)), r.image("team/app:v2", random_layers(2))
        self.daemon(plain(r.host))
        self.cairnd.stop()
        path = self.cairnd.folder / "cairn.yaml"
        path.write_text(path.read_text().replace("containerd: {", "containerd: {sharing: namespace, "))
        self.cairnd.start()
        self.ok(one.ref, "--namespace", "a", "--namespace", "c")
        self.ok(two.ref)

        def at_once(namespace, digest, size=2000):
            with self.client() as client, client.write() as writer:
                return writer.stat(ref=f"{namespace}/7/layer-{digest}", total=size).offset == size
        for namespace, expected in (("a", True), ("b", False), ("c", True), ("k8s.io", False)):
            for layer in one.layers:
                self.assertEqual(at_once(namespace, layer), expected, namespace)
        self.assertTrue(at_once("k8s.io", two.layers[0]))
        self.assertFalse(at_once("a", two.layers[0]))
        say("what is here already is noted for one more namespace")
        r.forget()
        self.ok(one.ref, "--namespace", "b")
        self.assertEqual(r.gets(), [])
        self.assertTrue(at_once("b", one.layers[0]))

    def test_platforms(self):
        """An index: ours by default, another, all; one that it lacks; and a single image of another sort."""
        r = self.enter(ScriptedRegistry())
        variants = r.index("team/multi:v1", {"amd64": random_layers(2), "arm64": random_layers(2)})
        ours, arm = variants["amd64"], variants["arm64"]
        alone = r.image("team/alone:v1", random_layers(1), architecture="arm64")
        self.daemon(plain(r.host))
        ref = r.ref("team/multi:v1")
        self.assertEqual(set(self.ok(ref).blobs), ours.blobs)
        self.assertEqual(self.held(), ours.blobs)
        outcome = self.failing(ref, "--platform", "linux/s390x", says="linux/s390x")
        self.assertIn("it offers: linux/amd64, linux/arm64", outcome.stderr)
        self.failing(ref, "--platform", "linux/amd64", "--platform", "linux/s390x", says="linux/s390x")
        self.failing(alone.ref, says=["linux/amd64", "linux/arm64"])
        self.assertFalse(set(alone.layers) & self.held())
        self.assertEqual(set(self.ok(alone.ref, "--platform", "linux/arm64").blobs), alone.blobs)
        self.assertEqual(set(self.ok(ref, "--platform", "linux/arm64").blobs), arm.blobs)
        r.forget()
        self.assertEqual(set(self.ok(ref, "--platform", "all").blobs), ours.blobs | arm.blobs)
        self.assertEqual(r.gets(), [])
        self.assertEqual(self.ok(ref, "--platform", "all").job["platforms"], ["all"])
        say("by digest")
        self.assertEqual(set(self.ok(r.ref(f"team/multi@{arm.manifest}"), "--platform", "linux/arm64").blobs),
                         arm.blobs - {arm.digest})
        self.assert_clean()


class Kept(PreheatCase):
    """What is preheated, as garbage collection sees it."""

    def test_moved_tag(self):
        """Two versions under one tag: both complete and kept, beside each other; a third lets the first go."""
        r = self.enter(ScriptedRegistry())
        shared = random_layers(1)
        versions = []
        self.daemon(plain(r.host), gc="interval: 1h, keep_storage: 0s, keep_versions: 2")
        for number in range(3):
            versions.append(r.image("team/app:live", shared + random_layers(1)))
            r.forget()
            self.ok(r.ref("team/app:live"))
            self.assertNotIn(versions[0].layers[0], [a.name for a in r.gets()] if number else [])
            told = self.tool.json("versions", r.ref("team/app:live"))
            self.assertEqual([t["digest"] for t in told], [v.digest for v in reversed(versions)])
            self.assertTrue(all(t["complete"] for t in told), told)
            self.assertEqual([t["kept"] for t in told], [True, True, False][:number + 1])
        self.tool.ok("gc")
        self.assertEqual(self.held(), versions[1].blobs | versions[2].blobs)
        status, text = self.tool.terminal("versions", r.ref("team/app:live"))
        self.assertEqual(status, 0)
        say(text)
        self.assertRegex(text, "ready")
        self.assert_clean()

    def test_keep_for(self):
        """--keep-for is a pin, and ends by time; without it, keep_storage is all there is."""
        r = self.enter(ScriptedRegistry())
        long, short, none = [r.image(f"team/{name}:v1", random_layers(2)) for name in ("long", "short", "none")]
        self.daemon(plain(r.host), gc="interval: 1h, keep_storage: 0s, keep_versions: 0")
        self.ok(long.ref, "--keep-for", "1h")
        self.ok(none.ref)
        decisions, _ = self.dry_run()
        for digest in long.blobs:
            self.assertEqual((decisions[digest]["evict"], decisions[digest]["why"]), (False, "pin"))
        for digest in none.blobs:
            self.assertTrue(decisions[digest]["evict"])
        self.tool.ok("gc")
        self.assertEqual(self.held(), long.blobs)
        began = time.monotonic()
        self.ok(short.ref, "--keep-for", "5s")
        wait_for("the pin to end", lambda: self.tool.run("gc").returncode == 0 and self.held() == long.blobs, 30)
        self.assertGreater(time.monotonic() - began, 4.9)

    def test_garbage_is_collected_meanwhile(self):
        """What a job got already is not garbage while the job runs, and what it found here neither."""
        r = self.enter(ScriptedRegistry())
        one = r.image("team/app:v1", random_layers(3, 50000))
        self.daemon(plain(r.host), gc="interval: 1h, keep_storage: 0s, keep_versions: 0")
        gate = r.hold("GET", one.layers[2], after=1000)
        job = self.detach(one.ref, "--keep-for", "1h")
        self.assertTrue(gate.reached.wait(20))
        wait_for("the others", lambda: one.blobs - {one.layers[2]} <= self.held())
        self.tool.ok("gc")
        self.assertEqual(self.held(), one.blobs - {one.layers[2]})
        self.assertEqual({row["why"] for row in self.rows().values()}, {"busy"})
        gate.open()
        self.await_job(job, "succeeded")
        self.tool.ok("gc")
        self.assertEqual(self.held(), one.blobs)
        self.assertEqual({row["why"] for row in self.rows().values()}, {"pin"})
        say("one that is cancelled lets go")
        two = r.image("team/app:v2", random_layers(2, 50000))
        gate = r.hold("GET", two.layers[1], after=1000)
        job = self.detach(two.ref)
        self.assertTrue(gate.reached.wait(20))
        wait_for("the other", lambda: two.layers[0] in self.held())
        self.tool.ok("cancel", job)
        self.await_job(job, "cancelled")
        self.tool.ok("gc")
        self.assertEqual(self.held(), one.blobs)

    def test_unpulled_and_containerd_away(self):
        """Blobs that nobody pulled go after keep_storage, though containerd does not answer."""
        r = self.enter(ScriptedRegistry())
        one = r.image("team/app:v1", random_layers(2))
        self.daemon(plain(r.host), gc="interval: 1h, keep_storage: 12h, keep_versions: 0",
                    containerd=self.folder / "nobody.sock")
        began = time.monotonic()
        self.ok(one.ref)
        done = self.tool.json("gc")
        self.assertFalse(done[-1]["sure"])
        self.assertEqual(self.held(), one.blobs, "it is young")
        self.change("keep_storage: 12h", "keep_storage: 4s", self.cairnd)
        wait_for("it to go", lambda: self.tool.run("gc").returncode == 0 and not self.held(), 30)
        self.assertGreater(time.monotonic() - began, 3.9)
        self.assert_no_leak_here()

    def assert_no_leak_here(self):
        self.assertEqual([p for p in (self.cairnd.state / "blobs").rglob("*") if p.is_file()], [])


class Jobs(PreheatCase):
    def halted(self, count=1):
        """That many jobs that run and halt: (ids, gate)."""
        jobs, gates = [], []
        for number in range(count):
            one = self.r.image(f"halt/app{len(self.r.gates)}:v1", random_layers(2, 50000))
            gates.append(self.r.hold("GET", one.layers[0], after=1000))
            jobs.append(self.detach(one.ref))
            self.assertTrue(gates[-1].reached.wait(20), number)
        return jobs, gates

    def begin(self):
        self.r = self.enter(ScriptedRegistry())
        self.daemon(plain(self.r.host))

    def test_queue(self):
        """Two run, the others wait: by priority, then by age. List, show, cancel (queued and running)."""
        self.begin()
        (first, second), gates = self.halted(2)
        order = {}
        for name, priority in (("a", 0), ("b", -5), ("c", 70), ("d", 0), ("e", 70), ("gone", 100)):
            one = self.r.image(f"queue/{name}:v1", random_layers(1))
            order[self.detach(one.ref, "--priority", priority)] = name
        ids = {name: job for job, name in order.items()}
        listed = self.tool.json("jobs")
        self.assertEqual([j["id"] for j in listed], [*reversed(order), second, first], "newest first")
        self.assertEqual({j["state"] for j in listed[:-2]}, {"queued"})
        self.assertEqual({j["state"] for j in listed[-2:]}, {"running"})
        self.assertEqual(self.show(ids["c"]).job["priority"], 70)
        fields = self.tool.fields("jobs")
        self.assertEqual([f[:2] for f in fields[-2:]], [[second, "running"], [first, "running"]])
        say("cancel one that waits, and one that runs")
        self.assertEqual(self.tool.ok("cancel", ids["gone"]), ids["gone"] + "\n")
        self.await_job(ids["gone"], "cancelled")
        done = self.tool.run("cancel", ids["gone"])
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("was over already", done.stderr)
        gates[1].open()
        self.await_job(second, "succeeded")
        for name in "abcde":
            self.await_job(ids[name], "succeeded")
        heads = [a.path.split("/")[3] for a in self.r.requests(method="HEAD") if "/queue/" in a.path]
        self.assertEqual(heads, ["c", "e", "a", "d", "b"])
        began = time.monotonic()
        self.tool.ok("cancel", first)
        outcome = self.await_job(first, "cancelled")
        self.assertLess(time.monotonic() - began, 15)
        self.assertEqual({i["state"] for i in outcome.images.values()}, {"cancelled"})
        self.assert_clean()

    def test_watch_and_interrupt(self):
        """--watch follows, and its Ctrl-C ends the watching; Ctrl-C of the one who asked ends the job."""
        self.begin()
        (job,), (gate,) = self.halted()
        status, text = self.tool.terminal("jobs", job, "--watch", type_after=(" of ", "\x03"))
        self.assertEqual(status, 1, text)
        self.assertIn(f"interrupted; job {job} goes on", text)
        self.assertEqual(self.state(job), "running")
        watching = Cairnctl(self.cairnd.socket, self.folder)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            watched = pool.submit(watching.run, "jobs", job, "--watch")
            gate.open()
            done = watched.result(20)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"job\t{job}\tsucceeded\t", done.stdout)
        self.assertEqual(self.tool.run("jobs", job, "--watch").returncode, 0, "that was over")
        say("Ctrl-C cancels")
        one = self.r.image("halt/mine:v1", random_layers(2, 50000))
        gate = self.r.hold("GET", one.layers[0], after=1000)
        mine = self.start_preheat(one.ref)
        self.assertTrue(gate.reached.wait(20))
        job = self.tool.json("jobs")[0]["id"]
        mine.signal(signal.SIGINT)
        self.assertNotEqual(mine.wait(10), 0)
        self.assertIn(f"interrupted; cairnd cancels job {job}", mine.log_text())
        self.await_job(job, "cancelled")
        say("and so does its death")
        gate = self.r.hold("GET", one.layers[0], after=2000)
        mine = self.start_preheat(one.ref)
        self.assertTrue(gate.reached.wait(20))
        job = self.tool.json("jobs")[0]["id"]
        mine.kill()
        self.await_job(job, "cancelled")
        gate.open()
        self.r.relent()
        self.ok(one.ref)
        self.assert_clean()

    def test_history(self):
        """Jobs that are over are remembered, but not without bound; after a restart, too."""
        self.begin()
        one = self.r.image("team/app:v1", random_layers(1))
        ids = [self.submit(one.ref).id for _ in range(120)]
        wait_for("all to be over", lambda: all(j["state"] in ("succeeded",) for j in self.tool.json("jobs")), 180)
        wait_for("the oldest to be forgotten", lambda: len(self.tool.json("jobs")) <= 100)
        listed = [j["id"] for j in self.tool.json("jobs")]
        self.assertEqual(listed, list(reversed(ids))[:len(listed)])
        self.assertEqual(len(listed), 100)
        wait_for("the files of the others to go",
                 lambda: {p.name for p in (self.cairnd.state / "jobs").iterdir()} == set(listed))
        self.assertEqual(self.tool.run("jobs", ids[0]).returncode, 1)
        self.cairnd.restart()
        self.assertEqual([j["id"] for j in self.tool.json("jobs")], listed)
        self.assertEqual(self.show(listed[0]).images[one.ref]["digest"], one.digest)

    def refused(self, code, *says, **request):
        request = {"references": ["reg.example/team/app:v1"], **request}
        try:
            job = self.submit(**request)
        except grpc.RpcError as error:
            self.assertEqual(error.code(), code, request)
            for text in says:
                self.assertIn(text, error.details(), request)
            return error.details()
        return self.fail(f"{request} was taken: {job}")

    def test_bad_input(self):
        """What is wrong is InvalidArgument, which names the argument and what is allowed; no job comes of it."""
        self.begin()
        bad = grpc.StatusCode.INVALID_ARGUMENT
        good = "reg.example/team/app:v1"
        for reference, says in (
                ("", "reference 2"), ("Reg.example/UPPER/app:v1", "reference 2"), ("reg.example/app:", "reference 2"),
                ("reg.example/app@sha256:12", "reference 2"), ("reg.example/a b", "reference 2"),
                ("reg.example/app:" + "x" * 200, "reference 2"), ("a" * 5000, "reference 2"),
                ("https://reg.example/team/app:v1", "URL"), ("reg.example/../app", "reference 2"),
                ("user:hunter2@reg.example/app", "reference 2"), ("reg.example:port/app", "reference 2")):
            details = self.refused(bad, says, references=[good, reference])
            self.assertNotIn("hunter2", details)
        details = self.refused(bad, "reference 1", references=["reg.example/team/app:v1!"])
        self.assertRegex(details, r"character|byte|position|\d+", "where")
        self.refused(bad, "0 references", "1 to 1000", references=[])
        self.refused(bad, "1001 references", "1 to 1000", references=[f"reg.example/a:{n}" for n in range(1001)])
        for platform in ("linux/", "/amd64", "linux/amd64/v8/x", "lin ux/amd64", "", "x" * 300 + "/y"):
            self.refused(bad, "platform", platforms=[platform])
        self.refused(bad, "33 platforms", "32", platforms=["linux/amd64"] * 33)
        for priority in (-101, 101, 2**31 - 1, -2**31):
            self.refused(bad, f"priority is {priority}", "-100 to 100", priority=priority)
        for seconds in (-1, 3650 * 86400 + 1, 2**63 - 1):
            self.refused(bad, f"keep_for_seconds is {seconds}", "0 to 315360000", keep_for_seconds=seconds)
        self.refused(bad, "namespace", "1 to", namespaces=[""])
        self.refused(bad, "namespace", "1 to", namespaces=["n" * 300])
        self.refused(bad, "65 namespaces", "64", namespaces=["n"] * 65)
        digest = "sha256:" + "0" * 64
        for request in ({"references": [good]}, {"references": [f"{good}@{digest}"] * 2},
                        {"references": [f"{good}@{digest}"], "keep_for_seconds": 1}):
            self.refused(bad, "repair is for one reference that has a digest", repair=digest, **request)
        self.refused(bad, "repair", references=[f"{good}@{digest}"], repair="sha256:0")
        self.refused(bad, "login", login=cairn_pb2.Login(username="u" * 5000, password="hunter2"))
        self.assertEqual(self.tool.json("jobs"), [])
        say("by the tool")
        for args, says in ((["user:hunter2@reg.example/app"], "--password-stdin"), ([], "images"),
                           ([good, "--priority", "101"], "-100 to 100"), ([good, "--keep-for", "0s"], "1s to 3650d"),
                           ([good, "--platform", "linux"], "os/arch"), ([good, "--password", "hunter2"], "stdin"),
                           ([good, "--username", "x"], "belong together"), ([""], "empty")):
            done = self.tool.run("preheat", *args)
            self.assertEqual(done.returncode, 2, (args, done.stderr))
            self.assertIn(says, done.stderr)
            self.assertNotIn("hunter2", done.stderr)
        done = self.tool.run("preheat", "https://reg.example/app")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("URL", done.stderr)
        for args in (["jobs", "p-0000000000000000"], ["jobs", "../../x"], ["cancel", "p-1"]):
            done = self.tool.run(*args)
            self.assertEqual(done.returncode, 1, args)
            self.assertIn("there is no job", done.stderr)
        with self.cairnd.client() as client, self.assertRaises(grpc.RpcError) as caught:
            client.unary("CancelJob", cairn_pb2.CancelJobRequest(id="p-1"), cairn_pb2.CancelJobResponse,
                         "/cairn.v1.Cairn/")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assert_no_secret("hunter2")
        self.assertEqual(self.tool.json("jobs"), [])


if __name__ == "__main__":
    main()
