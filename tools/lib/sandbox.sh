# shellcheck shell=bash
# A place to run daemons in and leave nothing behind. To be sourced.
#
# Everything runs in process, mount and network namespaces of its own, below one temporary folder:
# whatever happens to us, even kill -9, the kernel ends the processes and undoes the mounts and the
# network. What the kernel does not undo (the folder, cgroups made by runc) sandbox_end removes.
# /run is a fresh tmpfs inside, because containerd's shims put their sockets in /run/containerd
# whatever its configuration says.

sandbox_root=    # the temporary folder
sandbox_lock=    # descriptor of its lock
sandbox_child=   # process that holds the namespaces

# sandbox_begin NAME: make the folder, and make sure that it goes whatever happens. What an earlier
# run left because it was killed with SIGKILL goes now.
sandbox_begin() {
	local old
	# One without an owner's number may be just being made.
	for old in "${TMPDIR:-/tmp}/cairn-$1"-??????; do
		if [ -O "$old/owner" ] && [ -s "$old/owner" ] && flock -n "$old/owner" true &&
			! kill -0 "$(cat "$old/owner")" 2>/dev/null; then
			sandbox_remove "$old"
		fi
	done
	sandbox_root=$(mktemp -d "${TMPDIR:-/tmp}/cairn-$1-XXXXXX")
	exec {sandbox_lock}>"$sandbox_root/owner"
	flock "$sandbox_lock" # held for as long as we, or anything we started, lives
	echo $$ >&"$sandbox_lock"
	trap sandbox_end EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# sandbox_run COMMAND...: run it inside, and return its exit status.
sandbox_run() {
	local status=0
	if [ "$(id -u)" -ne 0 ]; then
		CAIRN_RUN=$sandbox_root TMPDIR=$sandbox_root "$@" &
	else
		# A session of its own: Ctrl-C reaches us alone, and we end the rest in one blow.
		CAIRN_RUN=$sandbox_root TMPDIR=$sandbox_root setsid setpriv --pdeathsig KILL -- \
			unshare --mount --pid --net --fork --kill-child --mount-proc -- \
			"$(dirname "${BASH_SOURCE[0]}")/inside" "$@" </dev/null &
	fi
	sandbox_child=$!
	wait "$sandbox_child" || status=$?
	sandbox_child=
	return "$status"
}

# Processes that carry our mark in their environment.
sandbox_processes() {
	local file pid
	# shellcheck disable=SC2013 # no such name has a space
	for file in $(grep -lsaF "CAIRN_RUN=$sandbox_root" /proc/[0-9]*/environ); do
		pid=${file#/proc/}
		pid=${pid%/environ}
		if [ "$pid" != "$$" ] && [ "$pid" != "$BASHPID" ]; then echo "$pid"; fi
	done
}

# End what is left, remove the folder, and say what could not be cleaned: returns 1 then.
sandbox_clean() {
	local left='' pid try
	[ -n "$sandbox_root" ] || return 0
	trap '' HUP INT TERM
	if [ -n "$sandbox_child" ]; then
		kill -KILL "$sandbox_child" 2>/dev/null || true
		wait "$sandbox_child" 2>/dev/null || true
		sandbox_child=
	fi
	for ((try = 0; try < 50; try++)); do
		left=$(sandbox_processes)
		[ -n "$left" ] || break
		for pid in $left; do kill -KILL "$pid" 2>/dev/null || true; done
		sleep 0.1
	done
	sandbox_remove "$sandbox_root"

	left=$(sandbox_processes)
	if [ -n "$left" ]; then left="processes $left"; fi
	if [ -e "$sandbox_root" ]; then left="$left folder $sandbox_root"; fi
	if grep -qF "$sandbox_root" /proc/self/mountinfo; then left="$left mounts"; fi
	if [ -n "$(sandbox_cgroups "$sandbox_root")" ]; then left="$left cgroups"; fi
	sandbox_root=
	if [ -n "$left" ]; then
		echo "left behind: $left" >&2
		return 1
	fi
}

# Cgroups are named after the folder, see Containerd.run_args.
sandbox_cgroups() {
	find /sys/fs/cgroup -type d -path "*/$(basename "$1")*" 2>/dev/null || true
}

# A folder, and the cgroups of its containers.
sandbox_remove() {
	local try
	for ((try = 0; try < 20; try++)); do
		[ -n "$(sandbox_cgroups "$1")" ] || break
		sandbox_cgroups "$1" | sort -r | xargs -r rmdir 2>/dev/null || sleep 0.1
	done
	rm -rf --one-file-system "$1" || true
}

# Runs on every exit.
sandbox_end() {
	local status=$?
	trap - EXIT
	if ! sandbox_clean && [ "$status" -eq 0 ]; then status=1; fi
	exit "$status"
}
