#!/usr/bin/python3
"""Run the checks and tests that tools/test was asked for, and write "PASSED FAILED" to its summary.

Runs inside the sandbox of tools/lib/sandbox.sh when root. Every single test case counts: each lint
tool, each build, each cmocka case, each end-to-end test method, each Go test.
"""
import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
import xml.etree.ElementTree

TOP = pathlib.Path(__file__).resolve().parent.parent
RUN = pathlib.Path(os.environ.get("CAIRN_RUN", "/tmp"))
JOBS = max(2, min(4, os.cpu_count() or 2))
STEPS = ["lint", "unit", "tsan", "e2e", "e2e-asan", "conformance"]
# Test files that also run against the ASan build of cairnd: errors there, and shutdown.
ASAN_FILES = ["test_hostile", "test_restart", "test_preheat_faults"]
# Started first, because they take longest.
LONGEST = ["test_swarm_faults", "test_swarm_hostile", "test_swarm_etcd", "test_swarm", "test_restart", "test_hostile",
           "test_pull", "test_gc_restart", "test_preheat", "test_preheat_faults", "test_gc", "test_gc_disk", "test_versions"]
FILE_TIMEOUT = 600
TAIL = 60


class Results:
    """Counts, and prints one line a result. Threads: internally locked."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self.failures = []
        self.lock = threading.Lock()

    def add(self, name, ok, seconds=None, detail="", count=1, quiet=False):
        with self.lock:
            if ok:
                self.passed += count
            else:
                self.failed += count
                self.failures.append(name)
            if ok and quiet:
                return
            took = f" ({seconds:.1f} s)" if seconds is not None else ""
            print(f"  {'ok  ' if ok else 'FAIL'} {name}{took}")
            if not ok and detail:
                print("\n".join("       | " + line for line in detail.rstrip().splitlines()))

    def skip(self, name, why):
        with self.lock:
            self.skipped += 1
            print(f"  skip {name}: {why}")


results = Results()


def tail(text, lines=TAIL):
    return "\n".join(text.splitlines()[-lines:])


def step(title):
    print(f"\n== {title}", flush=True)


def run(argv, **kwargs):
    kwargs.setdefault("cwd", TOP)
    return subprocess.run(
        [str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, errors="replace", check=False, **kwargs)


def check(name, argv, **kwargs):
    """One tool that passes or fails as a whole."""
    start = time.monotonic()
    done = run(argv, **kwargs)
    results.add(name, done.returncode == 0, time.monotonic() - start, tail(done.stdout))
    return done.returncode == 0


# ---- lint ----------------------------------------------------------------------------------------


def sources(*patterns):
    found = []
    for directory, folders, files in os.walk(TOP):
        folders[:] = sorted(f for f in folders if f not in ("build", ".git", "__pycache__", "corpus"))
        for name in sorted(files):
            path = pathlib.Path(directory, name)
            relative = path.relative_to(TOP).as_posix()
            if any(fnmatch.fnmatch(relative, pattern) for pattern in patterns):
                found.append(relative)
    return found


def is_shell(path):
    with open(TOP / path, "rb") as file:
        return re.match(rb"#!.*\b(ba)?sh\b|# shellcheck shell", file.readline()) is not None


def lint():
    step("lint")
    c_files = sources("*.c", "*.h")
    check("lint: clang-format", ["clang-format-14", "--dry-run", "-Werror", *c_files])
    check("lint: includes", ["tests/lint_includes.py"])
    shell = [p for p in sources("tools/*", ".ci/*", "tests/*.sh", "tests/*/run", "tests/e2e/harness/*", "deploy/*")
             if is_shell(p)]
    check("lint: shellcheck", ["shellcheck", "-x", *shell])
    texts = sources("*.c", "*.h", "*.md", "*.py", "*.proto", "*.yaml", "*.txt", "*.go", "*.[1-9]", "tools/*")
    check("lint: codespell", ["codespell", "-L", "nd,te,atleast,intervall", *texts])
    pythons = sources("*.py")
    compile_all = "import sys\nfor p in sys.argv[1:]: compile(open(p, encoding='utf-8').read(), p, 'exec')"
    check("lint: python compiles", [sys.executable, "-c", compile_all, *pythons])
    go_files = sources("*.go")
    if go_files:
        done = run(["gofmt", "-l", *go_files])
        results.add("lint: gofmt", done.returncode == 0 and not done.stdout.strip(), None, done.stdout)
    ours = [p for p in c_files if p.endswith(".c") and not p.startswith("tests/")]
    check("lint: cppcheck", ["cppcheck", "--quiet", "--std=c11", f"-j{JOBS}", "-I.", "--inline-suppr",
                             "--enable=warning,portability", "--error-exitcode=1", "--include=tests/lint_cppcheck.h",
                             "--suppress=missingIncludeSystem", "--suppress=uninitvar", "--suppress=legacyUninitvar",
                             "--suppress=autoVariables:rpc/fiber.c", *ours])


def tidy():
    """clang-tidy needs the generated headers, so it comes after the dev build."""
    start = time.monotonic()
    done = run(["run-clang-tidy-14", "-quiet", f"-j{JOBS}", "-p", "build/dev",
                f"^{re.escape(str(TOP))}/(base|cache|rpc|oci|p2p|plugin|config|cmd)/[^/]*\\.c$"])
    found = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
             if re.search(r": (error|warning): ", line)]
    results.add("lint: clang-tidy", done.returncode == 0, time.monotonic() - start, tail("\n".join(found)))


# ---- builds and unit tests -----------------------------------------------------------------------


def build(preset):
    start = time.monotonic()
    configured = run(["cmake", "--preset", preset])
    done = configured
    if configured.returncode == 0:
        done = run(["cmake", "--build", "--preset", preset])
    errors = [line for line in done.stdout.splitlines() if re.search(r"error|FAILED|warning|undefined", line)]
    ok = done.returncode == 0
    results.add(f"build: {preset}", ok, time.monotonic() - start, tail("\n".join(errors) or done.stdout))
    return ok


CASE = re.compile(r"^\[\s*(OK|FAILED|SKIPPED)\s*\] (\w\S*)$", re.M)


def count_case(program, case):
    output = case.findtext("system-out") or ""
    seen = CASE.findall(output)
    passed = sum(1 for outcome, _ in seen if outcome == "OK")
    bad = sorted({name for outcome, name in seen if outcome == "FAILED"})
    ran_well = case.get("status") == "run"
    seconds = float(case.get("time") or 0)
    if passed:
        results.add(f"{program}: {passed} cases", True, seconds, count=passed)
    for name in bad:
        results.add(f"{program}: {name}", False, None, tail(output))
    if not ran_well and not bad:
        results.add(program, False, seconds, tail(output))
    if ran_well and not seen:  # not a cmocka program: a fuzz corpus, say
        results.add(program, True, seconds)


def ctest(preset, patterns):
    report = RUN / f"ctest-{preset}.xml"
    report.unlink(missing_ok=True)
    argv = ["ctest", "--test-dir", f"build/{preset}", f"-j{JOBS}", "--output-junit", report,
            "--test-output-size-passed", "10000000", "--test-output-size-failed", "10000000"]
    if preset == "tsan":
        argv += ["-L", "unit"]
    if patterns:
        argv += ["-R", "|".join(re.escape(p) for p in patterns)]
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="STDOUT",
               ASAN_OPTIONS="detect_stack_use_after_return=0:strict_string_checks=1",
               UBSAN_OPTIONS="print_stacktrace=1",
               TSAN_OPTIONS="halt_on_error=0:exitcode=66:second_deadlock_stack=1")
    done = run(argv, env=env)
    if not report.exists():
        results.add(f"ctest {preset}", False, None, tail(done.stdout))
        return
    cases = xml.etree.ElementTree.parse(report).getroot().iter("testcase")
    for case in sorted(cases, key=lambda c: c.get("name")):
        count_case(f"{case.get('name')} [{preset}]", case)


def unit(preset, patterns):
    title = {"dev": "unit tests and fuzz corpora under ASan and UBSan", "tsan": "unit tests under TSan"}
    step(title[preset])
    if build(preset):
        ctest(preset, patterns)


# ---- end to end ----------------------------------------------------------------------------------


def leftovers(mark):
    """Processes that a test file started and did not end."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark.encode() + b"\0" in (entry / "environ").read_bytes():  # r-gc is not r-gc_disk
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def e2e_file(path, build_name, select):
    """One test file, in mount and network namespaces of its own."""
    name = path.stem
    label = f"{name} [{build_name}]" if build_name != "release" else name
    folder = RUN / f"{build_name[0]}-{name.removeprefix('test_')}"
    folder.mkdir()
    mark = f"CAIRN_TEST_DIR={folder}"
    env = dict(os.environ, CAIRN_TEST_DIR=str(folder), CAIRN_BUILD=str(TOP / "build" / build_name),
               CAIRN_IMAGES=str(RUN / "images"), TMPDIR=str(folder), PYTHONDONTWRITEBYTECODE="1")
    argv = ["unshare", "--mount", "--net", "--", str(TOP / "tools/lib/inside"), sys.executable, "-u", str(path)]
    start = time.monotonic()
    with subprocess.Popen(argv + select, cwd=TOP, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, errors="replace") as process:
        timer = threading.Timer(FILE_TIMEOUT, process.kill)
        timer.start()
        lines, reported, planned, failed_here = [], 0, None, 0
        for line in process.stdout:
            if line.startswith("@result "):
                result = json.loads(line[8:])
                reported += 1
                title = f"{label}: {result['name']}"
                if result["outcome"] == "skipped":
                    results.skip(title, result["detail"])
                else:
                    ok = result["outcome"] == "passed"
                    failed_here += not ok
                    results.add(title, ok, result["seconds"], result["detail"])
                lines.clear()
            elif line.startswith("@planned "):
                planned = int(line[9:])
            else:
                lines.append(line.rstrip("\n"))
        process.wait()
        timer.cancel()
    if planned is None or reported != planned or (process.returncode != 0 and not failed_here):
        results.add(f"{label}: ran to its end", False, time.monotonic() - start,
                    f"{reported} of {planned} tests reported, exit status {process.returncode}\n"
                    + tail("\n".join(lines)))
    left = leftovers(mark)
    if left:
        results.add(f"{label}: leaves no process", False, None, "\n".join(left))
    shutil.rmtree(folder, ignore_errors=True)


