#!/bin/bash
# How fast peers send each other a large blob, beside nginx and curl with the same certificates on the
# same machine, in turns: mutual TLS 1.3 on loopback, 1 GiB from the page cache, to nowhere and into a
# file (peers hash it, too). Prints one JSON object a run.
#
#   cmake --preset bench && cmake --build --preset bench --target bench_peer_speed
#   tests/bench/peer_speed.sh build/bench/tests/bench_peer_speed [ROUNDS]
set -euo pipefail

program=$(realpath "$1")
rounds=${2:-5}
dir=$(mktemp -d "${TMPDIR:-/tmp}/cairn-peer-speed-XXXXXX")
nginx=
finish() {
	if [ -n "$nginx" ]; then
		kill "$nginx" || true
		wait "$nginx" || true
	fi
	rm -rf "$dir"
}
trap finish EXIT
cd "$dir"

ec=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2)
echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >names
openssl req -x509 "${ec[@]}" -keyout ca.key -out ca.crt -subj /CN=ca 2>/dev/null
openssl req "${ec[@]}" -keyout node.key -out node.csr -subj /CN=node 2>/dev/null
openssl x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out node.crt \
	-extfile names 2>/dev/null
head -c 1G /dev/urandom >file

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >nginx.conf <<END
daemon off; master_process off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/error.log;
events { worker_connections 64; }
http {
	access_log off; sendfile on;
	client_body_temp_path $dir/t; proxy_temp_path $dir/t; fastcgi_temp_path $dir/t;
	uwsgi_temp_path $dir/t; scgi_temp_path $dir/t;
	server {
		listen 127.0.0.1:$port ssl; root $dir; ssl_protocols TLSv1.3;
		ssl_certificate node.crt; ssl_certificate_key node.key;
		ssl_client_certificate ca.crt; ssl_verify_client on;
	}
}
END
nginx_program=$(PATH=$PATH:/usr/sbin command -v nginx)
"$nginx_program" -p "$dir" -c "$dir/nginx.conf" -e "$dir/error.log" &
nginx=$!

fetch() {
	curl -sf --cert node.crt --key node.key --cacert ca.crt "https://127.0.0.1:$port/$1" -o "$2"
}
for ((i = 0; i < 100; i++)); do
	if fetch names /dev/null; then break; fi
	sleep 0.05
done
fetch names /dev/null || { echo "peer_speed: nginx does not answer" >&2 && exit 1; }

ticks=$(getconf CLK_TCK)
server_ticks() { awk '{print $14 + $15}' "/proc/$nginx/stat"; }
TIMEFORMAT='%R %U %S'
measure_curl() { # MODE OUT
	local before after took
	before=$(server_ticks)
	took=$({ time fetch file "$2"; } 2>&1)
	after=$(server_ticks)
	awk -v mode="$1" -v took="$took" -v ticks=$((after - before)) -v hz="$ticks" 'BEGIN {
		split(took, t, " ")
		printf "{\"mode\":\"nginx and curl, %s\",\"mb_s\":%.0f,\"sender_cpu_s_gib\":%.2f,", mode, 1073.741824 / t[1], ticks / hz
		printf "\"receiver_cpu_s_gib\":%.2f}\n", t[2] + t[3]
	}'
}

# In a virtual machine whose host takes free memory back, pages that were freed a while ago cost several
# times what fresh ones do. So each run into a file begins with one that has just been removed.
head -c 1G file >out
for ((i = 0; i < rounds; i++)); do
	measure_curl discard /dev/null
	"$program" . file discard
	rm out
	measure_curl store out
	rm out
	"$program" . file store
done
