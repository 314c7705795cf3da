/* How fast a connection between peers is: pieces of 1 MiB of a file in the page cache, over mutual
 * TLS on loopback. Each end is a process of its own, so that its CPU time is known.
 *
 *   peer_speed DIR FILE discard|store [plain]
 *
 * DIR has ca.crt, node.crt and node.key. store: each piece is hashed and written to DIR/out.
 * Prints {"mode":…,"mb_s":…,"sender_cpu_s_gib":…,"receiver_cpu_s_gib":…}; MB: 10^6 bytes. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/digest.h"
#include "p2p/conn.h"
#include "p2p/tls.h"

#define TIMEOUT_MS 30000
#define PART (256u << 10) /* bytes that are read, hashed and written at once */

static void need(enum cairn_code rc, const struct cairn_err *err)
{
	if (rc == CAIRN_OK) return;
	fprintf(stderr, "peer_speed: %s\n", err->msg);
	exit(EXIT_FAILURE);
}

static struct cairn_tls_files *load(const char *dir)
{
	char paths[3][512];
	static const char *const names[] = {"ca.crt", "node.crt", "node.key"};
	struct cairn_tls_files *files = NULL;
	struct cairn_err err;
	for (int i = 0; i < 3; i++) snprintf(paths[i], sizeof(paths[i]), "%s/%s", dir, names[i]);
	need(cairn_tls_files_load(paths[0], paths[1], paths[2], &files, &err), &err);
	return files;
}

static void send_file(struct cairn_conn *conn, const uint8_t *data, uint64_t size)
{
	struct cairn_err err;
	for (uint64_t at = 0; at < size;) {
		uint64_t n = size - at < CAIRN_PIECE_MIN ? size - at : CAIRN_PIECE_MIN;
		const struct cairn_frame frame = {CAIRN_FRAME_PIECE,
						  (uint32_t)n + CAIRN_PIECE_HEAD};
		const uint8_t head[CAIRN_PIECE_HEAD] = {0};
		need(cairn_conn_send_head(conn, &frame, TIMEOUT_MS, &err), &err);
		need(cairn_conn_send(conn, head, sizeof(head), TIMEOUT_MS, &err), &err);
		need(cairn_conn_send(conn, data + at, n, TIMEOUT_MS, &err), &err);
		at += n;
	}
	need(cairn_conn_flush(conn, TIMEOUT_MS, &err), &err);
	(void)cairn_conn_wait(conn, -1, TIMEOUT_MS);
}

static int sender(struct cairn_tls_files *tls, int listen_fd, const char *file)
{
	struct cairn_err err;
	struct stat st;
	int in = open(file, O_RDONLY | O_CLOEXEC);
	if (in < 0 || fstat(in, &st) != 0) return EXIT_FAILURE;
	const uint8_t *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, in, 0);
	if (data == MAP_FAILED) return EXIT_FAILURE;
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	const struct cairn_hello hello = {.address = "127.0.0.1:1", .instance = {1}};
	struct cairn_conn *conn = NULL;
	need(cairn_conn_accept(tls, fd, &hello, TIMEOUT_MS, &conn, &err), &err);
	send_file(conn, data, (uint64_t)st.st_size);
	cairn_conn_free(conn);
	return EXIT_SUCCESS;
}

static void receive_piece(struct cairn_conn *conn, uint8_t *buf, int out, uint64_t at)
{
	struct cairn_err err;
	struct cairn_frame frame;
	struct cairn_hasher hasher;
	size_t got;
	need(cairn_conn_read_head(conn, TIMEOUT_MS, &frame, &err), &err);
	for (size_t done = 0; done < CAIRN_PIECE_HEAD; done += got) {
		need(cairn_conn_read_some(conn, buf, CAIRN_PIECE_HEAD - done, TIMEOUT_MS, &got,
					  &err),
		     &err);
	}
	cairn_hasher_init(&hasher, CAIRN_SHA256);
	for (size_t left = frame.len - CAIRN_PIECE_HEAD; left > 0;) {
		size_t part = left < PART ? left : PART;
		for (size_t done = 0; done < part; done += got) {
			need(cairn_conn_read_some(conn, buf + done, part - done, TIMEOUT_MS, &got,
						  &err),
			     &err);
			if (out >= 0) cairn_hasher_update(&hasher, buf + done, got);
		}
		if (out >= 0 && pwrite(out, buf, part, (off_t)at) != (ssize_t)part)
			exit(EXIT_FAILURE);
		left -= part;
		at += part;
	}
}

static double cpu_s(int who)
{
	struct rusage usage;
	getrusage(who, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void receiver(struct cairn_tls_files *tls, const char *address, uint64_t size, int out)
{
	struct cairn_err err;
	struct cairn_conn *conn = NULL;
	const struct cairn_hello hello = {.address = "127.0.0.1:2", .instance = {2}};
	uint8_t *buf = malloc(PART);
	if (buf == NULL) abort();
	need(cairn_conn_dial(tls, address, &hello, TIMEOUT_MS, &conn, &err), &err);
	for (uint64_t at = 0; at < size; at += CAIRN_PIECE_MIN) receive_piece(conn, buf, out, at);
	cairn_conn_free(conn);
	free(buf);
}

static int listen_any(char address[static 64])
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, n) != 0 || listen(fd, 1) != 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &n) != 0) {
		exit(EXIT_FAILURE);
	}
	snprintf(address, 64, "127.0.0.1:%u", ntohs(at.sin_port));
	return fd;
}

int main(int argc, char **argv)
{
	struct stat st;
	char address[64], out_path[512];
	if (argc < 4 || stat(argv[2], &st) != 0) {
		fprintf(stderr, "usage: peer_speed DIR FILE discard|store [plain]\n");
		return EXIT_FAILURE;
	}
	struct cairn_tls_files *tls = argc > 4 ? NULL : load(argv[1]);
	int out = -1, status = 0, fd = listen_any(address);
	snprintf(out_path, sizeof(out_path), "%s/out", argv[1]);
	if (strcmp(argv[3], "store") == 0)
		out = open(out_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	pid_t pid = fork();
	if (pid == 0) return sender(tls, fd, argv[2]);
	int64_t begin = cairn_boot_ns(&cairn_clock_system);
	receiver(tls, address, (uint64_t)st.st_size, out);
	double took = (double)(cairn_boot_ns(&cairn_clock_system) - begin) / 1e9;
	if (waitpid(pid, &status, 0) != pid || status != 0) return EXIT_FAILURE;
	double gib = (double)st.st_size / (double)(1u << 30);
	printf("{\"mode\":\"%s%s\",\"mb_s\":%.0f,\"sender_cpu_s_gib\":%.2f,"
	       "\"receiver_cpu_s_gib\":%.2f}\n",
	       argv[3], tls == NULL ? " plain" : "", (double)st.st_size / 1e6 / took,
	       cpu_s(RUSAGE_CHILDREN) / gib, cpu_s(RUSAGE_SELF) / gib);
	cairn_tls_files_free(tls);
	return EXIT_SUCCESS;
}
