/* URLs of registries, mirrors, token servers and redirects. Threads: immutable. */
#ifndef CAIRN_OCI_URL_H
#define CAIRN_OCI_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/own.h"

#define CAIRN_URL_MAX 8192 /* bytes of one */
#define CAIRN_URL_SHOW 200

struct cairn_url {
	char *text;   /* owned, as are the others */
	char *origin; /* "https://host:port", in lower case, the port always told */
	char *host;   /* "host", or "host:port" where the port is not the scheme's own */
	bool https;
	bool has_query;
};

/* An http or https URL; base: what a relative one is relative to, or NULL.
 * Errors: INVALID_ARGUMENT (not one, too long, or with a user name or password in it). */
CAIRN_CHECKED enum cairn_code cairn_url_parse(const char *text, const char *base,
					      struct cairn_url *ret, struct cairn_err *err);
void cairn_url_fini(struct cairn_url *url); /* all zero is fine, and what is left */

/* url with name=value appended to its query, value encoded; owned. url has been parsed before. */
char *cairn_url_add(const char *url, const char *name, const char *value);

/* "name=value&name=value…" of a form, appended to *form (owned, may be NULL). */
void cairn_form_add(char **form, const char *name, const char *value);

/* For people: without query, which may hold a signature, or credentials; printable; cut. */
const char *cairn_url_show(const char *url, char buf[static CAIRN_URL_SHOW]);

#endif
