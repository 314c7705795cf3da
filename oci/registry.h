/* A client of image registries: manifests and blobs over HTTP, with whatever a registry asks for on
 * the way (tokens, redirects, patience). Follows the OCI distribution specification, and Docker's
 * token authentication.
 *
 * Nothing that comes back is trusted: a manifest is checked against its digest before it is
 * returned; a blob's bytes are handed on as they come, and whoever takes them checks them. Secrets
 * are never logged nor part of an error, and go to the host that they are for only.
 *
 * Threads: struct cairn_registry any thread; a session one thread at a time. Every call is bounded:
 * by its own time limits, and by `go_on`, which is asked several times a second. The process must
 * ignore SIGPIPE (cairn_rpc_new does it). Proxies are those of the environment (http_proxy,
 * https_proxy, no_proxy). */
#ifndef CAIRN_OCI_REGISTRY_H
#define CAIRN_OCI_REGISTRY_H

#include "base/rate.h"
#include "base/view.h"
#include "oci/oci.h"

/* ---- options ---- */

/* One entry of registries.hosts. What has none is asked in https, on localhost too. */
struct cairn_registry_host {
	const char *host; /* as image names have it: host or host:port */
	bool plain_http;  /* http instead of https */
	const char *ca;	  /* file of PEM certificates to trust besides the system's; "": none */
	const char *const *mirrors; /* base URLs, tried in order before the host itself; "/v2" is
				       appended, if it does not end so */
	size_t n_mirrors;
};

struct cairn_registry_opts {
	const char *docker_config; /* file in the form of docker's config.json; "": none. Only its
				      auths: credential helpers are not run */
	const struct cairn_registry_host *hosts;
	size_t n_hosts;
	const char *user_agent;
	int64_t connect_ms;	  /* for one connection; 0: 10 s */
	int64_t stall_ms;	  /* without a byte; 0: 30 s */
	int64_t retry_ms;	  /* the longest first pause before trying again, doubled each time;
				     0: 500 ms */
	unsigned tries;		  /* of one request at one host, for what may pass; 0: 4 */
	struct cairn_rate *limit; /* of all sessions together, and of whoever else takes from it;
				     NULL: none */
};

/* Copies what it needs of opts, but borrows limit for its life. docker_config is read each time
 * that a host asks who we are, so it may change, and be wrong as long as nobody asks. Errors:
 * INVALID_ARGUMENT (a mirror that is no URL), INTERNAL. */
struct cairn_registry;
CAIRN_CHECKED enum cairn_code cairn_registry_new(const struct cairn_registry_opts *opts,
						 struct cairn_registry **ret,
						 struct cairn_err *err);
void cairn_registry_free(struct cairn_registry *registry); /* after its sessions; NULL is fine */

/* ---- sessions ---- */

/* Who asks, if not whom docker_config says. All NULL: nobody in particular. It is for the first
 * registry that the session asks, not for mirrors and not for other registries. */
struct cairn_registry_login {
	const char *username, *password;
	const char *identity_token; /* an OAuth2 refresh token, in place of a password */
};

/* Keep-alive connections and what was learnt of tokens. Borrows nothing of login. */
struct cairn_registry_session;
CAIRN_CHECKED enum cairn_code cairn_registry_session_new(struct cairn_registry *registry,
							 const struct cairn_registry_login *login,
							 struct cairn_registry_session **ret,
							 struct cairn_err *err);
void cairn_registry_session_free(struct cairn_registry_session *session); /* NULL is fine */

struct cairn_go_on {
	bool (*fn)(void *arg); /* false: stop, the call says CANCELLED; NULL: always on */
	void *arg;
};

/* ---- requests ----
 * Each is tried at the mirrors of the reference's registry in order, once each (one that cannot be
 * reached is left alone for 30 s), then at the registry itself, opts.tries times; a try that brings
 * new bytes does not count. The error told is the registry's own. Their errors:
 *   NOT_FOUND           404
 *   UNAUTHENTICATED     401 after all, or no credentials where some are asked for
 *   PERMISSION_DENIED   403
 *   RESOURCE_EXHAUSTED  429 after all patience
 *   UNAVAILABLE         no connection, 5xx, stall, broken off, after all tries
 *   DATA_LOSS           what came is not what its digest or length says
 *   INVALID_ARGUMENT    what came makes no sense (no manifest, too long)
 *   FAILED_PRECONDITION the certificate is not trusted, or TLS where plain HTTP is spoken
 *   CANCELLED           go_on said so */

struct cairn_registry_manifest {
	void *json; /* owned: free() */
	size_t len;
	struct cairn_digest digest; /* of json */
	char media_type[128];
};

/* The manifest or index that ref stands for (its digest, if it has one, else its tag). */
CAIRN_CHECKED enum cairn_code cairn_registry_get_manifest(struct cairn_registry_session *session,
							  const struct cairn_reference *ref,
							  const struct cairn_go_on *go_on,
							  struct cairn_registry_manifest *ret,
							  struct cairn_err *err);

/* What the tag stands for now (without a tag: whether the digest is there), without its bytes: one
 * HEAD; where that tells no digest, a GET follows. *ret_size: of the manifest; 0: not told. */
CAIRN_CHECKED enum cairn_code cairn_registry_resolve(struct cairn_registry_session *session,
						     const struct cairn_reference *ref,
						     const struct cairn_go_on *go_on,
						     struct cairn_digest *ret, uint64_t *ret_size,
						     struct cairn_err *err);

/* The bytes of the last answer were not what their digest says: the mirror that sent them, if it
 * was one, is left alone for 30 s, so that another try asks somebody else. */
void cairn_registry_doubt(struct cairn_registry_session *session);

/* Takes the next bytes of a blob, in order, each once. Anything but OK ends the request, and is its
 * result. */
typedef enum cairn_code cairn_registry_sink_fn(void *arg, const void *data, size_t n,
					       struct cairn_err *err);

/* The bytes of a blob from offset on, up to size. A connection that breaks off is taken up again
 * where it broke (Range), also at another host; never are more than size - offset bytes handed on.
 * sink runs on the calling thread and may block. */
CAIRN_CHECKED enum cairn_code
cairn_registry_get_blob(struct cairn_registry_session *session, const struct cairn_reference *ref,
			const struct cairn_digest *digest, uint64_t offset, uint64_t size,
			const struct cairn_go_on *go_on, cairn_registry_sink_fn *sink, void *arg,
			struct cairn_err *err);

#endif
