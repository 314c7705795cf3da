#include "cmd/cairnd_remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cmd/cairnd_audit.h"

#define STRANGER_LINES 10 /* about calls of strangers, in a second */

struct cairnd_session {
	struct cairnd_remote *remote;
	struct cairn_rpc_server *server;
	bool admin;
	char who[256];	/* the name that is an admin's, else the first */
	char from[300]; /* its address */
	/* Guarded by remote->mu. Who finds it LIVE, drains it, once: the connection's end or the
	 * daemon's. It is freed by its connection, when it is DRAINED. */
	enum { LIVE, DRAINING, DRAINED } state;
	LIST_ENTRY(cairnd_session) link;
};

/* ---- who may call what ---- */

static bool begins(const char *path, const char *with)
{
	return strncmp(path, with, strlen(with)) == 0;
}

static enum cairn_code admit(void *arg, const char *path, struct cairn_err *err)
{
	const struct cairnd_session *session = arg;
	if (!session->admin) {
		return cairn_err_set(err, CAIRN_PERMISSION_DENIED,
				     "the certificate \"%.100s\" is no admin's here: none of its "
				     "names is in p2p.admins of this node",
				     session->who);
	}
	if (strcmp(path, "/cairn.v1.Cairn/Import") == 0 ||
	    strcmp(path, "/cairn.v1.Cairn/Export") == 0) {
		return cairn_err_set(err, CAIRN_PERMISSION_DENIED,
				     "import and export are about folders of the node, and are to "
				     "be had on its socket only: call them there");
	}
	if (begins(path, "/cairn.v1.Cairn/") || begins(path, "/grpc.health.v1.Health/")) {
		return CAIRN_OK;
	}
	return cairn_err_set(err, CAIRN_PERMISSION_DENIED,
			     "the port for other nodes has no %.100s: only cairn.v1.Cairn and "
			     "grpc.health.v1.Health can be called there",
			     path);
}

static bool is_admin(const struct cairnd_remote *remote, const char *name)
{
	for (size_t i = 0; i < remote->admins->n; i++) {
		if (strcmp(remote->admins->items[i], name) == 0) return true;
	}
	return false;
}

static void recognise(struct cairnd_session *session, const char *const *names, size_t n)
{
	const char *who = n > 0 ? names[0] : "";
	for (size_t i = 0; i < n && !session->admin; i++) {
		session->admin = is_admin(session->remote, names[i]);
		if (session->admin) who = names[i];
	}
	snprintf(session->who, sizeof(session->who), "%s", who);
}

/* ---- what is told of it ---- */

/* Strangers may have no more lines than are worth reading. *ret_others: those that had none. */
static bool has_line(struct cairnd_remote *remote, unsigned *ret_others)
{
	int64_t now = cairn_boot_ns(&cairn_clock_system);
	pthread_mutex_lock(&remote->mu);
	if (now - remote->second_ns >= CAIRN_NS_PER_S) {
		remote->second_ns = now;
		remote->lines = 0;
	}
	bool yes = remote->lines < STRANGER_LINES;
	*ret_others = yes ? remote->unlogged : 0;
	remote->lines += yes;
	remote->unlogged = yes ? 0 : remote->unlogged + 1;
	pthread_mutex_unlock(&remote->mu);
	return yes;
}

static void ended(void *arg, const struct cairn_call_end *end)
{
	const struct cairnd_session *session = arg;
	unsigned others = 0;
	if (!session->admin && !has_line(session->remote, &others)) return;
	if (others > 0) {
		cairn_log(CAIRN_LOG_WARN, "audit_omitted", CAIRN_NUM("calls", others),
			  CAIRN_STR("why", "many refused calls within a second"));
	}
	cairnd_audit(session->who, session->from, end);
}

/* ---- sessions ---- */

/* A place for it, or why there is none. */
static enum cairn_code reserve(struct cairnd_session *session, struct cairn_err *err)
{
	struct cairnd_remote *remote = session->remote;
	enum cairn_code rc = CAIRN_OK;
	pthread_mutex_lock(&remote->mu);
	if (!remote->serving) {
		rc = cairn_err_set(err, CAIRN_UNAVAILABLE, "cairnd is starting or stopping");
	} else if (!session->admin && remote->strangers >= CAIRND_REMOTE_STRANGERS_MAX) {
		rc = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				   "the certificate \"%.100s\" is no admin's, and %d connections "
				   "of such are there already",
				   session->who, CAIRND_REMOTE_STRANGERS_MAX);
	} else {
		remote->opening++;
		remote->strangers += !session->admin;
	}
	pthread_mutex_unlock(&remote->mu);
	return rc;
}

static enum cairn_code serve(struct cairnd_session *session, int *fd, struct cairn_err *err)
{
	struct cairnd_remote *remote = session->remote;
	const struct cairn_rpc_watch watch = {.admit = admit, .ended = ended, .arg = session};
	enum cairn_code rc = cairn_rpc_server_new_small(remote->rpc, &session->server, err);
	if (rc) return rc;
	cairn_admin_service_add(session->server, remote->admin);
	cairn_health_service_add(session->server, remote->health);
	cairn_rpc_server_watch(session->server, &watch);
	rc = cairn_rpc_server_start(session->server, err);
	if (rc == CAIRN_OK) {
		cairn_rpc_server_adopt(session->server, *fd);
		*fd = -1;
	} else {
		cairn_rpc_server_free(session->server);
	}
	return rc;
}

