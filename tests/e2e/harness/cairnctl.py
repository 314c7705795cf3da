"""cairnctl in a pipe, on a terminal, and with --json."""
import json
import os
import pathlib
import pty
import select
import subprocess
import time

from harness.process import Timeout, clean_env


class Cairnctl:
    def __init__(self, socket, folder):
        self.socket = socket
        self.folder = pathlib.Path(folder)

    def argv(self, *args):
        binary = pathlib.Path(os.environ["CAIRN_BUILD"], "cairnctl")
        return [str(a) for a in (binary, "--socket", self.socket, *args)]

    def run(self, *args, timeout=120, stdin=None):
        """Into pipes. The result has returncode, stdout and stderr."""
        return subprocess.run(self.argv(*args), input=stdin or "", stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=timeout, check=False,
                              cwd=self.folder, env=clean_env())

    def ok(self, *args):
        """What it printed; fails unless its exit status is 0."""
        return self.expect(0, *args).stdout

    def expect(self, status, *args):
        done = self.run(*args)
        if done.returncode != status:
            raise AssertionError(f"cairnctl {' '.join(map(str, args))}: exit status {done.returncode}, {status} "
                                 f"was expected\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *args, status=0):
        """One object a line, decoded."""
        return [json.loads(line) for line in self.expect(status, "--json", *args).stdout.splitlines()]

    def fields(self, *args):
        """Lines of a pipe, split at tabs."""
        return [line.split("\t") for line in self.ok(*args).splitlines()]

    def terminal(self, *args, type_after=None, timeout=60):
        """On a terminal of 120 columns: (exit status, all that it printed). type_after=(text, keys): once text
        was printed, type these keys."""
        main, other = pty.openpty()
        process = None
        output = b""
        try:
            os.set_inheritable(other, True)
            process = subprocess.Popen(
                ["setsid", "-c", "-w", *self.argv(*args)], stdin=other, stdout=other, stderr=other,
                cwd=self.folder, env=clean_env(TERM="xterm"))
            subprocess.run(["stty", "cols", "120"], stdin=other, check=True)
            os.close(other)
            other = -1
            end = time.monotonic() + timeout
            while True:
                if time.monotonic() > end:
                    raise Timeout(f"cairnctl {args} did not end: {output[-500:]}")
                if not select.select([main], [], [], 0.1)[0]:
                    continue
                try:
                    data = os.read(main, 65536)
                except OSError:  # the other side is closed
                    break
                if not data:
                    break
                output += data
                if type_after and type_after[0].encode() in output:
                    os.write(main, type_after[1].encode())
                    type_after = None
            return process.wait(10), output.decode(errors="replace").replace("\r\n", "\n")
        finally:
            if other >= 0:
                os.close(other)
            os.close(main)
            if process and process.poll() is None:
                process.kill()
                process.wait()
