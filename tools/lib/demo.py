"""The story that tools/demo tells. Every claim is checked; a claim that fails ends the demo with status 1."""
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/e2e"))
from harness import World, images_make, log_tails, wait_for  # noqa: E402
from harness.process import end_all  # noqa: E402


def tell(text):
    print(f"\n* {text}")


def show(line):
    print(f"    {line}")


def check(claim, true):
    if not true:
        raise AssertionError(f"this was to be so, and is not: {claim}")
    show(f"-> {claim}")


def cairnctl(w, *args):
    argv = [pathlib.Path(os.environ["CAIRN_BUILD"], "cairnctl"), "--socket", w.cairnd.socket, *args]
    show("$ cairnctl " + " ".join(args))
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, check=False)
    for line in done.stdout.splitlines():
        show("  " + line)
    if done.returncode != 0:
        raise AssertionError(f"cairnctl {args[0]} exited with {done.returncode}")


def pull(w, ref):
    w.registry.requests()
    show(f"$ ctr images pull {ref}")
    began = time.monotonic()
    w.containerd.pull(ref)
    took = time.monotonic() - began
    asked = w.registry.requests()
    blobs = [r for r in asked if r.method == "GET"]
    show(f"took {took:.1f} s; the registry's access log has for it:")
    for request in asked:
        show(f"  {request.method:4} {request.path[:72]}{'...' if len(request.path) > 72 else ''} {request.status}")
    return sum(r.size for r in blobs), len(blobs)


def run(w, ref):
    show(f"$ ctr run --rm {ref} ... cat /etc/version")
    w.containerd.whole(ref, version := w.containerd.run(ref, "cat /etc/version").strip())
    show(f"it says {version}; the checksum of every file in it is right")
    return version


def story(w):
    ref = w.registry.ref("demo/app:live")
    tell("A stock containerd runs with its own content store disabled and cairnd in its place:")
    for line in (w.containerd.folder / "config.toml").read_text().splitlines():
        if "disabled_plugins" in line or "proxy_plugins.cairn" in line or "type =" in line or "address" in line and "cairn" in line:
            show(line.strip()[:100])

    tell("Pull an image of about 90 MB: the registry is asked for every blob, cairnd keeps them.")
    size, count = pull(w, ref)
    check(f"{count} objects, {size / 1e6:.0f} MB came from the registry", size > 50e6)

    tell("Run it.")
    check("it is v1", run(w, ref) == "v1")
    cairnctl(w, "status")

    tell("Remove the image. containerd's garbage collection lets go of every blob; cairnd keeps the bytes.")
    show(f"$ ctr images rm {ref}")
    w.containerd.remove(ref)
    client = w.cairnd.client()
    wait_for("the blobs to be cached", lambda: set(client.states().values()) == {"CACHED"})
    check("containerd sees no blob any more", client.listed() == set())
    check(f"cairnd still has {len(client.states())} blobs on disk", len(client.states()) == 6)

    tell("Pull it again.")
    size, count = pull(w, ref)
    check("the registry was asked what the tag means, and for no blob and no manifest: 0 bytes", size == 0 and count == 0)
    check("and it is whole", run(w, ref) == "v1")

    tell("Somebody pushes v2 under the same tag, while v1 runs.")
    w.containerd.start_container(ref, "v1-runs")
    w.registry.retag("demo/app", "live", "v2")
    size, count = pull(w, ref)
    check(f"only what is new in v2 was downloaded: {size / 1e6:.0f} MB", size < 30e6)
    check("the new one is v2", run(w, ref) == "v2")
    check("v1 still runs, whole", w.containerd.exec(
        "v1-runs", "cat /sums/* | sha256sum -c >/dev/null && cat /etc/version") == "v1\n")

    tell("v2 is bad: roll back to v1. To make it harder, the registry has lost all blobs.")
    w.registry.retag("demo/app", "live", "v1")
    w.registry.hide_blobs(["demo/app:v1", "demo/app:v2"])
    size, count = pull(w, ref)
    check("rolled back without a byte from the registry", size == 0 and run(w, ref) == "v1")

    tell("And forward to v2 again.")
    w.registry.retag("demo/app", "live", "v2")
    size, count = pull(w, ref)
    check("likewise", size == 0 and run(w, ref) == "v2")
    cairnctl(w, "ls")


def main():
    tell("Make a test image, and start a registry, cairnd and containerd in a temporary folder.")
    images_make()
    folder = pathlib.Path(os.environ["CAIRN_TEST_DIR"], "w")
    folder.mkdir()
    try:
        with World(folder) as w:
            story(w)
            tell("That was it. Stop everything and remove the folder.")
    except Exception as error:  # pylint: disable=broad-except
        print(f"\ndemo: FAILED: {error}\n{log_tails(20)}", file=sys.stderr)
        end_all()
        sys.stdout.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