static void *open_session(void *arg, int fd, const char *from, const char *const *names, size_t n,
			  struct cairn_err *err)
{
	struct cairnd_remote *remote = arg;
	struct cairnd_session *session = calloc(1, sizeof(*session));
	if (session == NULL) abort();
	session->remote = remote;
	snprintf(session->from, sizeof(session->from), "%s", from);
	recognise(session, names, n);
	enum cairn_code rc = reserve(session, err);
	if (rc == CAIRN_OK) {
		rc = serve(session, &fd, err);
		pthread_mutex_lock(&remote->mu);
		remote->opening--;
		if (rc == CAIRN_OK) {
			LIST_INSERT_HEAD(&remote->sessions, session, link);
		} else {
			remote->strangers -= !session->admin;
		}
		pthread_cond_broadcast(&remote->changed);
		pthread_mutex_unlock(&remote->mu);
	}
	if (rc == CAIRN_OK) return session;
	if (fd >= 0) (void)close(fd);
	free(session);
	return NULL;
}

/* With the lock held, and given up meanwhile. timeout_ms < 0: the caller is gone, and what he began
 * and nobody waits for now ends as it does with any caller who goes; else it is cairnd that goes.
 */
#define CALLER_GONE (-1)
static void drain_locked(struct cairnd_session *session, int64_t timeout_ms)
{
	struct cairnd_remote *remote = session->remote;
	session->state = DRAINING;
	pthread_mutex_unlock(&remote->mu);
	if (timeout_ms >= 0) {
		(void)cairn_rpc_server_drain(session->server, timeout_ms);
	} else {
		cairn_rpc_server_hang_up(session->server);
	}
	pthread_mutex_lock(&remote->mu);
	session->state = DRAINED;
	pthread_cond_broadcast(&remote->changed);
}

static void close_session(void *arg, void *opened)
{
	struct cairnd_remote *remote = arg;
	struct cairnd_session *session = opened;
	pthread_mutex_lock(&remote->mu);
	if (session->state == LIVE) drain_locked(session, CALLER_GONE);
	while (session->state != DRAINED) pthread_cond_wait(&remote->changed, &remote->mu);
	LIST_REMOVE(session, link);
	remote->strangers -= !session->admin;
	pthread_mutex_unlock(&remote->mu);
	cairn_rpc_server_free(session->server);
	free(session);
}

/* ---- begin and end ---- */

void cairnd_remote_init(struct cairnd_remote *remote, const struct cairn_config *config,
			struct cairn_callers *ret)
{
	remote->admins = &config->p2p.admins;
	pthread_mutex_init(&remote->mu, NULL);
	pthread_cond_init(&remote->changed, NULL);
	LIST_INIT(&remote->sessions);
	*ret = (struct cairn_callers){.open = NULL};
	if (remote->admins->n == 0) return;
	*ret = (struct cairn_callers){.open = open_session, .close = close_session, .arg = remote};
}

void cairnd_remote_begin(struct cairnd_remote *remote, struct cairn_rpc *rpc,
			 struct cairn_admin_service *admin, struct cairn_health_service *health)
{
	pthread_mutex_lock(&remote->mu);
	remote->rpc = rpc;
	remote->admin = admin;
	remote->health = health;
	remote->serving = true;
	pthread_mutex_unlock(&remote->mu);
}

/* A session that is LIVE, else one that is DRAINING, else NULL. */
static struct cairnd_session *unfinished_locked(struct cairnd_remote *remote)
{
	struct cairnd_session *session, *ret = NULL;
	LIST_FOREACH(session, &remote->sessions, link)
	{
		if (session->state == LIVE) return session;
		if (session->state == DRAINING) ret = session;
	}
	return ret;
}

void cairnd_remote_stop(struct cairnd_remote *remote, int64_t timeout_ms)
{
	int64_t end_ns = cairn_boot_ns(&cairn_clock_system) + timeout_ms * CAIRN_NS_PER_MS;
	struct cairnd_session *session;
	pthread_mutex_lock(&remote->mu);
	remote->serving = false;
	while (remote->opening > 0) pthread_cond_wait(&remote->changed, &remote->mu);
	while ((session = unfinished_locked(remote)) != NULL) {
		int64_t left_ns = end_ns - cairn_boot_ns(&cairn_clock_system);
		if (session->state == LIVE) {
			drain_locked(session, left_ns > 0 ? left_ns / CAIRN_NS_PER_MS : 0);
		} else {
			pthread_cond_wait(&remote->changed, &remote->mu);
		}
	}
	pthread_mutex_unlock(&remote->mu);
}

void cairnd_remote_fini(struct cairnd_remote *remote)
{
	pthread_cond_destroy(&remote->changed);
	pthread_mutex_destroy(&remote->mu);
}
