"""Admins of other machines: cairn's own service on the port for other nodes, for certificates that p2p.admins names."""
import contextlib
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Authority, Cairnctl, Cairnd, E2E, ScriptedRegistry, main, say, wait_for  # noqa: E402
from harness.content import cairn_pb2, content_pb2, health_pb2  # noqa: E402
from harness.process import free_port  # noqa: E402

CAIRN, HEALTH, CONTENT = "/cairn.v1.Cairn/", "/grpc.health.v1.Health/", "/containerd.services.content.v1.Content/"
FIELD = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))')
CALLERS, STRANGERS = 20, 4  # p2p/pool.h, cmd/cairnd_remote.h


class Remote:
    """cairnctl over the network."""

    def __init__(self, tool, node, cert, key, ca, name=None):
        self.tool = tool
        self.words = ["--address", node.address, "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca]
        self.words += ["--tls-server-name", name] if name else []

    def argv(self, *args):
        return [str(a) for a in (self.tool.argv()[0], *self.words, *args)]

    def run(self, *args):
        return subprocess.run(self.argv(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)

    def expect(self, status, *args):
        done = self.run(*args)
        if done.returncode != status:
            raise AssertionError(f"{args}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout if status == 0 else done.stderr


class Node:
    def __init__(self, case, name, peers=(), admins=("alice", "ops@example.org"), extra="", address=None,
                 drain="5s"):
        self.case, self.name, self.peers, self.extra = case, name, peers, extra
        self.address = address or f"127.0.0.1:{free_port()}"
        self.admins = list(admins)
        self.files = case.folder / f"{name}-tls"
        self.cert, self.key = case.authority.issue(name, ["127.0.0.1"], into=self.files)
        self.cairnd = Cairnd(case.folder / name, extra=self.lines(), drain=drain)
        case.enter(self.cairnd)
        self.local = Cairnctl(self.cairnd.socket, case.folder)

    def lines(self):
        peers = ", ".join(f'"{p}"' for p in self.peers)
        admins = ", ".join(f'"{a}"' for a in self.admins)
        return (f'node: {{name: {self.name}}}\np2p:\n  listen: "{self.address}"\n  peers: [{peers}]\n'
                f'  admins: [{admins}]\n  tls: {{ca: "{self.case.authority.ca}", cert: "{self.cert}", '
                f'key: "{self.key}"}}\n' + self.extra)

    def log(self):
        return self.cairnd.process.log_text()

    def audits(self, **want):
        """Lines of the audit as dictionaries, those with these values."""
        lines = [{key: quoted or plain for key, quoted, plain in FIELD.findall(line)}
                 for line in self.log().splitlines() if "ev=audit " in line]
        return [line for line in lines if all(line.get(k) == v for k, v in want.items())]

    def await_audits(self, count, **want):
        """So many lines, and no more. A line may be written after the client has its answer."""
        wait_for(f"{count} audit lines {want}", lambda: len(self.audits(**want)) >= count, 10)
        self.case.assertEqual(len(self.audits(**want)), count)

    def audit(self, **want):
        """The one line that has these values."""
        found = wait_for(f"an audit line {want}", lambda: self.audits(**want), 10)
        self.case.assertEqual(len(found), 1, found)
        return found[0]


class RemoteCase(E2E):
    def setUp(self):
        super().setUp()
        self.authority = Authority(self.folder / "ca")
        self.alice = self.authority.issue("alice")

    def remote(self, node, pair=None, ca=None, name=None):
        return Remote(node.local, node, *(pair or self.alice), ca or self.authority.ca, name)

    def channel(self, node, pair=None):
        cert, key = pair or self.alice
        creds = grpc.ssl_channel_credentials(self.authority.ca.read_bytes(), key.read_bytes(), cert.read_bytes())
        return self.enter(grpc.secure_channel(node.address, creds, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", node.name)]))

    def call(self, channel, path, request=b"", timeout=20, stream=False):
        """(status code, details)"""
        make = channel.unary_stream if stream else channel.unary_unary
        try:
            answer = make(path, request_serializer=lambda m: m, response_deserializer=lambda b: b)(
                request, timeout=timeout)
            return grpc.StatusCode.OK, list(answer) if stream else answer
        except grpc.RpcError as error:
            return error.code(), error.details()

    def tls(self, node, pair=None, alpn="h2"):
        """A connection without gRPC."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority.ca)
        context.load_cert_chain(*(pair or self.alice))
        context.set_alpn_protocols([alpn])
        host, port = node.address.rsplit(":", 1)
        sock = context.wrap_socket(socket.create_connection((host, int(port)), 10), server_hostname=node.name)
        self.enter(sock)
        return sock


class Admin(RemoteCase):
    """One who is named."""

    def test_verbs(self):
        """What cairnctl does on the socket, it does from elsewhere, and peers see nothing of it."""
        reg = self.enter(ScriptedRegistry())
        registries = f'registries: {{hosts: [{{host: "{reg.host}", plain_http: true}}]}}\n'
        at = f"127.0.0.1:{free_port()}"
        b = Node(self, "b", extra=registries, peers=[at])
        a = Node(self, "a", peers=[b.address], extra=registries, address=at)
        one = reg.image("team/app:v1", [os.urandom(100000)])
        remote = self.remote(a)
        self.assertIn(a.address, remote.expect(0, "status"))
        remote.expect(0, "preheat", one.ref)
        self.assertIn("succeeded", remote.expect(0, "jobs"))
        self.assertIn(one.digest[:19], remote.expect(0, "ls"))
        self.assertIn(one.ref, remote.expect(0, "versions"))
        remote.expect(0, "pin", one.ref)
        remote.expect(0, "gc", "--dry-run")
        remote.expect(0, "verify")
        self.assertIn("no job", remote.expect(1, "cancel", "0" * 16).lower())
        self.remote(a, name="a").expect(0, "status")
        say("what it leaves in the log")
        line = a.audit(who="alice", method="Preheat")
        self.assertIn(one.ref, line["what"])
        self.assertEqual(line["result"], "OK")
        self.assertTrue(line["from"].startswith("127.0.0.1:"), line)
        a.await_audits(2, who="alice", method="Status", result="OK")
        self.assertEqual(a.audit(method="CancelJob")["result"], "NotFound")
        self.assertIn("dry_run", a.audit(method="CollectGarbage")["what"])
        say("the local socket is in it, too")
        a.local.ok("unpin", one.ref)
        self.assertEqual(a.audit(who="local", method="Unpin")["from"], "socket")
        secret = ("preheat", one.ref, "--username", "ci", "--password-stdin")
        self.assertEqual(a.local.run(*secret, stdin="s3cr3t-word\n").returncode, 0)
        a.await_audits(1, who="local", method="Preheat")
        self.assertNotIn("s3cr3t-word", a.log())
        say("the other node gets the image from its peer")
        for n in (a, b):
            wait_for("the peers", lambda n=n: n.local.json("status")[0]["p2p"]["members"] == 2)
        wait_for("its blobs to be announced", lambda: a.local.json("status")[0]["p2p"]["announced"] == len(one.blobs))
        reg.sent.clear()
        self.remote(b).expect(0, "preheat", one.ref)
        self.assertEqual(reg.sent_of(set(one.layers)), 0)

    def test_other_names(self):
        """Any one name of the certificate may be the one that is named; it is compared as a whole."""
        node = Node(self, "a", admins=["ops@example.org", "10.1.2.3", "spiffe://c/admin", "dns.example"])
        pki = self.authority
        for at, (alt, who) in enumerate((("email:ops@example.org", "ops@example.org"), ("IP:10.1.2.3", "10.1.2.3"),
                                         ("URI:spiffe://c/admin", "spiffe://c/admin"),
                                         ("DNS:x,DNS:dns.example", "dns.example"),
                                         ("DNS:dns.example.org", None), ("DNS:*.example", None),
                                         ("DNS:DNS.EXAMPLE", None), ("otherName:1.2.3;UTF8:dns.example", None))):
            stem = f"n{at}"
            csr, cert, key, ext = (pki.folder / f"{stem}.{end}" for end in ("csr", "pem", "key", "ext"))
            pki.openssl("req", *pki.new_key(key), "-out", csr, "-subj", "/CN=somebody")
            ext.write_text(f"subjectAltName={alt}\nextendedKeyUsage=clientAuth\n")
            pki.openssl("x509", "-req", "-in", csr, "-CA", pki.ca, "-CAkey", pki.ca_key, "-set_serial",
                        f"0x{os.urandom(8).hex()}", "-out", cert, "-days", 2, "-extfile", ext)
            code, _ = self.call(self.channel(node, (cert, key)), HEALTH + "Check")
            self.assertEqual(code.name, "OK" if who else "PERMISSION_DENIED", alt)
            if who:
                node.audit(who=who, method=HEALTH + "Check")

    def test_reload(self):
        """SIGHUP reads the certificates again: old connections go on, new ones use the new ones."""
        node = Node(self, "a")
        channel = self.channel(node)
        self.assertEqual(self.call(channel, CAIRN + "Status")[0].name, "OK")
        other = Authority(self.folder / "other")
        both = self.authority.ca.read_bytes() + other.ca.read_bytes()
        self.authority.ca.write_bytes(both)
        node.cairnd.process.signal(signal.SIGHUP)
        wait_for("the reload", lambda: "ev=certificates_reloaded" in node.log())
        self.assertEqual(self.call(channel, CAIRN + "Status")[0].name, "OK")
        self.remote(node, pair=other.issue("alice")).expect(0, "status")

    def test_stop(self):
        """A call that runs when cairnd stops ends, and cairnd does."""
        node = Node(self, "a", drain="20s")
        watches = [self.channel(node).unary_stream(HEALTH + "Watch", lambda m: m, lambda b: b)(b"", timeout=20)
                   for _ in range(3)]
        for watch in watches:
            next(watch)
        begun = time.monotonic()
        node.cairnd.stop()
        for watch in watches:
            with contextlib.suppress(grpc.RpcError):
                list(watch)
        self.assertLess(time.monotonic() - begun, 18)
        self.assertEqual(len(node.audits(method=HEALTH + "Watch")), 3)

    def test_work_ends_with_who_asked_for_it(self):
        """A preheat whose admin goes away is cancelled; one that runs when cairnd stops ends in good order."""
        reg = self.enter(ScriptedRegistry())
        node = Node(self, "a", extra=f'registries: {{hosts: [{{host: "{reg.host}", plain_http: true}}]}}\n')
        for name in ("gone", "stop"):
            one = reg.image(f"team/{name}:v1", [os.urandom(100000)])
            gate = reg.hold("GET", one.layers[0], after=100)
            admin = subprocess.Popen(self.remote(node).argv("preheat", one.ref), stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE, text=True)
            self.assertTrue(gate.reached.wait(20))
            if name == "gone":
                admin.kill()
                wait_for("the job to be cancelled", lambda: "cancelled" in node.local.ok("jobs"))
            else:
                node.cairnd.stop()
            _, words = admin.communicate(timeout=20)
            gate.open()
            self.assertEqual(admin.returncode, -signal.SIGKILL if name == "gone" else 1, words)
        results = [line["result"] for line in node.audits(method="Preheat")]
        self.assertEqual(len(results), 2, results)
        self.assertNotIn("OK", results)


class Refused(RemoteCase):
    """All others, and what even an admin does not get."""

    def test_who_is_no_admin(self):
        node = Node(self, "a")
        own = self.authority.issue("b", ["127.0.0.1"])
        message = self.remote(node, pair=own).expect(1, "status")
        self.assertIn('"b"', message)
        self.assertIn("p2p.admins", message)
        channel = self.channel(node, own)
        for path in (CAIRN + "Status", CAIRN + "CollectGarbage", CONTENT + "Info", HEALTH + "Check", "/a/b"):
            code, words = self.call(channel, path)
            self.assertEqual(code.name, "PERMISSION_DENIED", path)
            self.assertIn("p2p.admins", words)
        self.assertEqual(node.audit(who="b", method="CollectGarbage")["result"], "PermissionDenied")
        channel.close()
        say("strangers' places are few, and not those of admins")
        silent = [self.tls(node, own) for _ in range(STRANGERS + 3)]
        wait_for("some to be refused", lambda: "connections of such are there already" in node.log())
        self.remote(node).expect(0, "status")
        for sock in silent:
            sock.close()
        say("many refused calls are not as many lines")
        wait_for("a place", lambda: self.remote(node, pair=own).run("status").stderr.count("p2p.admins") == 1)
        channel, before = self.channel(node, own), len(node.audits(who="b"))
        for _ in range(100):
            self.assertEqual(self.call(channel, CAIRN + "GetJob")[0].name, "PERMISSION_DENIED")
        self.assertLess(len(node.audits(who="b")) - before, 60)

    def test_what_is_not_there(self):
        """No content service, no files of the node; nothing without admins."""
        node = Node(self, "a")
        channel = self.channel(node)
        for method in ("Info", "Update", "List", "Delete", "Read", "Status", "ListStatuses", "Abort", "Write"):
            code, words = self.call(channel, CONTENT + method, content_pb2.InfoRequest().SerializeToString())
            self.assertEqual(code.name, "PERMISSION_DENIED", words)
            node.audit(who="alice", method=CONTENT + method, result="PermissionDenied")
        for verb in ("import", "export"):
            self.assertIn("on its socket only", self.remote(node).expect(1, verb, self.folder / "x"))
        self.assertFalse((self.folder / "x").exists())
        self.assertEqual(self.call(channel, CAIRN + "Nothing")[0].name, "UNIMPLEMENTED")
        big = cairn_pb2.ExplainRequest(digest="x" * (2 << 20)).SerializeToString()
        self.assertEqual(self.call(channel, CAIRN + "Explain", big)[0].name, "RESOURCE_EXHAUSTED")
        answer = self.call(channel, HEALTH + "Check", health_pb2.HealthCheckRequest().SerializeToString())
        self.assertEqual(answer[0].name, "OK")
        say("no admins, no HTTP/2")
        closed = Node(self, "b", admins=[])
        self.assertIn("p2p.admins is empty", self.remote(closed).expect(1, "status"))
        with self.assertRaises(ssl.SSLError):
            self.tls(closed).recv(1)

    def test_what_cairnctl_says(self):
        node = Node(self, "a")
        other = Authority(self.folder / "other", "strange CA")
        remote = self.remote
        for part, one in (("refuses the certificate", remote(node, pair=other.issue("alice"))),
                          ("its certificate is refused", remote(node, ca=other.ca)),
                          ("has expired", remote(node, pair=self.authority.issue("alice", expired=True))),
                          ("not the key of", remote(node, pair=(self.alice[0], self.authority.ca_key))),
                          ("No such file", remote(node, pair=(self.alice[0], self.folder / "none.key"))),
                          ("--tls-server-name a", remote(node, name="elsewhere"))):
            message = one.expect(1, "status")
            self.assertIn(part, message)
            self.assertLess(len(message), 400, message)
        tool, words = node.local, remote(node).words
        away = f"127.0.0.1:{free_port()}"
        message = Remote(tool, type("away", (), {"address": away}), *self.alice, self.authority.ca).expect(1, "gc")
        self.assertIn("Connection refused", message)
        self.assertIn(away, message)
        self.assertIn("no address is known", Remote(tool, type("away", (), {"address": "none.invalid:1"}), *self.alice,
                                                    self.authority.ca).expect(1, "jobs"))
        binary = tool.argv()[0]
        for part, argv in (("--tls-ca is missing", words[:6]), ("--tls-cert is missing", words[:2]),
                           ("with --address only", words[2:]), ("not both", [*words, "--socket", "/x"]),
                           ("host:port", ["--address", "nowhere", *words[2:]]),
                           ("host:port", ["--address", "a:99999", *words[2:]]),
                           ("host:port", ["--address", "fd00::1:7400", *words[2:]]),
                           ("with --address only", ["--tls-server-name", "a"])):
            done = subprocess.run([str(w) for w in (binary, *argv, "status")], stderr=subprocess.PIPE, text=True,
                                  timeout=20, check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(part, done.stderr)


class Hostile(RemoteCase):
    def test_those_who_say_nothing_or_nonsense(self):
        """They hold nobody up, and end."""
        b = Node(self, "b")
        node = Node(self, "a", peers=[b.address])
        wait_for("the peers", lambda: node.local.json("status")[0]["p2p"]["members"] == 2)
        before = node.cairnd.open_files()
        silent = self.tls(node)
        garbage = self.tls(node)
        with contextlib.suppress(OSError):  # it is closed before it is all sent
            garbage.sendall(os.urandom(100000))
        half = self.tls(node)
        half.sendall(b"PRI * HTTP/2.0\r\n")
        deaf = self.tls(node)  # asks, and reads nothing
        deaf.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        deaf.setblocking(False)
        with contextlib.suppress(OSError):
            for _ in range(2000):  # pings, each of which has an answer
                deaf.send((b"\0\0\x08\x06\0\0\0\0\0" + b"\0" * 8) * 400)
        raw = socket.create_connection(node.address.rsplit(":", 1), 10)
        self.enter(raw)
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        begun = time.monotonic()
        self.remote(node).expect(0, "status")
        self.assertLess(time.monotonic() - begun, 5)
        wait_for("the peers", lambda: node.local.json("status")[0]["p2p"]["members"] == 2)
        for name, sock in (("garbage", garbage), ("silent", silent)):
            sock.settimeout(15)
            try:
                while sock.recv(65536):
                    pass
            except TimeoutError:
                self.fail(f"{name} is not closed")
            except OSError:
                pass
        say("nothing of them stays", time.monotonic() - begun)
        for sock in (half, deaf):
            sock.close()
        raw.close()
        wait_for("descriptors to be closed", lambda: node.cairnd.open_files() <= before + 4, 10)

    def test_more_than_there_are_places(self):
        """Too many are refused; who leaves makes room; a peer is not among them. Callers are not confused."""
        node = Node(self, "a", admins=["alice", "carol"])
        pairs = {"alice": self.alice, "carol": self.authority.issue("carol"), "b": self.authority.issue("b")}
        held = [self.channel(node) for _ in range(CALLERS)]
        for channel in held:
            self.assertEqual(self.call(channel, HEALTH + "Check")[0].name, "OK")
        message = self.remote(node).expect(1, "status")
        self.assertIn("too many connections of admins", message)
        self.assertEqual(node.local.json("status")[0]["p2p"]["connections"]["in"], 0)
        for channel in held:
            channel.close()
        wait_for("room", lambda: self.remote(node).run("status").returncode == 0)
        say("many that come and go, with numbers of descriptors that are used again")
        wrong = []

        def come_and_go(name):
            cert, key = pairs[name]
            creds = grpc.ssl_channel_credentials(self.authority.ca.read_bytes(), key.read_bytes(), cert.read_bytes())
            for turn in range(15):
                with grpc.secure_channel(node.address, creds, options=[
                        ("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "a")]) as channel:
                    want = f"{name}-{turn}"
                    request = cairn_pb2.ExplainRequest(digest=want).SerializeToString()
                    code = self.call(channel, CAIRN + "Explain", request)[0].name
                    if (code == "PERMISSION_DENIED") != (name == "b"):
                        wrong.append((name, code))

        threads = [threading.Thread(target=come_and_go, args=(name,)) for name in ("alice", "b", "carol", "alice")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(wrong, [])
        lines = wait_for("their lines", lambda: (lambda found: found if len(found) >= 45 else None)(
            node.audits(method="Explain")))
        for line in lines:
            if line["who"] != "b":
                self.assertTrue(line["what"].startswith(line["who"] + "-"), line)


if __name__ == "__main__":
    main()