def pick(files, patterns):
    """(file, arguments) for each file that a pattern names; test_x.Class.method narrows it down."""
    chosen = []
    for path in files:
        if not patterns:
            chosen.append((path, []))
            continue
        inner = [p.split(".", 1)[1] for p in patterns if p.startswith(path.stem + ".")]
        if inner:
            chosen.append((path, inner))
        elif any(p in path.stem for p in patterns):
            chosen.append((path, []))
    return chosen


def e2e(build_name, patterns):
    files = sorted(TOP.glob("tests/e2e/test_*.py"),
                   key=lambda p: (LONGEST.index(p.stem) if p.stem in LONGEST else len(LONGEST), p.stem))
    if build_name == "dev" and not patterns:
        files = [p for p in files if p.stem in ASAN_FILES]
    chosen = pick(files, patterns)
    if not chosen:
        return
    step(f"end to end with containerd, runc and a registry, cairnd of build/{build_name}")
    if not build(build_name):
        return
    if not (RUN / "images").exists():
        start = time.monotonic()
        env = dict(os.environ, CAIRN_IMAGES=str(RUN / "images"), PYTHONDONTWRITEBYTECODE="1")
        made = run([sys.executable, "tests/e2e/harness/images.py"], env=env)
        results.add("images made", made.returncode == 0, time.monotonic() - start, tail(made.stdout))
        if made.returncode != 0:
            return
    queue = list(chosen)
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                if not queue:
                    return
                path, select = queue.pop(0)
            try:
                e2e_file(path, build_name, select)
            except Exception:  # pylint: disable=broad-except
                # Else this thread ends, and what the file has not reported is missed by nobody.
                results.add(f"{path.stem}: was run", False, None, traceback.format_exc())

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


