"""cairnctl certs: an authority and certificates for a cluster that has no other."""
import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import E2E, Authority, Cairnctl, main, say, wait_for  # noqa: E402
from harness.swarm import MIB, SwarmCase  # noqa: E402


def openssl(*args, status=0):
    done = subprocess.run(["openssl", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, check=False)
    if done.returncode != status:
        raise AssertionError(f"openssl {args}: exit status {done.returncode}: {done.stdout}")
    return done.stdout


class Made:
    """As harness.Authority, but by cairnctl."""

    def __init__(self, folder, cairnctl):
        self.folder, self.cairnctl = folder, cairnctl
        self.ca = folder / "ca.pem"
        cairnctl.ok("certs", "init", "--dir", folder)

    def issue(self, name, addresses=(), into=None):
        ips = [word for address in addresses for word in ("--ip", address)]
        self.cairnctl.ok("certs", "issue", "--dir", self.folder, "--name", name, *ips, "--force")
        into.mkdir(parents=True, exist_ok=True)
        for end in ("key", "pem"):
            (into / ".new").write_bytes((self.folder / f"{name}.{end}").read_bytes())
            (into / ".new").rename(into / f"node.{end}")


class Files(E2E):
    """Without any daemon."""

    def setUp(self):
        super().setUp()
        self.cairnctl = Cairnctl(self.folder / "no-socket", self.folder)
        self.dir = self.folder / "pki"

    def files(self):
        return {path.name: path.read_bytes() for path in self.dir.iterdir()}

    def fails(self, status, message, *args):
        self.assertIn(message, self.cairnctl.expect(status, "certs", *args).stderr)

    def test_init_and_issue(self):
        made = self.cairnctl.json("certs", "init", "--dir", self.dir, "--name", "my cluster", "--days", 30)[0]
        self.assertEqual((made["name"], made["cert"], made["key"]),
                         ("my cluster", f"{self.dir}/ca.pem", f"{self.dir}/ca.key"))
        self.assertEqual(self.dir.stat().st_mode & 0o777, 0o700)
        out = self.folder / "out"
        out.mkdir()
        names = ("--dns", "node1.example", "--ip", "10.0.0.1", "--ip", "fd00::1")
        fields = dict(self.cairnctl.fields("certs", "issue", "--dir", "pki", "--name", "node1", *names, "--days", 29,
                                           "--out", "out"))
        self.assertEqual((fields["certificate"], fields["key"]), ("out/node1.pem", "out/node1.key"))
        self.assertEqual({path.name for path in out.iterdir()}, {"node1.pem", "node1.key"})  # nothing temporary
        for path in (self.dir / "ca.key", out / "node1.key"):
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        for purpose in ("sslserver", "sslclient"):
            openssl("verify", "-x509_strict", "-CAfile", self.dir / "ca.pem", "-purpose", purpose, out / "node1.pem")
        text = openssl("x509", "-in", out / "node1.pem", "-noout", "-text")
        for part in ("Subject: CN = node1\n", "Issuer: CN = my cluster\n", "prime256v1", "CA:FALSE",
                     "DNS:node1, DNS:node1.example, IP Address:10.0.0.1, IP Address:FD00:0:0:0:0:0:0:1\n"):
            self.assertIn(part, text)
        openssl("x509", "-in", out / "node1.pem", "-noout", "-checkend", 28 * 86400)
        self.assertEqual(openssl("x509", "-in", out / "node1.pem", "-noout", "-pubkey"),
                         openssl("pkey", "-in", out / "node1.key", "-pubout"))
        say("one of another authority is none of ours")
        other = Authority(self.folder / "other")
        openssl("verify", "-CAfile", other.ca, out / "node1.pem", status=2)

    def test_nothing_is_overwritten(self):
        self.cairnctl.ok("certs", "init", "--dir", self.dir)
        self.cairnctl.ok("certs", "issue", "--dir", self.dir, "--name", "node1")
        before = self.files()
        self.fails(1, "ca.key is there already: nothing was changed; choose another --dir", "init", "--dir", self.dir)
        issue = ("issue", "--dir", self.dir, "--name", "node1")
        self.fails(1, "node1.key is there already: nothing was changed; --force replaces it", *issue)
        (self.dir / "node1.key").unlink()
        self.fails(1, "node1.pem is there already", *issue)
        (self.dir / "node1.key").write_bytes(before["node1.key"])
        self.assertEqual(self.files(), before)
        self.cairnctl.ok("certs", *issue, "--force")
        after = self.files()
        self.assertEqual({name for name in after if after[name] != before[name]}, {"node1.pem", "node1.key"})
        openssl("verify", "-CAfile", self.dir / "ca.pem", self.dir / "node1.pem")

    def test_many_at_once(self):
        """Of those that all find nothing there, one wins; the others change nothing."""
        self.cairnctl.ok("certs", "init", "--dir", self.dir)
        argv = self.cairnctl.argv("certs", "issue", "--dir", self.dir, "--name", "node1")
        for _ in range(3):
            running = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(8)]
            self.assertEqual(sorted(process.wait(60) for process in running), [0] + [1] * 7)
            self.assertEqual(set(self.files()), {"ca.pem", "ca.key", "node1.pem", "node1.key"})
            self.assertEqual(openssl("x509", "-in", self.dir / "node1.pem", "-noout", "-pubkey"),
                             openssl("pkey", "-in", self.dir / "node1.key", "-pubout"))
            for end in ("pem", "key"):
                (self.dir / f"node1.{end}").unlink()

    def test_what_is_wrong_is_said(self):
        issue = ("issue", "--dir", self.dir, "--name", "node1")
        self.fails(1, f"there is no {self.dir}/ca.pem: make the authority with cairnctl certs init", *issue)
        self.cairnctl.ok("certs", "init", "--dir", self.dir, "--days", 10)
        self.fails(1, "not good for 11 days any more", *issue, "--days", 11)
        self.fails(1, "there/node1.key", *issue, "--days", 1, "--out", self.folder / "not-there")
        for message, words in (("--days is 1 to", ["--days", 0]), ("--days is 1 to", ["--days", "1d"]),
                               ("--days is 1 to", ["--days", "99999999999999999999"]),
                               ("not an IP address", ["--ip", "10.0.0"]),
                               ("not a host's name", ["--dns", "a,IP:1.2.3.4"]),
                               ("not a host's name", ["--dns", ""]), ("at most 64", ["--dns", "a"] * 65),
                               ("not \"../x\"", ["--name", "../x"]), ("cannot be called \"ca\"", ["--name", "ca"]),
                               ("not \"" + "a" * 65, ["--name", "a" * 65])):
            self.fails(2, message, *issue, *words)
        self.fails(2, "certs init, or certs issue?")
        self.fails(2, "not \"renew\"", "renew", "--dir", self.dir)
        self.fails(2, "needs --dir", "init")
        self.fails(2, "needs --name", "issue", "--dir", self.dir)
        self.fails(2, "printable", "init", "--dir", self.folder / "new", "--name", "a\nb")
        self.assertEqual(set(self.files()), {"ca.pem", "ca.key"})
        say("an authority's files that do not fit")
        good = self.files()
        other = Authority(self.folder / "other")
        (self.dir / "ca.key").write_bytes(other.ca_key.read_bytes())
        self.fails(1, "is not the key of the ca.pem beside it", *issue, "--days", 1)
        openssl("ec", "-aes128", "-passout", "pass:x", "-in", other.ca_key, "-out", self.dir / "ca.key")
        self.fails(1, "without a passphrase", *issue, "--days", 1)
        (self.dir / "ca.key").write_bytes(good["ca.key"])
        self.cairnctl.ok("certs", *issue, "--days", 1)
        (self.dir / "ca.pem").write_bytes((self.dir / "node1.pem").read_bytes())
        self.fails(1, "no certificate of an authority", *issue, "--days", 1, "--force")

    def test_the_document(self):
        """Its commands, in its order, as they are written."""
        top = pathlib.Path(__file__).resolve().parents[2]
        text = (top / "docs/certificates.md").read_text()
        commands = [line.strip() for line in text.splitlines() if line.startswith(("    cairnctl ", "    openssl "))]
        self.assertEqual(len(commands), 7)
        for command in commands:
            subprocess.run(["sh", "-ec", command], cwd=self.folder, check=True, timeout=60, stdout=subprocess.DEVNULL,
                           env={**os.environ, "PATH": f"{os.environ['CAIRN_BUILD']}:{os.environ['PATH']}"})
        self.assertEqual(set(self.files()), {f"{name}.{end}" for name in ("ca", "node1", "node2", "alice")
                                             for end in ("pem", "key")})

    def test_admin(self):
        """For clients only, under one name."""
        self.cairnctl.ok("certs", "init", "--dir", self.dir)
        self.cairnctl.ok("certs", "issue", "--dir", self.dir, "--name", "alice", "--admin")
        for purpose, status in (("sslclient", 0), ("sslserver", 2)):
            openssl("verify", "-x509_strict", "-CAfile", self.dir / "ca.pem", "-purpose", purpose,
                    self.dir / "alice.pem", status=status)
        text = openssl("x509", "-in", self.dir / "alice.pem", "-noout", "-subject", "-ext", "subjectAltName")
        self.assertIn("CN = alice\n", text)
        self.assertIn("DNS:alice\n", text)
        issue = ("issue", "--dir", self.dir, "--name", "bob", "--admin")
        self.fails(2, "--dns and --ip are for nodes", *issue, "--ip", "10.0.0.1")
        self.fails(2, "takes --dir, --name and --days alone", "init", "--dir", self.folder / "x", "--admin")

    def test_a_disk_that_is_full(self):
        """Whole or not at all; a key without its certificate goes again."""
        self.cairnctl.ok("certs", "init", "--dir", self.dir)
        small = self.folder / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={os.sysconf('SC_PAGE_SIZE')}", "none", small], check=True)
        try:
            self.fails(1, "No space left", "issue", "--dir", self.dir, "--name", "node1", "--out", small)
            self.assertEqual(list(small.iterdir()), [])
        finally:
            subprocess.run(["umount", small], check=True)


class Nodes(SwarmCase):
    def test_nodes_take_them_and_their_renewal(self):
        c = self.cluster(size=2, registry="scripted")
        c.authority = Made(self.folder / "pki", Cairnctl(self.folder / "no-socket", self.folder))
        a, b = c.nodes("ab")
        c.await_members(a, b)
        self.assertEqual(b.peers()[a.address]["name"], "a")
        old = (a.folder / "tls/node.pem").read_bytes()
        for node in (a, b):
            node.renew_certificate()
            node.cairnd.process.signal(signal.SIGHUP)
        self.assertNotEqual((a.folder / "tls/node.pem").read_bytes(), old)
        wait_for("both to have read them", lambda: all("ev=certificates_reloaded" in n.log() for n in (a, b)))
        one = self.layers(1, MIB)
        self.finish([a.start_image("team/app:v1")])
        self.settled(a)
        self.finish([b.start_image("team/app:v1")])
        self.assert_sent(one, 1.0)


if __name__ == "__main__":
    main()
