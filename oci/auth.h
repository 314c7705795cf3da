/* Who we are, to a registry that asks: challenges, credentials, tokens.
 * Spec: RFC 7235; distribution's "Token Authentication Specification" and its OAuth2 variant. */
#ifndef CAIRN_OCI_AUTH_H
#define CAIRN_OCI_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oci/registry.h"

struct cairn_http_client;

/* ---- challenges ------------------------------------------------------------------------------ */

enum cairn_auth_scheme { CAIRN_AUTH_NONE = 0, CAIRN_AUTH_BASIC, CAIRN_AUTH_BEARER };

struct cairn_challenge {
	enum cairn_auth_scheme scheme;
	char realm[1024]; /* Bearer: the token server's URL */
	char service[256];
	char scope[1024]; /* several are separated by spaces */
};

/* Of one WWW-Authenticate header the challenge that we can answer best: Bearer before Basic. Others
 * are passed over, also those with values that are too long or not printable. */
void cairn_challenge_parse(const char *header, size_t n, struct cairn_challenge *ret);

/* ---- credentials ----------------------------------------------------------------------------- */

/* Secrets; all NULL: none. */
struct cairn_credentials {
	char *username, *password, *identity_token;
};

void cairn_credentials_fini(struct cairn_credentials *credentials); /* wiped */
void cairn_secret_free(char *secret);				    /* wiped; NULL is fine */

#define CAIRN_DOCKER_CONFIG_MAX (1u << 20) /* bytes of it */

/* What docker's config.json (text, of a file of that name) knows of a repository of a registry.
 * Helpers are not run: *ret_helper tells that one would be in charge. Nothing of the text is in an
 * error.
 * Errors: INVALID_ARGUMENT (not JSON, or an entry that makes no sense). */
CAIRN_CHECKED enum cairn_code cairn_docker_config_find(const char *text, size_t n,
						       const char *registry, const char *repository,
						       struct cairn_credentials *ret,
						       bool *ret_helper, struct cairn_err *err);

/* The same of a file. Errors: also FAILED_PRECONDITION (cannot be read). */
CAIRN_CHECKED enum cairn_code cairn_docker_config_read(const char *path, const char *registry,
						       const char *repository,
						       struct cairn_credentials *ret,
						       bool *ret_helper, struct cairn_err *err);

/* ---- authorization --------------------------------------------------------------------------- */

#define CAIRN_TOKEN_ANSWER_MAX (1u << 20) /* bytes of a token server's answer */
#define CAIRN_TOKEN_MAX 32768u		  /* bytes of a token */

/* What of an Authorization header's value is secret; NULL: nothing, or no header. */
const char *cairn_secret_part(const char *header);

/* How a request may be tried again. */
struct cairn_again {
	bool yes;
	int64_t wait_ms; /* as the server wants it; 0: as we like */
};

/* The value of an Authorization header that answers challenge.
 * ret_expires_ns: boot time from which on it is worth nothing; INT64_MAX: never.
 * Errors: UNAUTHENTICATED (no credentials, or bad ones), PERMISSION_DENIED, INVALID_ARGUMENT (an
 * answer that makes no sense), and those of cairn_http_do. */
struct cairn_authorize {
	struct cairn_http_client *client;
	const struct cairn_challenge *challenge;
	const struct cairn_credentials *credentials;
	const char *repository; /* what for, if the challenge does not say */
	const char *ca;
	bool plain_http; /* the registry is asked in plain HTTP, so the token server may be */
	const struct cairn_go_on *go_on;
};
CAIRN_CHECKED enum cairn_code cairn_authorize(const struct cairn_authorize *a, char **ret,
					      int64_t *ret_expires_ns, struct cairn_again *again,
					      struct cairn_err *err);

#endif
