/* Two ends of a connection between peers, over loopback. After cmocka.h. */
#ifndef CAIRN_TESTS_PEERS_H
#define CAIRN_TESTS_PEERS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "p2p/conn.h"
#include "p2p/tls.h"
#include "support/certs.h"

#define PEERS_MS 10000 /* for what is to go well */

static inline struct cairn_hello peers_hello(const char *address, uint8_t instance)
{
	struct cairn_hello hello = {.instance = {instance}};
	snprintf(hello.address, sizeof(hello.address), "%s", address);
	snprintf(hello.name, sizeof(hello.name), "node-%u", instance);
	return hello;
}

/* The files <name>.crt and <name>.key with ca.crt. */
static inline struct cairn_tls_files *peers_tls(const struct certs *c, const char *name)
{
	char ca[160], cert[160], key[160], file[64];
	struct cairn_tls_files *files = NULL;
	struct cairn_err err;
	certs_path(c, "ca.crt", ca);
	snprintf(file, sizeof(file), "%s.crt", name);
	certs_path(c, file, cert);
	snprintf(file, sizeof(file), "%s.key", name);
	certs_path(c, file, key);
	if (cairn_tls_files_load(ca, cert, key, &files, &err) != CAIRN_OK) fail_msg("%s", err.msg);
	return files;
}

/* A listening socket of 127.0.0.1 and its address. */
static inline int peers_listen(int backlog, char address[static CAIRN_ADDRESS_MAX])
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, n), 0);
	assert_int_equal(listen(fd, backlog), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
	snprintf(address, CAIRN_ADDRESS_MAX, "127.0.0.1:%u", ntohs(at.sin_port));
	return fd;
}

/* A plain socket that is connected with it. */
static inline int peers_raw(const char *address)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1))};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

/* One connection is accepted on a thread of its own. */
struct peers_server {
	int listen_fd;
	char address[CAIRN_ADDRESS_MAX];
	struct cairn_tls_files *tls;
	struct cairn_hello hello;
	int64_t timeout_ms;
	pthread_t thread;
	struct cairn_conn *conn; /* NULL: refused */
	struct cairn_err err;
};

static inline void *peers_accept(void *arg)
{
	struct peers_server *s = arg;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0) abort();
	if (cairn_conn_accept(s->tls, fd, &s->hello, s->timeout_ms, &s->conn, &s->err) != CAIRN_OK)
		s->conn = NULL;
	return NULL;
}

static inline void peers_begin(struct peers_server *s, struct cairn_tls_files *tls)
{
	*s = (struct peers_server){.tls = tls, .timeout_ms = PEERS_MS};
	s->listen_fd = peers_listen(8, s->address);
	s->hello = peers_hello(s->address, 1);
	assert_int_equal(pthread_create(&s->thread, NULL, peers_accept, s), 0);
}

/* What became of it is in s->conn and s->err. */
static inline void peers_join(struct peers_server *s)
{
	pthread_join(s->thread, NULL);
	close(s->listen_fd);
}

/* A whole connection: NULL tls for plain text. */
static inline void peers_connect(struct cairn_tls_files *tls, struct cairn_conn **ret_client,
				 struct cairn_conn **ret_server)
{
	struct peers_server s;
	struct cairn_err err;
	const struct cairn_hello hello = peers_hello("10.9.8.7:4444", 2);
	peers_begin(&s, tls);
	if (cairn_conn_dial(tls, s.address, &hello, PEERS_MS, ret_client, &err) != CAIRN_OK)
		fail_msg("%s", err.msg);
	peers_join(&s);
	if (s.conn == NULL) fail_msg("%s", s.err.msg);
	*ret_server = s.conn;
}

#endif