# ---- suites in other languages: tests/<name>/run prints "--- PASS: x" or "ok x" lines --------------

FOREIGN = re.compile(r"^\s*--- (PASS|FAIL|SKIP): (\S+)|^(ok|not ok) (?:\d+ )?(?:- )?(\S.*)$", re.M)


def conformance():
    suites = [p for p in sorted(TOP.glob("tests/*/run")) if os.access(p, os.X_OK)]
    if not suites:
        return
    step("containerd's own content suite, and the like")
    if not build("release"):
        return
    for suite in suites:
        name = suite.parent.name
        folder = RUN / name
        folder.mkdir(exist_ok=True)
        start = time.monotonic()
        env = dict(os.environ, TMPDIR=str(folder), CAIRN_BUILD=str(TOP / "build/release"))
        try:
            done = run([suite], env=env, timeout=FILE_TIMEOUT)
        except subprocess.TimeoutExpired as late:
            results.add(f"{name}: ends within {FILE_TIMEOUT} s", False, None,
                        tail((late.stdout or b"").decode(errors="replace")))
            continue
        passed, bad = 0, []
        for go_outcome, go_name, tap_outcome, tap_name in FOREIGN.findall(done.stdout):
            if go_outcome == "PASS" or tap_outcome == "ok":
                passed += 1
            elif go_outcome == "FAIL" or tap_outcome == "not ok":
                bad.append(go_name or tap_name)
        if passed:
            results.add(f"{name}: {passed} cases", True, time.monotonic() - start, count=passed)
        for test in bad:
            results.add(f"{name}: {test}", False, None, tail(done.stdout))
        if done.returncode != 0 and not bad or not passed and not bad:
            results.add(name, False, None, f"exit status {done.returncode}\n" + tail(done.stdout))


