/* Inside the registry client: what a registry and a session hold, and one request of a session,
 * wherever it ends up being asked. */
#ifndef CAIRN_OCI_SESSION_H
#define CAIRN_OCI_SESSION_H

#include <stdatomic.h>

#include "oci/auth.h"
#include "oci/http.h"
#include "oci/limit.h"
#include "oci/registry.h"

#define CAIRN_AUTHS_MAX 16 /* (host, repository) pairs that a session remembers tokens of */

/* ---- what is configured ---------------------------------------------------------------------- */

struct cairn_mirror {
	char *base; /* URL, without a slash at its end, and with /v2 */
	char *host; /* host or host:port */
	char *ca;
	bool https;
	size_t id; /* counts all mirrors */
};

struct cairn_host {
	char *name;
	char *ca;
	bool plain_http;
	struct cairn_mirror *mirrors;
	size_t n_mirrors;
};

/* Threads: immutable, but for what says otherwise. */
struct cairn_registry {
	char *docker_config; /* "": none */
	char *user_agent;
	int64_t connect_ms, stall_ms, retry_ms;
	unsigned tries;
	struct cairn_host *hosts;
	size_t n_hosts, n_mirrors;
	struct cairn_rate *limit;	      /* borrowed; NULL: none */
	atomic_bool told_config, told_helper; /* what was logged once */
};

/* ---- sessions -------------------------------------------------------------------------------- */

/* What is known of a host's wish to know who we are. */
struct cairn_auth {
	char *base; /* NULL: not in use */
	char repository[256];
	struct cairn_challenge challenge;
	char *header; /* of Authorization; secret; NULL: none yet */
	int64_t expires_ns;
};

/* Threads: one at a time. */
struct cairn_registry_session {
	struct cairn_registry *registry;
	struct cairn_http_client *client;
	struct cairn_credentials login;
	bool has_login;
	char login_for[256]; /* the first registry that was asked; "": none yet */
	struct cairn_auth auths[CAIRN_AUTHS_MAX];
	size_t next_auth;
	int64_t *mirror_down_ns;	     /* by a mirror's id: not asked again before */
	const struct cairn_mirror *answered; /* who gave the last answer; NULL: the registry */
};

/* ---- asking ---------------------------------------------------------------------------------- */

/* One request, tried at each host in turn. Its functions are called for each try. */
struct cairn_ask {
	struct cairn_registry_session *session;
	const struct cairn_reference *ref;
	const struct cairn_go_on *go_on;
	enum cairn_http_method method;
	const char *accept;
	const char *kind, *name; /* /v2/<repository>/<kind>/<name> */
	int64_t total_ms;
	void (*begin)(void *arg, struct cairn_http_request *request);
	cairn_http_body_fn *body;
	/* An answer below 300 has come. Errors: as body, may set again. */
	enum cairn_code (*end)(void *arg, const struct cairn_http_answer *answer,
			       struct cairn_err *err);
	void *arg;
	/* Of body and end: what was got so far; that nothing is missing; that it may be tried
	 * again; that it is over, whoever else could be asked; that Range is not understood by this
	 * host. */
	uint64_t progress;
	bool complete, again, over, no_range;
	int status; /* of the last answer; 0: none */
};

CAIRN_CHECKED enum cairn_code cairn_ask(struct cairn_ask *ask, struct cairn_err *err);

#endif
