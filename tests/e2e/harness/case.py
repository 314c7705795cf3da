"""unittest with worlds that end, logs on failure, and results that tests/run.py reads."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import time
import traceback
import unittest

from harness import process

SAID = []


def say(*words):
    """What the test is doing; shown if it fails."""
    line = " ".join(str(w) for w in words)
    SAID.append(f"[{time.strftime('%H:%M:%S')}] {line}")


class E2E(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        SAID.clear()
        self.folder = pathlib.Path(os.environ["CAIRN_TEST_DIR"], str(E2E.number))
        E2E.number += 1
        self.folder.mkdir()
        self.stack = contextlib.ExitStack()

    number = 1

    def enter(self, context):
        """Enter a context that is left when the test is over, in reverse order."""
        return self.stack.enter_context(context)

    def tearDown(self):
        try:
            self.stack.close()
        finally:
            process.end_all()


class Result(unittest.TestResult):
    """One "@result {json}" line a test."""

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()
        self.details = []

    def report(self, test, outcome, detail=""):
        name = f"{type(test).__name__}.{test._testMethodName}"
        line = json.dumps({"name": name, "outcome": outcome, "detail": detail,
                           "seconds": round(time.monotonic() - self.started, 2)})
        print(f"@result {line}", flush=True)

    def describe(self, test, err):
        text = "".join(traceback.format_exception(*err))
        said = "\n".join(SAID)
        return f"{test.shortDescription() or ''}\n{said}\n{text}{process.log_tails()}"

    def addFailure(self, test, err):
        self.details.append(self.describe(test, err))
        super().addFailure(test, err)

    def addError(self, test, err):
        self.details.append(self.describe(test, err))
        super().addError(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.details.append(f"in {subtest}\n" + self.describe(test, err))
        super().addSubTest(test, subtest, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.skip_reason = reason

    def stopTest(self, test):
        super().stopTest(test)
        if self.details:
            self.report(test, "failed", "\n".join(self.details))
        elif getattr(self, "skip_reason", None):
            self.report(test, "skipped", self.skip_reason)
            self.skip_reason = None
        else:
            self.report(test, "passed")
        process.Process.logs.clear()
        folder = getattr(test, "folder", None)
        if folder and not os.environ.get("CAIRN_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)


def main():
    """Run the tests of the calling file, or those named Class.method in the arguments."""
    # A background job of a shell ignores SIGINT, and so would all that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loader = unittest.TestLoader()
    module = sys.modules["__main__"]
    if len(sys.argv) > 1:
        suite = loader.loadTestsFromNames(sys.argv[1:], module)
    else:
        suite = loader.loadTestsFromModule(module)
    print(f"@planned {suite.countTestCases()}", flush=True)
    result = Result()
    suite.run(result)
    sys.stdout.flush()
    # A gRPC thread must not keep us here.
    os._exit(0 if result.wasSuccessful() else 1)
