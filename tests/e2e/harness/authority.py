"""A certificate authority of a test's cluster."""
import os
import pathlib
import subprocess


class Authority:
    """ca (a path), and issue() for certificates of it."""

    def __init__(self, folder, name="test cluster"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.ca, self.ca_key = self.folder / "ca.pem", self.folder / "ca.key"
        self.openssl("req", "-x509", *self.new_key(self.ca_key), "-out", self.ca, "-days", 2, "-subj", f"/CN={name}")

    def openssl(self, *args):
        done = subprocess.run(["openssl", *map(str, args)], cwd=self.folder, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise AssertionError(f"openssl {args[0]}: {done.stderr}")

    @staticmethod
    def new_key(path):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]

    def issue(self, name, addresses=(), expired=False, into=None):
        """Paths of a certificate and its key, for both sides of TLS. into: a folder, where they replace what
        was there in one step each, as tools that renew certificates do."""
        stem = f"{name}{'-expired' if expired else ''}"
        csr, cert, key, ext = (self.folder / f"{stem}.{end}" for end in ("csr", "pem", "key", "ext"))
        self.openssl("req", *self.new_key(key), "-out", csr, "-subj", f"/CN={name}")
        names = ",".join([f"DNS:{name}", *(f"IP:{a}" for a in addresses)])
        ext.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        if expired:
            self.expired(csr, cert, ext)
        else:
            self.openssl("x509", "-req", "-in", csr, "-CA", self.ca, "-CAkey", self.ca_key, "-set_serial",
                         f"0x{os.urandom(8).hex()}", "-out", cert, "-days", 2, "-extfile", ext)
        if into is None:
            return cert, key
        into = pathlib.Path(into)
        into.mkdir(parents=True, exist_ok=True)
        for path, to in ((key, into / "node.key"), (cert, into / "node.pem")):
            (into / ".new").write_bytes(path.read_bytes())
            (into / ".new").rename(to)
        return into / "node.pem", into / "node.key"

    def expired(self, csr, cert, ext):
        """Only `openssl ca` signs for a time that is over."""
        (self.folder / "index.txt").write_text("")
        (self.folder / "ca.conf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\npolicy=p\n"
            "default_md=sha256\n[p]\ncommonName=supplied\n")
        self.openssl("ca", "-batch", "-notext", "-config", "ca.conf", "-in", csr, "-out", cert, "-cert", self.ca,
                     "-keyfile", self.ca_key, "-extfile", ext, "-startdate", "20200101000000Z", "-enddate",
                     "20200102000000Z")
