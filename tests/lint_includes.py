#!/usr/bin/python3
"""Check the #include lines of the C sources against the map of the code.

A folder may include: its own headers; the public headers of the folders below it; the third-party
headers that belong to it alone; and whatever else the C library offers. Usage: lint_includes.py [ROOT]
"""
import pathlib
import re
import sys

# folder -> folders whose public headers it may include. Arrows go down only.
BELOW = {
    "base": set(),
    "cache": {"base"},
    "rpc": {"base"},
    "oci": {"base"},
    "p2p": {"cache", "rpc", "base"},
    "config": {"base"},
    "plugin": {"p2p", "oci", "cache", "rpc", "config", "base"},
    "cmd": {"plugin", "p2p", "oci", "cache", "rpc", "config", "base"},
}
# Headers a folder offers; base/ offers all of its own. config/ fills in other modules' options.
PUBLIC = {
    "cache": {"cache/cache.h", "cache/gc.h", "cache/evict.h", "cache/history.h", "cache/pieces.h"},
    "rpc": {"rpc/rpc.h", "rpc/wire.h"},
    "config": {"config/config.h"},
    "plugin": {"plugin/plugin.h"},
    "oci": {"oci/oci.h", "oci/registry.h"},
    "p2p": {"p2p/p2p.h", "p2p/directory.h"},
}
OPTION_HEADERS = re.compile(r"^(cache/cache|plugin/plugin|p2p/p2p|oci/oci)\.h$|^[a-z0-9]+/opts\.h$")

# third-party header -> where it may be included (a folder or a path prefix); tests/ may use any.
SOLE_USERS = [
    (re.compile(r"^grpc/"), ["rpc/"]),
    (re.compile(r"^sqlite3\.h$"), ["cache/"]),
    (re.compile(r"^yaml\.h$"), ["config/"]),
    (re.compile(r"^openssl/"), ["base/", "p2p/", "cmd/cairnctl_certs", "cmd/cairnctl_remote"]),
    (re.compile(r"^pcre2\.h$"), ["plugin/"]),
    (re.compile(r"^microhttpd\.h$"), ["plugin/"]),
    (re.compile(r"^jansson\.h$"), ["cmd/cairnctl", "oci/"]),
    (re.compile(r"^curl/"), ["oci/"]),
    (re.compile(r"^cmocka\.h$"), []),
    (re.compile(r"^(protobuf-c/|google/protobuf-c/)"), ["rpc/", "plugin/", "cmd/", "p2p/"]),
    (re.compile(r"\.pb-c\.h$"), ["rpc/", "plugin/", "cmd/", "p2p/"]),
]

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def third_party_error(path, header):
    for pattern, users in SOLE_USERS:
        if pattern.search(header) and not any(path.startswith(user) for user in users):
            where = " or ".join(user + "*" for user in users) or "tests/"
            return f"<{header}> belongs to {where}"
    return None


def own_error(root, folder, path, header):
    target = header.split("/")[0]
    if "/" not in header or target not in BELOW:
        if (root / folder / header).is_file() or (root / path).parent.joinpath(header).is_file():
            return f'write "{folder}/{header}": headers are named from the top of the tree'
        return None
    if target == folder:
        return None
    if folder == "config" and OPTION_HEADERS.match(header):
        return None
    if target not in BELOW[folder]:
        return f"{folder}/ may not include {target}/: arrows go down only"
    if target != "base" and header not in PUBLIC[target]:
        return f'"{header}" is private to {target}/; include {" or ".join(sorted(PUBLIC[target]))}'
    return None


# What may be asked of containerd. It waits for us in most of our handlers, with its one write lock held:
# a call that changes something of its own would wait for that lock, and so for ever.
READ_ONLY = {"Namespaces/List", "Content/List", "Content/Info", "Images/List", "Leases/List",
             "Leases/ListResources", "Containers/ListStream"}
# The one place that does so on purpose, from threads that nobody waits for.
WRITES = {"plugin/register.c": {"Leases/Create", "Leases/Delete", "Content/Write", "Content/Update",
                                "Images/Create", "Images/Update"}}
RUNTIME_CALL = re.compile(r'"/containerd\.services\.[a-z0-9.]+\.(\w+/\w+)"')


RUNTIME_PREFIX = re.compile(r'"/containerd\.services\.[a-z0-9.]+\.\w+/"')


def call_error(path, line):
    serves = path == "plugin/content.c"  # the same names, but of what we answer
    if RUNTIME_PREFIX.search(line) and path not in WRITES and not serves:
        return "name each method of containerd's in full, so that this lint sees it"
    for method in RUNTIME_CALL.findall(line):
        if method not in READ_ONLY | WRITES.get(path, set()):
            return f"{method} may change what containerd holds: only {', '.join(sorted(READ_ONLY))} may be called"
    return None


def check(root, file):
    path = file.relative_to(root).as_posix()
    folder = path.split("/")[0]
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if call_error(path, line):
            yield f"{path}:{number}: {call_error(path, line)}"
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match.group(2)
        error = third_party_error(path, header) or own_error(root, folder, path, header)
        if error:
            yield f"{path}:{number}: {error}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    errors = []
    files = 0
    for folder in BELOW:
        for file in sorted((root / folder).rglob("*.[ch]")):
            files += 1
            errors += check(root, file)
    for error in errors:
        print(error)
    print(f"include lint: {files} files, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
