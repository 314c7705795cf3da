"""What the tests of preheat share: a cairnd with registries, and what jobs come to."""
import base64
import json
import os
import pathlib
import subprocess

from harness.cairnctl import Cairnctl
from harness.cairnd import Cairnd
from harness.content import cairn_pb2
from harness.gc import NO_PRESSURE, GcCase
from harness.process import Process, wait_for

OVER = ("succeeded", "partial", "failed", "cancelled")


def plain(*hosts):
    """registries.hosts for registries without TLS."""
    return ", ".join(f'{{host: "{host}", plain_http: true}}' for host in hosts)


def write_docker_config(path, **auths):
    """auths: host -> (user, password)"""
    entries = {host: {"auth": base64.b64encode(":".join(login).encode()).decode()} for host, login in auths.items()}
    path.write_text(json.dumps({"auths": entries}))
    path.chmod(0o600)


class Outcome:
    """What `cairnctl --json preheat` or `jobs` said."""

    def __init__(self, done):
        self.status, self.stderr = done.returncode, done.stderr
        self.lines = [json.loads(line) for line in done.stdout.splitlines()]
        jobs = [line for line in self.lines if line["type"] == "job"]
        self.job = jobs[-1] if jobs else None
        self.state = self.job["state"] if jobs else None
        self.images = {line["reference"]: line for line in self.lines if line["type"] == "image"}
        self.blobs = {line["digest"]: line for line in self.lines if line["type"] == "blob"}

    def __repr__(self):
        return f"exit status {self.status}, {self.job}\n{list(self.images.values())}\n{self.stderr}"


class PreheatCase(GcCase):
    def daemon(self, hosts="", gc="", extra="", docker_config="", **options):
        """cairnd alone, with these registries.hosts. The lines can be changed, for a restart, in self.cairnd.extra."""
        self.cairnd = Cairnd(self.folder, extra=self.lines(hosts, gc, extra, docker_config), **options)
        self.enter(self.cairnd)
        self.tool = Cairnctl(self.cairnd.socket, self.folder)
        return self.cairnd

    def lines(self, hosts="", gc="", extra="", docker_config=""):
        gc = ", ".join(part for part in (gc, "" if "watermark" in gc else NO_PRESSURE) if part)
        return (f'registries: {{docker_config: "{docker_config}", hosts: [{hosts}]}}\ngc: {{{gc}}}\n' + extra)

    def reconfigure(self, **lines):
        self.cairnd.stop()
        self.cairnd.extra = self.lines(**lines)
        self.cairnd.configure()
        self.cairnd.start()

    # jobs

    def preheat(self, *args, status=None, stdin=None, timeout=60):
        """Run it to its end."""
        outcome = Outcome(self.tool.run("--json", "preheat", *args, stdin=stdin, timeout=timeout))
        if status is not None:
            self.assertEqual(outcome.status, status, outcome)
        return outcome

    def ok(self, *args, **options):
        outcome = self.preheat(*args, status=0, **options)
        self.assertEqual(outcome.state, "succeeded", outcome)
        self.assertEqual({i["state"] for i in outcome.images.values()}, {"succeeded"}, outcome)
        self.assertEqual({b["state"] for b in outcome.blobs.values()} | {"succeeded"}, {"succeeded"}, outcome)
        return outcome

    def failing(self, *args, state="failed", says=(), **options):
        """It fails, and standard error says each of these."""
        outcome = self.preheat(*args, status=1, **options)
        self.assertEqual(outcome.state, state, outcome)
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, outcome.stderr)
        return outcome

    def detach(self, *args, stdin=None):
        """The job's id."""
        done = self.tool.run("preheat", "--detach", *args, stdin=stdin)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def start_preheat(self, *args):
        """cairnctl preheat in the background, into a log."""
        number = len(list(self.folder.glob("preheat*.log")))
        return Process(f"preheat{number}", self.tool.argv("--json", "preheat", *args), self.folder).start()

    def show(self, job):
        return Outcome(self.tool.expect(0, "--json", "jobs", job))

    def state(self, job):
        return self.show(job).state

    def await_job(self, job, state=None, seconds=30):
        """Until it is over."""
        wait_for(f"job {job} to be over", lambda: self.state(job) in OVER, seconds)
        outcome = self.show(job)
        if state:
            self.assertEqual(outcome.state, state, outcome)
        return outcome

    def submit(self, *names, references=(), **fields):
        """The same without cairnctl: what the first message says. Raises RpcError."""
        with self.cairnd.client() as client:
            request = cairn_pb2.PreheatRequest(references=[*names, *references], detach=True, **fields)
            return next(iter(client.stream("Preheat", request, cairn_pb2.JobProgress, "/cairn.v1.Cairn/"))).job

    # what is here

    def held(self):
        return set(self.rows())

    def assert_clean(self, *secrets):
        """Every blob is what it is called; no secret is where it could be read."""
        done = self.tool.run("verify")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assert_no_secret(*secrets)

    def assert_no_secret(self, *secrets):
        cairnd = getattr(self, "cairnd", None) or self.w.cairnd
        texts = {"the log": cairnd.process.log_text(), "jobs": self.tool.ok("--json", "jobs")}
        for line in texts["jobs"].splitlines():
            job = json.loads(line)["id"]
            texts[f"jobs {job}"] = self.tool.ok("--json", "jobs", job)
        for path in cairnd.state.rglob("*"):
            if path.is_file() and "blobs" not in path.parts:
                texts[str(path)] = path.read_bytes().decode("latin-1")
        for where, text in texts.items():
            for secret in secrets:
                for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("=")):
                    self.assertNotIn(form, text, where)


class Certificates:
    """A certificate authority and a server certificate for 127.0.0.1."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        folder.mkdir()
        self.ca, self.ca_key = folder / "ca.pem", folder / "ca.key"
        self.cert, self.key = folder / "server.pem", folder / "server.key"

        def openssl(*args):
            subprocess.run(["openssl", *map(str, args)], check=True, cwd=folder, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", self.ca_key, "-out", self.ca, "-days", 2,
                "-subj", "/CN=test authority")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out", "server.csr",
                "-subj", "/CN=127.0.0.1")
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", "server.csr", "-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial",
                "-out", self.cert, "-days", 2, "-extfile", "ext")


def random_layers(count, size=2000):
    return [os.urandom(size) for _ in range(count)]
