/* The certificates of the peer port: mutual TLS 1.3, a CA of the cluster's own, files that may be
 * replaced while we run. This folder is OpenSSL's only user for TLS of peers.
 *
 * Who holds a certificate of that CA, fit for servers and for clients, is a node of the cluster.
 * What a certificate is called is not compared with what was dialled: nodes are dialled by
 * addresses that change. So the CA must be one that signs nothing else. The system's roots are not
 * trusted. Sessions are not resumed: each connection's certificate is checked.
 *
 * Threads: any. */
#ifndef CAIRN_P2P_TLS_H
#define CAIRN_P2P_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/own.h"

#define CAIRN_TLS_NAME_MAX 256 /* bytes of a certificate's name, with its end */

#define CAIRN_TLS_NAMES_MAX 64 /* of one certificate that are looked at */

struct cairn_tls_files;

/* Paths of PEM files; ca and cert may have several certificates. Errors: INVALID_ARGUMENT, naming
 * file and fault: unreadable, no certificate, key that does not fit, expired, not of that CA, not
 * for both servers and clients. */
CAIRN_CHECKED enum cairn_code cairn_tls_files_load(const char *ca, const char *cert,
						   const char *key, struct cairn_tls_files **ret,
						   struct cairn_err *err);
/* Again from the same paths, for new connections. On an error the old ones stay. */
CAIRN_CHECKED enum cairn_code cairn_tls_files_reload(struct cairn_tls_files *files,
						     struct cairn_err *err);
/* When our certificate ends, in seconds since 1970. */
int64_t cairn_tls_files_end_s(struct cairn_tls_files *files);
/* Connections made with them live on. NULL is fine. */
void cairn_tls_files_free(struct cairn_tls_files *files);

/* From now on servers also speak HTTP/2 ("h2") with clients who ask for it by ALPN: gRPC. Before
 * the first connection. */
void cairn_tls_files_offer_h2(struct cairn_tls_files *files);

/* A new TLS state for one connection. NULL: no memory. */
SSL *cairn_tls_new(struct cairn_tls_files *files, bool server);

/* After a handshake that went well: INVALID_ARGUMENT if the other does not speak our protocol
 * inside TLS (nor, if it is the client, HTTP/2 where that is offered); UNAUTHENTICATED if it does,
 * but with a certificate that is none of a node: for clients only. */
CAIRN_CHECKED enum cairn_code cairn_tls_check(SSL *ssl, struct cairn_err *err);
/* ... and whether it is HTTP/2 that is spoken. */
bool cairn_tls_is_h2(SSL *ssl);

/* Why the last operation on it failed, in words, and whose fault that is: UNAUTHENTICATED
 * (certificates: says whose and which), INVALID_ARGUMENT (not our protocol), UNAVAILABLE (all
 * else). Reads this thread's queue of OpenSSL errors. */
enum cairn_code cairn_tls_fault(SSL *ssl, struct cairn_err *err);

/* The first DNS name in the other's certificate, else its common name; "": neither. */
void cairn_tls_peer_name(SSL *ssl, char ret[static CAIRN_TLS_NAME_MAX]);

/* All names in the other's certificate: its common name, and subject alternative names that are DNS
 * names, addresses (as inet_ntop writes them), URIs or e-mail addresses. A name that is too long,
 * or has control characters, is none; nor are those after CAIRN_TLS_NAMES_MAX. */
struct cairn_tls_names {
	size_t n;
	char name[CAIRN_TLS_NAMES_MAX][CAIRN_TLS_NAME_MAX];
};
void cairn_tls_peer_names(SSL *ssl, struct cairn_tls_names *ret);
/* The same of any certificate: for tests. */
void cairn_tls_names_of(const X509 *cert, struct cairn_tls_names *ret);

#endif
