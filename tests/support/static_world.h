/* Nodes of the static directory in one process, each with a real listener on loopback. After
 * cmocka.h.
 *
 * A node that is cut answers nothing, and is answered nothing, as if packets were lost. One that
 * is killed is closed in the same silence, but its sockets are closed, as a kernel does. */
#ifndef CAIRN_TESTS_STATIC_WORLD_H
#define CAIRN_TESTS_STATIC_WORLD_H

#include <stdatomic.h>
#include <sys/random.h>

#include "p2p/pool.h"
#include "p2p/static.h"
#include "p2p/static_state.h"
#include "support/directory_world.h"

#define WORLD_NODES 6

struct static_node {
	struct static_world *world;
	size_t i;
	struct cairn_hello hello;
	struct cairn_listener *listener;
	struct cairn_directory *dir;
	atomic_bool cut, killed, ending;
};

struct static_world {
	struct cairn_tls_files *tls;
	size_t n;
	struct static_node nodes[WORLD_NODES];
	const char *peers[WORLD_NODES + 1]; /* what each is told; set by world_listen */
	size_t n_peers;
	/* of what is made from now on; see p2p/static.h */
	int (*resolve)(const char *host, const char *port, const struct addrinfo *hints,
		       struct addrinfo **ret);
	void (*free_resolved)(struct addrinfo *list);
};

static struct cairn_tls_files *static_world_tls; /* of worlds to come */

static inline struct static_node *world_peer(struct static_world *w, const char *address)
{
	for (size_t i = 0; i < w->n; i++) {
		if (strcmp(w->nodes[i].hello.address, address) == 0) return &w->nodes[i];
	}
	return NULL;
}

/* false: the connection is to end. */
static inline bool world_let_through(struct static_node *node, struct static_node *peer)
{
	if (peer != NULL && atomic_load(&peer->killed)) return false;
	bool cut = false;
	while (!atomic_load(&node->ending) &&
	       (atomic_load(&node->cut) || (peer != NULL && atomic_load(&peer->cut)))) {
		cut = true;
		usleep(2000);
	}
	return !cut && !atomic_load(&node->ending);
}

