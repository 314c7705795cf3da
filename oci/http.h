/* One HTTP request at a time, with redirects followed: all of curl is behind this.
 *
 * A client keeps connections open between requests. It believes nothing: headers, error bodies and
 * time are bounded; a redirect goes from https to https only, and takes no Authorization along to
 * another scheme, host or port.
 * Threads: owner thread only. The process must ignore SIGPIPE (cairn_rpc_new does it). */
#ifndef CAIRN_OCI_HTTP_H
#define CAIRN_OCI_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rate.h"
#include "oci/auth.h"
#include "oci/limit.h"
#include "oci/registry.h"
#include "oci/url.h"

#define CAIRN_HTTP_HEADERS_MAX 65536u /* bytes of all headers of an answer */
#define CAIRN_HTTP_ERROR_MAX 4096u    /* bytes kept of the body of an error */
#define CAIRN_HTTP_REDIRECTS_MAX 10

struct cairn_http_client_opts {
	const char *user_agent;
	int64_t connect_ms, stall_ms;
	struct cairn_rate *limit; /* shared; what bodies are taken from; NULL: no limit */
};

struct cairn_http_client;
/* Errors: INTERNAL. Borrows limit for the client's life. */
CAIRN_CHECKED enum cairn_code cairn_http_client_new(const struct cairn_http_client_opts *opts,
						    struct cairn_http_client **ret,
						    struct cairn_err *err);
void cairn_http_client_free(struct cairn_http_client *client); /* NULL is fine */

/* ---- requests -------------------------------------------------------------------------------- */

enum cairn_http_method { CAIRN_HTTP_GET, CAIRN_HTTP_HEAD, CAIRN_HTTP_POST };

struct cairn_http_answer {
	int status;	  /* of the last hop; 0: none came */
	bool own_origin;  /* it came from whom was asked, not from where a redirect went */
	bool stopped;	  /* by body, whose error it is */
	bool has_length;  /* Content-Length was told */
	uint64_t length;  /* it */
	char type[128];	  /* Content-Type without parameters, in lower case; "": none */
	char digest[160]; /* Docker-Content-Digest; "": none */
	char range[96];	  /* Content-Range; "": none */
	int64_t retry_ms; /* Retry-After; 0: none */
	struct cairn_challenge challenge; /* WWW-Authenticate, the best of them */
	char error[CAIRN_HTTP_ERROR_MAX]; /* the body's beginning, of a status from 300 on */
	size_t error_len;
};

/* Takes the next bytes of a body whose status is below 300; answer's headers are there. */
typedef enum cairn_code cairn_http_body_fn(void *arg, const struct cairn_http_answer *answer,
					   const void *data, size_t n, struct cairn_err *err);

struct cairn_http_request {
	enum cairn_http_method method;
	const char *url;
	const char *accept;	   /* NULL: anything */
	const char *authorization; /* the header's value; NULL: none. Secret */
	const char *form;	   /* of a POST. Secret */
	const char *ca;		   /* file of PEM certificates to trust as well; "": none */
	uint64_t from;		   /* bytes from here on (Range); 0: all */
	int64_t total_ms;	   /* for everything; 0: no bound but stall and headers */
	cairn_http_body_fn *body;  /* NULL: dropped */
	void *arg;
};

/* Where a redirect from url to location (relative, or absolute) goes.
 * Errors: INVALID_ARGUMENT (no URL, with credentials, or from https to http). */
CAIRN_CHECKED enum cairn_code cairn_http_redirect(const struct cairn_url *url, const char *location,
						  struct cairn_url *ret, struct cairn_err *err);

/* OK: an answer came, of whatever status; below 300 it came whole, as far as HTTP tells.
 * Errors: UNAVAILABLE (no connection, broken off, too slow: may pass), FAILED_PRECONDITION (TLS),
 * INVALID_ARGUMENT (headers or redirects that make no sense), CANCELLED, and body's own. */
CAIRN_CHECKED enum cairn_code cairn_http_do(struct cairn_http_client *client,
					    const struct cairn_http_request *request,
					    const struct cairn_go_on *go_on,
					    struct cairn_http_answer *ret, struct cairn_err *err);

#endif
