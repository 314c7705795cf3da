/* Certificates for a cluster without a PKI of its own: cairnctl certs. */
#ifndef CAIRN_CMD_CAIRNCTL_CERTS_H
#define CAIRN_CMD_CAIRNCTL_CERTS_H

#include <stdbool.h>
#include <time.h>

#include "base/err.h"
#include "base/own.h"

#define CERTS_NAME_MAX 64    /* bytes of a common name (X.520) */
#define CERTS_ALTS_MAX 64    /* --dns and --ip of one certificate */
#define CERTS_DAYS_MAX 36500 /* that a certificate may be good for */
#define CERTS_PATH_MAX 4096

/* What was made. */
struct certs_made {
	char cert[CERTS_PATH_MAX], key[CERTS_PATH_MAX];
	time_t not_after;
};

/* Make an authority: dir/ca.pem and dir/ca.key, and dir (mode 0700) if there is none.
 * Errors: FAILED_PRECONDITION (one of the files is there), INVALID_ARGUMENT, those of files. */
CAIRN_CHECKED enum cairn_code certs_init(const char *dir, const char *name, int days,
					 struct certs_made *ret, struct cairn_err *err);

struct certs_request {
	const char *dir;  /* the authority's */
	const char *out;  /* folder for NAME.pem and NAME.key */
	const char *name; /* checked: a file's name, too */
	const char *alts; /* checked: as OpenSSL's subjectAltName has them, "DNS:a,IP:1.2.3.4" */
	int days;
	bool admin;   /* a client's only: for one who calls nodes, and is none */
	bool replace; /* files that are there */
};

/* Make a node's key and certificate, for both sides of TLS, or an admin's. Errors: as certs_init,
 * and FAILED_PRECONDITION if the authority would end before it. */
CAIRN_CHECKED enum cairn_code certs_issue(const struct certs_request *request,
					  struct certs_made *ret, struct cairn_err *err);

/* Write a file whole or not at all, and a name for it that no other file has unless replace.
 * Errors: FAILED_PRECONDITION (there is one), else those of the system. */
CAIRN_CHECKED enum cairn_code certs_write(const char *path, unsigned mode, bool replace,
					  const void *data, size_t n, struct cairn_err *err);

#endif
