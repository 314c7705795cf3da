/* A real etcd as a child process, what an admin would do to it, and a relay in front of it that can
 * be cut. After cmocka.h. */
#ifndef CAIRN_TESTS_ETCD_SERVER_H
#define CAIRN_TESTS_ETCD_SERVER_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "etcd.pb-c.h"
#include "rpc/rpc.h"
#include "support/tmp.h"
#include "support/until.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		if ((call) != CAIRN_OK) {                                                          \
			fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, #call, err.msg);             \
		}                                                                                  \
	} while (0)

struct etcd_server {
	struct cairn_rpc *rpc;
	char dir[64];
	int port, peer_port;
	char url[96];	 /* http://127.0.0.1:port */
	const char *tls; /* folder with ca.crt, server.crt, server.key, client.crt, client.key */
	pid_t pid;
	struct cairn_channel *admin;
};

/* ---- the process ---- */

static inline int free_port(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	close(fd);
	return ntohs(addr.sin_port);
}

static inline void etcd_exec(const struct etcd_server *s)
{
	char data[96], client[64], peer[64], cluster[96], ca[128], cert[128], key[128];
	const char *scheme = s->tls != NULL ? "https" : "http";
	snprintf(data, sizeof(data), "%s/data", s->dir);
	snprintf(client, sizeof(client), "%s://127.0.0.1:%d", scheme, s->port);
	snprintf(peer, sizeof(peer), "http://127.0.0.1:%d", s->peer_port);
	snprintf(cluster, sizeof(cluster), "default=%s", peer);
	const char *argv[32] = {"etcd",	 "--data-dir",
				data,	 "--listen-client-urls",
				client,	 "--advertise-client-urls",
				client,	 "--listen-peer-urls",
				peer,	 "--initial-advertise-peer-urls",
				peer,	 "--initial-cluster",
				cluster, "--heartbeat-interval",
				"50",	 "--election-timeout",
				"500",	 "--log-level",
				"error"};
	size_t n = 19;
	if (s->tls != NULL) {
		snprintf(ca, sizeof(ca), "%s/ca.crt", s->tls);
		snprintf(cert, sizeof(cert), "%s/server.crt", s->tls);
		snprintf(key, sizeof(key), "%s/server.key", s->tls);
		const char *const more[] = {"--client-cert-auth",
					    "--trusted-ca-file",
					    ca,
					    "--cert-file",
					    cert,
					    "--key-file",
					    key};
		for (size_t i = 0; i < CAIRN_LEN(more); i++) argv[n++] = more[i];
	}
	int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int log = openat(fd, "log", O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(log, 1);
	dup2(log, 2);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp("etcd", (char *const *)(void *)argv);
	_exit(127);
}

static inline bool etcd_answers(struct etcd_server *s);

/* Starts it, and waits until it answers. */
static inline void etcd_run(struct etcd_server *s)
{
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (s->pid == 0) etcd_exec(s);
	UNTIL(etcd_answers(s));
}

static inline char *etcd_slurp(const char *dir, const char *name)
{
	char path[160], *text = calloc(1, 16384);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *in = fopen(path, "re");
	if (in == NULL || text == NULL) abort();
	(void)!fread(text, 1, 16383, in);
	fclose(in);
	return text;
}

/* tls NULL: plain text. */
static inline void etcd_start(struct etcd_server *s, struct cairn_rpc *rpc, const char *tls)
{
	struct cairn_err err;
	char target[64];
	*s = (struct etcd_server){.rpc = rpc, .tls = tls};
	tmp_template(s->dir, sizeof(s->dir), "etcd");
	assert_non_null(mkdtemp(s->dir));
	s->port = free_port();
	do {
		s->peer_port = free_port();
	} while (s->peer_port == s->port);
	snprintf(target, sizeof(target), "127.0.0.1:%d", s->port);
	snprintf(s->url, sizeof(s->url), "%s://%s", tls != NULL ? "https" : "http", target);
	if (tls == NULL) {
		OK(cairn_channel_new(rpc, target, NULL, &s->admin, &err));
	} else {
		char *ca = etcd_slurp(tls, "ca.crt"), *cert = etcd_slurp(tls, "client.crt"),
		     *key = etcd_slurp(tls, "client.key");
		OK(cairn_channel_new(rpc, target,
				     &(struct cairn_tls){.ca = ca, .cert = cert, .key = key},
				     &s->admin, &err));
		free(ca);
		free(cert);
		free(key);
	}
	etcd_run(s);
}

static inline void etcd_kill(struct etcd_server *s)
{
	if (s->pid <= 0) return;
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	s->pid = 0;
}

static inline int etcd_unlink(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* All it knows is gone. */
static inline void etcd_wipe(struct etcd_server *s)
{
	char data[96];
	etcd_kill(s);
	snprintf(data, sizeof(data), "%s/data", s->dir);
	nftw(data, etcd_unlink, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void etcd_end(struct etcd_server *s)
{
	etcd_kill(s);
	cairn_channel_free(s->admin);
	nftw(s->dir, etcd_unlink, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- what an admin does ---- */

static inline ProtobufCMessage *etcd_admin(struct etcd_server *s, const char *path,
					   const ProtobufCMessage *q,
					   const ProtobufCMessageDescriptor *type)
{
	struct cairn_err err;
	ProtobufCMessage *m = NULL;
	OK(cairn_channel_unary(s->admin, path, NULL, 0, 20000, q, type, &m, &err));
	return m;
}

static inline ProtobufCBinaryData etcd_text(const char *text)
{
	return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

static inline Etcdserverpb__RangeRequest etcd_range_of(const char *key, char *end)
{
	Etcdserverpb__RangeRequest q = ETCDSERVERPB__RANGE_REQUEST__INIT;
	q.key = etcd_text(key);
	size_t n = strlen(key);
	if (key[n - 1] == '/') {
		memcpy(end, key, n + 1);
		end[n - 1] = '0';
		q.range_end = etcd_text(end);
	}
	return q;
}

static inline bool etcd_answers(struct etcd_server *s)
{
	struct cairn_err err;
	ProtobufCMessage *m;
	char end[512];
	Etcdserverpb__RangeRequest q = etcd_range_of("x", end);
	if (cairn_channel_unary(s->admin, "/etcdserverpb.KV/Range", NULL, 0, 1000, &q.base,
				&etcdserverpb__range_response__descriptor, &m, &err) != CAIRN_OK) {
		return false;
	}
	protobuf_c_message_free_unpacked(m, NULL);
	return true;
}

/* The key, or all that begin with it if it ends in "/". */
static inline Etcdserverpb__RangeResponse *etcd_get(struct etcd_server *s, const char *key)
{
	char end[512];
	Etcdserverpb__RangeRequest q = etcd_range_of(key, end);
	return (Etcdserverpb__RangeResponse *)(void *)etcd_admin(
		s, "/etcdserverpb.KV/Range", &q.base, &etcdserverpb__range_response__descriptor);
}

static inline void etcd_free(Etcdserverpb__RangeResponse *r)
{
	protobuf_c_message_free_unpacked(&r->base, NULL);
}

static inline size_t etcd_count(struct etcd_server *s, const char *key)
{
	char end[512];
	Etcdserverpb__RangeRequest q = etcd_range_of(key, end);
	q.count_only = true;
	Etcdserverpb__RangeResponse *r = (Etcdserverpb__RangeResponse *)(void *)etcd_admin(
		s, "/etcdserverpb.KV/Range", &q.base, &etcdserverpb__range_response__descriptor);
	size_t n = (size_t)r->count;
	etcd_free(r);
	return n;
}

/* The store's revision: it counts writes. */
static inline int64_t etcd_revision(struct etcd_server *s)
{
	Etcdserverpb__RangeResponse *r = etcd_get(s, "x");
	int64_t revision = r->header->revision;
	etcd_free(r);
	return revision;
}

/* 0: it has none, or is not there. */
static inline int64_t etcd_lease_of(struct etcd_server *s, const char *key)
{
	Etcdserverpb__RangeResponse *r = etcd_get(s, key);
	int64_t lease = r->n_kvs > 0 ? r->kvs[0]->lease : 0;
	etcd_free(r);
	return lease;
}

static inline void etcd_put(struct etcd_server *s, const char *key, const void *value, size_t n,
			    int64_t lease)
{
	Etcdserverpb__PutRequest q = ETCDSERVERPB__PUT_REQUEST__INIT;
	q.key = etcd_text(key);
	q.value = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)value};
	q.lease = lease;
	protobuf_c_message_free_unpacked(etcd_admin(s, "/etcdserverpb.KV/Put", &q.base,
						    &etcdserverpb__put_response__descriptor),
					 NULL);
}

static inline void etcd_revoke(struct etcd_server *s, int64_t lease)
{
	Etcdserverpb__LeaseRevokeRequest q = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	q.id = lease;
	protobuf_c_message_free_unpacked(
		etcd_admin(s, "/etcdserverpb.Lease/LeaseRevoke", &q.base,
			   &etcdserverpb__lease_revoke_response__descriptor),
		NULL);
}

static inline int64_t etcd_grant(struct etcd_server *s, int64_t ttl)
{
	Etcdserverpb__LeaseGrantRequest q = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	q.ttl = ttl;
	ProtobufCMessage *m = etcd_admin(s, "/etcdserverpb.Lease/LeaseGrant", &q.base,
					 &etcdserverpb__lease_grant_response__descriptor);
	int64_t id = ((Etcdserverpb__LeaseGrantResponse *)(void *)m)->id;
	protobuf_c_message_free_unpacked(m, NULL);
	return id;
}

/* ---- a relay ---- */

#define RELAY_PAIRS 32

struct relay {
	int listener, port, to_port;
	int fds[RELAY_PAIRS][2];
	size_t n;
	_Atomic bool cut, stop;	 /* cut: nothing passes, and nothing is closed */
	_Atomic unsigned rounds; /* in which it passed nothing, because of that */
	pthread_t thread;
};

static inline int relay_dial(int port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_port = htons((uint16_t)port),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) return fd;
	if (fd >= 0) close(fd);
	return -1;
}

static inline void relay_accept(struct relay *r)
{
	int in = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC);
	int out = in < 0 || r->n == RELAY_PAIRS ? -1 : relay_dial(r->to_port);
	if (out < 0) {
		if (in >= 0) close(in);
		return;
	}
	r->fds[r->n][0] = in;
	r->fds[r->n++][1] = out;
}

/* False: the pair is over. */
static inline bool relay_pass(int from, int to)
{
	char buf[65536];
	ssize_t n = recv(from, buf, sizeof(buf), 0);
	return n > 0 && send(to, buf, (size_t)n, MSG_NOSIGNAL) == n;
}

static inline void relay_close(struct relay *r, size_t i)
{
	close(r->fds[i][0]);
	close(r->fds[i][1]);
	r->n--;
	r->fds[i][0] = r->fds[r->n][0];
	r->fds[i][1] = r->fds[r->n][1];
}

static inline void *relay_run(void *arg)
{
	struct relay *r = arg;
	while (!r->stop) {
		struct pollfd p[1 + 2 * RELAY_PAIRS];
		size_t n = r->n;
		p[0] = (struct pollfd){.fd = r->listener, .events = POLLIN};
		for (size_t i = 0; i < 2 * n; i++) {
			p[1 + i] = (struct pollfd){.fd = r->fds[i / 2][i % 2], .events = POLLIN};
		}
		bool cut = r->cut;
		if (cut) r->rounds++;
		if (poll(p, cut ? 0 : (nfds_t)(1 + 2 * n), 20) <= 0 || cut) continue;
		for (size_t i = n; i-- > 0;) {
			int *fds = r->fds[i];
			if ((p[1 + 2 * i].revents != 0 && !relay_pass(fds[0], fds[1])) ||
			    (p[2 + 2 * i].revents != 0 && !relay_pass(fds[1], fds[0]))) {
				relay_close(r, i);
			}
		}
		if (p[0].revents != 0) relay_accept(r);
	}
	return NULL;
}

static inline void relay_start(struct relay *r, int to_port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	*r = (struct relay){.to_port = to_port};
	r->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(r->listener >= 0);
	assert_int_equal(bind(r->listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(r->listener, 16), 0);
	assert_int_equal(getsockname(r->listener, (struct sockaddr *)&addr, &len), 0);
	r->port = ntohs(addr.sin_port);
	assert_int_equal(pthread_create(&r->thread, NULL, relay_run, r), 0);
}

/* From now on nothing passes. */
static inline void relay_cut(struct relay *r)
{
	unsigned before = r->rounds;
	r->cut = true;
	UNTIL(r->rounds > before);
}

/* Is something on its way to the server, while nothing passes? */
static inline bool relay_holds(const struct relay *r)
{
	for (size_t i = 0; i < r->n; i++) {
		int n = 0;
		if (ioctl(r->fds[i][0], FIONREAD, &n) == 0 && n > 0) return true;
	}
	return false;
}

static inline void relay_end(struct relay *r)
{
	r->stop = true;
	pthread_join(r->thread, NULL);
	while (r->n > 0) relay_close(r, 0);
	close(r->listener);
}

#endif