# ---- main ----------------------------------------------------------------------------------------


def main():
    words = sys.argv[1:]
    wanted = [w for w in words if w in STEPS]
    patterns = [w for w in words if w not in STEPS]
    if not wanted:
        wanted = ["unit", "e2e"] if patterns else STEPS
    root = os.geteuid() == 0
    began = time.monotonic()
    durations = []
    e2e_build = os.environ.get("CAIRN_E2E_BUILD", "release")

    def timed(name, function, *args):
        start = time.monotonic()
        function(*args)
        durations.append((name, time.monotonic() - start))

    if "lint" in wanted and not patterns:
        timed("lint", lint)
    if "unit" in wanted:
        timed("unit", unit, "dev", patterns)
    if "lint" in wanted and not patterns and (build("dev") if "unit" not in wanted else True):
        timed("clang-tidy", tidy)
    if "tsan" in wanted:
        timed("tsan", unit, "tsan", patterns)
    if "e2e" in wanted and root:
        timed("e2e", e2e, e2e_build, patterns)
    if "e2e-asan" in wanted and root:
        timed("e2e-asan", e2e, "dev", patterns)
    if "conformance" in wanted and root:
        timed("conformance", conformance)

    step("summary")
    for name, seconds in durations:
        print(f"  {name}: {seconds:.0f} s")
    print(f"  in all: {time.monotonic() - began:.0f} s")
    if results.skipped:
        print(f"  {results.skipped} skipped")
    for name in results.failures:
        print(f"  failed: {name}")
    if not results.passed and not results.failed:
        print(f"  no test matches: {' '.join(words)}")
        results.failed = 1
    (RUN / "summary").write_text(f"{results.passed} {results.failed}\n", encoding="utf-8")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