static inline bool world_serve_one(struct static_node *node, struct cairn_conn *conn)
{
	struct cairn_err err;
	struct cairn_frame frame;
	ProtobufCMessage *msg = NULL;
	const char *peer = cairn_conn_address(conn);
	if (cairn_conn_read_head(conn, 60000, &frame, &err) != CAIRN_OK ||
	    frame.type != CAIRN_FRAME_DIRECTORY_REQUEST ||
	    cairn_conn_read_message(conn, &frame, &cairn__peer__v1__directory_request__descriptor,
				    60000, &msg, &err) != CAIRN_OK) {
		return false;
	}
	bool ok = world_let_through(node, world_peer(node->world, peer));
	if (ok) {
		struct cairn_static_reply reply;
		cairn_static_answer(node->dir, peer, (const void *)msg, &reply);
		ok = cairn_conn_send_message(conn, CAIRN_FRAME_DIRECTORY_RESPONSE, &reply.msg.base,
					     60000, &err) == CAIRN_OK &&
		     cairn_conn_flush(conn, 60000, &err) == CAIRN_OK;
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return ok;
}

static inline void world_serve(void *arg, struct cairn_conn *conn)
{
	while (world_serve_one(arg, conn)) {
	}
}

/* Binds; the node's address is known then. */
static inline void world_listen(struct static_world *w, size_t i, const char *listen)
{
	struct static_node *node = &w->nodes[i];
	struct cairn_err err;
	node->world = w;
	node->i = i;
	const struct cairn_listener_opts opts = {.listen = listen,
						 .tls = w->tls,
						 .own = &node->hello,
						 .serve = world_serve,
						 .arg = node};
	if (cairn_listener_new(&opts, &node->listener, &err) != CAIRN_OK) fail_msg("%s", err.msg);
	char host[64] = "";
	memccpy(host, listen, ':', sizeof(host) - 1);
	(void)snprintf(node->hello.address, sizeof(node->hello.address), "%s%d", host,
		       cairn_listener_port(node->listener));
	(void)snprintf(node->hello.name, sizeof(node->hello.name), "node-%zu", i);
	assert_int_equal(getrandom(node->hello.instance, 16, 0), 16);
	if (i >= w->n) w->n = i + 1;
}

/* Its directory is made, and what it listened for is served. */
static inline void world_begin(struct static_world *w, size_t i)
{
	struct static_node *node = &w->nodes[i];
	struct cairn_err err;
	const struct cairn_static_opts opts = {.tls = w->tls,
					       .own = &node->hello,
					       .peers = w->peers,
					       .n_peers = w->n_peers,
					       .resolve = w->resolve,
					       .free_resolved = w->free_resolved,
					       .resolve_ms = 100};
	if (cairn_static_new(&opts, &node->dir, &err) != CAIRN_OK) fail_msg("%s", err.msg);
	atomic_store(&node->killed, false);
	atomic_store(&node->ending, false);
	if (cairn_listener_run(node->listener, &err) != CAIRN_OK) fail_msg("%s", err.msg);
}

static inline void world_end(struct static_node *node, int64_t timeout_ms)
{
	if (node->dir == NULL) return;
	atomic_store(&node->ending, true);
	cairn_listener_free(node->listener);
	node->dir->ops->close(node->dir, timeout_ms);
	node->dir = NULL;
	node->listener = NULL;
}

static inline struct cairn_directory *world_node(void *world, size_t i)
{
	return ((struct static_world *)world)->nodes[i].dir;
}

static inline const char *world_address(void *world, size_t i)
{
	return ((struct static_world *)world)->nodes[i].hello.address;
}

static inline size_t world_members(struct static_world *w, size_t i)
{
	return w->nodes[i].dir->ops->members(w->nodes[i].dir, NULL, 0);
}

/* All that live know each other. */
static inline bool world_complete(struct static_world *w)
{
	size_t live = 0;
	for (size_t i = 0; i < w->n; i++) live += w->nodes[i].dir != NULL;
	for (size_t i = 0; i < w->n; i++) {
		struct cairn_directory *dir = w->nodes[i].dir;
		if (dir == NULL) continue;
		if (world_members(w, i) != live || !dir->ops->flush(dir, 0)) return false;
	}
	return true;
}

static inline void *world_open(size_t n)
{
	struct static_world *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	w->tls = static_world_tls;
	for (size_t i = 0; i < n; i++) world_listen(w, i, "127.0.0.1:0");
	for (size_t i = 0; i < n; i++) w->peers[w->n_peers++] = w->nodes[i].hello.address;
	for (size_t i = 0; i < n; i++) world_begin(w, i);
	EVENTUALLY(world_complete(w));
	return w;
}

static inline void world_close(void *world)
{
	struct static_world *w = world;
	for (size_t i = 0; i < w->n; i++) atomic_store(&w->nodes[i].cut, false);
	for (size_t i = 0; i < w->n; i++) world_end(&w->nodes[i], 0);
	free(w);
}

static inline void world_kill(void *world, size_t i)
{
	struct static_node *node = &((struct static_world *)world)->nodes[i];
	atomic_store(&node->killed, true);
	world_end(node, 0);
}

static inline void world_stop(void *world, size_t i)
{
	world_end(&((struct static_world *)world)->nodes[i], SUITE_CALL_MS);
}

static inline void world_restart(void *world, size_t i)
{
	struct static_world *w = world;
	char address[CAIRN_ADDRESS_MAX];
	memcpy(address, w->nodes[i].hello.address, sizeof(address));
	world_listen(w, i, address);
	memcpy(w->nodes[i].hello.address, address, sizeof(address));
	world_begin(w, i);
}

/* Every arbiter has lost what it knew of it, as if all others had been restarted. */
static inline void world_forget(void *world, size_t i)
{
	struct static_world *w = world;
	for (size_t k = 0; k < w->n; k++) {
		if (k == i || w->nodes[k].dir == NULL) continue;
		cairn_memory_forget(static_of(w->nodes[k].dir)->mem, w->nodes[i].hello.address);
	}
}

static inline void world_cut(void *world, size_t i)
{
	atomic_store(&((struct static_world *)world)->nodes[i].cut, true);
}

static inline void world_heal(void *world, size_t i)
{
	atomic_store(&((struct static_world *)world)->nodes[i].cut, false);
}

static const struct suite_world static_world_ops = {
	.nodes_max = WORLD_NODES,
	.open = world_open,
	.close = world_close,
	.node = world_node,
	.address = world_address,
	.kill = world_kill,
	.stop = world_stop,
	.restart = world_restart,
	.forget = world_forget,
	.cut = world_cut,
	.heal = world_heal,
};

#endif
