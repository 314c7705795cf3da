/* The certificates of the peer port: mutual TLS 1.3, a CA of the cluster's own, files that may be
 * replaced while we run. Threads: any. This folder is OpenSSL's only user for TLS of peers. */
#ifndef CAIRN_P2P_TLS_H
#define CAIRN_P2P_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "base/err.h"
#include "base/own.h"

struct cairn_tls_files;

/* Paths of PEM files. Errors: INVALID_ARGUMENT, naming file and fault: unreadable, no certificate,
 * key that does not fit, expired. */
CAIRN_CHECKED enum cairn_code cairn_tls_files_load(const char *ca, const char *cert,
						   const char *key, struct cairn_tls_files **ret,
						   struct cairn_err *err);
/* Again from the same paths, for new connections. On an error the old ones stay. */
CAIRN_CHECKED enum cairn_code cairn_tls_files_reload(struct cairn_tls_files *files,
						     struct cairn_err *err);
void cairn_tls_files_free(struct cairn_tls_files *files); /* NULL is fine */

/* A new TLS state for one connection. */
SSL *cairn_tls_new(struct cairn_tls_files *files, bool server);

#endif
