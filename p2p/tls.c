#include "p2p/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* AES-128 comes first: the cheapest where the CPU has instructions for AES. */
#define CIPHERS "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define CERTIFICATES_MAX 256	    /* in one file */
#define CHAIN_BYTES_MAX (64l << 10) /* that the other may send */

static const unsigned char alpn[] = "\x0c"
				    "cairn-peer/1";
#define ALPN_LEN (sizeof(alpn) - 1)
/* What a server chooses from, where HTTP/2 is offered. */
static const unsigned char alpn_or_h2[] = "\x0c"
					  "cairn-peer/1"
					  "\x02"
					  "h2";
#define ALPN_OR_H2_LEN (sizeof(alpn_or_h2) - 1)

struct cairn_tls_files {
	char *ca, *cert, *key;
	atomic_bool h2;
	pthread_mutex_t mu;
	SSL_CTX *ctx; /* guarded by mu; each connection has its own reference */
};

/* ---- reading files ---- */

/* The newest reason in OpenSSL's queue. */
static const char *ssl_reason(void)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());
	return reason != NULL ? reason : "no reason given";
}

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
	(void)buf, (void)size, (void)writing, (void)arg;
	return -1;
}

static FILE *open_pem(const char *path, struct cairn_err *err)
{
	FILE *file = fopen(path, "re");
	if (file == NULL) {
		cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: %s", path, strerror(errno));
	}
	return file;
}

static void free_certificates(STACK_OF(X509) * *certs)
{
	sk_X509_pop_free(*certs, X509_free);
}

/* All certificates of a file, at least one. */
static enum cairn_code read_certificates(const char *path, STACK_OF(X509) * *ret,
					 struct cairn_err *err)
{
	FILE *file = open_pem(path, err);
	if (file == NULL) return err->code;
	cairn_auto(free_certificates) STACK_OF(X509) *certs = sk_X509_new_null();
	if (certs == NULL) abort();
	enum cairn_code rc = CAIRN_OK;
	ERR_clear_error();
	for (X509 *cert; (cert = PEM_read_X509(file, NULL, no_passphrase, NULL)) != NULL;) {
		if (sk_X509_push(certs, cert) == 0) abort();
		if (sk_X509_num(certs) > CERTIFICATES_MAX) {
			rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					   "%s: more than %d certificates", path, CERTIFICATES_MAX);
			break;
		}
	}
	/* The end of the file is an error, too: that there is no further beginning. */
	if (rc == CAIRN_OK && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: damaged: %s", path,
				   ssl_reason());
	} else if (rc == CAIRN_OK && sk_X509_num(certs) == 0) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: no certificate in it", path);
	}
	ERR_clear_error();
	(void)fclose(file);
	if (rc == CAIRN_OK) *ret = cairn_steal(&certs);
	return rc;
}

static enum cairn_code use_ca(SSL_CTX *ctx, const char *path, struct cairn_err *err)
{
	cairn_auto(free_certificates) STACK_OF(X509) *certs = NULL;
	enum cairn_code rc = read_certificates(path, &certs, err);
	for (int i = 0; rc == CAIRN_OK && i < sk_X509_num(certs); i++) {
		X509 *cert = sk_X509_value(certs, i);
		if (X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), cert) != 1 ||
		    SSL_CTX_add_client_CA(ctx, cert) != 1) {
			rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: certificate %d: %s",
					   path, i + 1, ssl_reason());
		}
	}
	return rc;
}

static enum cairn_code use_certificate(SSL_CTX *ctx, const char *path, struct cairn_err *err)
{
	cairn_auto(free_certificates) STACK_OF(X509) *certs = NULL;
	enum cairn_code rc = read_certificates(path, &certs, err);
	for (int i = 0; rc == CAIRN_OK && i < sk_X509_num(certs); i++) {
		X509 *cert = sk_X509_value(certs, i);
		int well = i == 0 ? SSL_CTX_use_certificate(ctx, cert)
				  : (int)SSL_CTX_add1_chain_cert(ctx, cert);
		if (well != 1) {
			rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: %s", path,
					   ssl_reason());
		}
	}
	return rc;
}

static enum cairn_code use_key(SSL_CTX *ctx, const char *path, const char *cert,
			       struct cairn_err *err)
{
	FILE *file = open_pem(path, err);
	if (file == NULL) return err->code;
	EVP_PKEY *key = PEM_read_PrivateKey(file, NULL, no_passphrase, NULL);
	(void)fclose(file);
	enum cairn_code rc = CAIRN_OK;
	if (key == NULL) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				   "%s: no key that can be read without a passphrase: %s", path,
				   ssl_reason());
	} else if (X509_check_private_key(SSL_CTX_get0_certificate(ctx), key) != 1) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				   "%s: not the key of the certificate in %s", path, cert);
	} else if (SSL_CTX_use_PrivateKey(ctx, key) != 1) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: %s", path, ssl_reason());
	}
	EVP_PKEY_free(key);
	return rc;
}

/* Would others with this CA take our certificate? Better said now than by each of them. */
static enum cairn_code check_own(SSL_CTX *ctx, const char *path, struct cairn_err *err)
{
	static const char *const purposes[] = {"ssl_server", "ssl_client"};
	STACK_OF(X509) *chain = NULL;
	SSL_CTX_get0_chain_certs(ctx, &chain);
	enum cairn_code rc = CAIRN_OK;
	for (size_t i = 0; rc == CAIRN_OK && i < CAIRN_LEN(purposes); i++) {
		X509_STORE_CTX *check = X509_STORE_CTX_new();
		if (check == NULL ||
		    X509_STORE_CTX_init(check, SSL_CTX_get_cert_store(ctx),
					SSL_CTX_get0_certificate(ctx), chain) != 1 ||
		    X509_STORE_CTX_set_default(check, purposes[i]) != 1) {
			abort();
		}
		if (X509_verify_cert(check) != 1) {
			rc = cairn_err_set(
				err, CAIRN_INVALID_ARGUMENT,
				"%s: other nodes would refuse it as a %s's: %s", path,
				i == 0 ? "server" : "client",
				X509_verify_cert_error_string(X509_STORE_CTX_get_error(check)));
		}
		X509_STORE_CTX_free(check);
	}
	return rc;
}

/* ---- contexts ---- */

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
		       const unsigned char *in, unsigned in_len, void *arg)
{
	(void)ssl;
	const struct cairn_tls_files *files = arg; /* outlives its contexts' handshakes */
	bool h2 = atomic_load(&files->h2);
	unsigned char *chosen = NULL;
	int rc = SSL_select_next_proto(&chosen, out_len, h2 ? alpn_or_h2 : alpn,
				       h2 ? ALPN_OR_H2_LEN : ALPN_LEN, in, in_len);
	*out = chosen;
	return rc == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *new_context(const struct cairn_tls_files *files)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_ciphersuites(ctx, CIPHERS) != 1 || SSL_CTX_set_num_tickets(ctx, 0) != 1 ||
	    SSL_CTX_set_alpn_protos(ctx, alpn, ALPN_LEN) != 0) {
		abort(); /* no memory, or an OpenSSL that cannot do what it always could */
	}
	SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_TICKET);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	/* An intermediate CA may be the cluster's, without its root being trusted, too. */
	(void)X509_STORE_set_flags(SSL_CTX_get_cert_store(ctx), X509_V_FLAG_PARTIAL_CHAIN);
	SSL_CTX_set_max_cert_list(ctx, CHAIN_BYTES_MAX);
	SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, (void *)(uintptr_t)files);
	return ctx;
}

static enum cairn_code load(const struct cairn_tls_files *files, SSL_CTX **ret,
			    struct cairn_err *err)
{
	SSL_CTX *ctx = new_context(files);
	enum cairn_code rc = use_ca(ctx, files->ca, err);
	if (rc == CAIRN_OK) rc = use_certificate(ctx, files->cert, err);
	if (rc == CAIRN_OK) rc = use_key(ctx, files->key, files->cert, err);
	if (rc == CAIRN_OK) rc = check_own(ctx, files->cert, err);
	ERR_clear_error();
	if (rc == CAIRN_OK) {
		*ret = ctx;
	} else {
		SSL_CTX_free(ctx);
	}
	return rc;
}

static char *copy(const char *s)
{
	char *ret = strdup(s);
	if (ret == NULL) abort();
	return ret;
}

enum cairn_code cairn_tls_files_load(const char *ca, const char *cert, const char *key,
				     struct cairn_tls_files **ret, struct cairn_err *err)
{
	struct cairn_tls_files *files = calloc(1, sizeof(*files));
	if (files == NULL) abort();
	pthread_mutex_init(&files->mu, NULL);
	files->ca = copy(ca);
	files->cert = copy(cert);
	files->key = copy(key);
	enum cairn_code rc = load(files, &files->ctx, err);
	if (rc == CAIRN_OK) {
		*ret = files;
	} else {
		cairn_tls_files_free(files);
	}
	return rc;
}

enum cairn_code cairn_tls_files_reload(struct cairn_tls_files *files, struct cairn_err *err)
{
	SSL_CTX *ctx;
	enum cairn_code rc = load(files, &ctx, err);
	if (rc != CAIRN_OK) return rc;
	pthread_mutex_lock(&files->mu);
	SSL_CTX *old = files->ctx;
	files->ctx = ctx;
	pthread_mutex_unlock(&files->mu);
	SSL_CTX_free(old);
	return CAIRN_OK;
}

int64_t cairn_tls_files_end_s(struct cairn_tls_files *files)
{
	struct tm tm = {0};
	pthread_mutex_lock(&files->mu);
	int well = ASN1_TIME_to_tm(X509_get0_notAfter(SSL_CTX_get0_certificate(files->ctx)), &tm);
	pthread_mutex_unlock(&files->mu);
	return well == 1 ? timegm(&tm) : 0;
}

void cairn_tls_files_free(struct cairn_tls_files *files)
{
	if (files == NULL) return;
	SSL_CTX_free(files->ctx);
	pthread_mutex_destroy(&files->mu);
	free(files->ca);
	free(files->cert);
	free(files->key);
	free(files);
}

void cairn_tls_files_offer_h2(struct cairn_tls_files *files)
{
	atomic_store(&files->h2, true);
}

SSL *cairn_tls_new(struct cairn_tls_files *files, bool server)
{
	pthread_mutex_lock(&files->mu);
	SSL_CTX *ctx = files->ctx;
	SSL_CTX_up_ref(ctx);
	pthread_mutex_unlock(&files->mu);
	SSL *ssl = SSL_new(ctx);
	SSL_CTX_free(ctx);
	if (ssl == NULL) return NULL;
	if (server) {
		SSL_set_accept_state(ssl);
	} else {
		SSL_set_connect_state(ssl);
	}
	return ssl;
}

/* ---- the other side ---- */

/* Is this what ALPN came to? */
static bool speaks(SSL *ssl, const char *protocol)
{
	const unsigned char *chosen;
	unsigned n;
	SSL_get0_alpn_selected(ssl, &chosen, &n);
	return n == strlen(protocol) && memcmp(chosen, protocol, n) == 0;
}

bool cairn_tls_is_h2(SSL *ssl)
{
	/* As a server we choose it only where it is offered; as a client we never ask for it. */
	return SSL_is_server(ssl) != 0 && speaks(ssl, "h2");
}

/* OpenSSL has checked that a client's certificate is for clients. A node's is for servers, too; an
 * admin's is not, and whoever has one is no node of the cluster. */
static enum cairn_code check_node(SSL *ssl, struct cairn_err *err)
{
	char name[CAIRN_TLS_NAME_MAX];
	X509 *cert = SSL_get0_peer_certificate(ssl);
	if (cert != NULL && X509_check_purpose(cert, X509_PURPOSE_SSL_SERVER, 0) == 1) {
		return CAIRN_OK;
	}
	cairn_tls_peer_name(ssl, name);
	return cairn_err_set(err, CAIRN_UNAUTHENTICATED,
			     "its certificate (%.100s) is refused: it is for clients only, and a "
			     "node's is for servers, too",
			     name);
}

enum cairn_code cairn_tls_check(SSL *ssl, struct cairn_err *err)
{
	if (speaks(ssl, (const char *)alpn + 1)) return check_node(ssl, err);
	if (cairn_tls_is_h2(ssl)) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "it does not speak cairn's peer protocol inside TLS");
}

/* A name is shown to people and compared: whole, and without what would mislead. */
static bool keep_name(const ASN1_STRING *name, char ret[static CAIRN_TLS_NAME_MAX])
{
	unsigned char *text = NULL;
	int n = ASN1_STRING_to_UTF8(&text, name);
	bool well = n > 0 && n < CAIRN_TLS_NAME_MAX;
	for (int i = 0; well && i < n; i++) well = text[i] >= ' ' && text[i] != 0x7f;
	if (well) {
		memcpy(ret, text, (size_t)n);
		ret[n] = '\0';
	}
	OPENSSL_free(text);
	return well;
}

static void certificate_name(const X509 *cert, char ret[static CAIRN_TLS_NAME_MAX])
{
	ret[0] = '\0';
	bool found = false;
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; !found && i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		found = name->type == GEN_DNS && keep_name(name->d.dNSName, ret);
	}
	GENERAL_NAMES_free(names);
	const X509_NAME *subject = X509_get_subject_name(cert);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	if (!found && at >= 0) {
		(void)keep_name(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)), ret);
	}
}

void cairn_tls_peer_name(SSL *ssl, char ret[static CAIRN_TLS_NAME_MAX])
{
	ret[0] = '\0';
	const X509 *cert = SSL_get0_peer_certificate(ssl);
	if (cert != NULL) certificate_name(cert, ret);
}

/* ---- all names ---- */

/* The next one of the list, to be written; NULL: no more are looked at. */
static char *next_name(struct cairn_tls_names *names)
{
	return names->n < CAIRN_TLS_NAMES_MAX ? names->name[names->n] : NULL;
}

static void add_text(struct cairn_tls_names *names, const ASN1_STRING *text)
{
	char *to = next_name(names);
	if (to != NULL && keep_name(text, to)) names->n++;
}

static void add_address(struct cairn_tls_names *names, const ASN1_OCTET_STRING *address)
{
	char *to = next_name(names);
	int n = ASN1_STRING_length(address);
	if (to == NULL || (n != 4 && n != 16)) return;
	if (inet_ntop(n == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(address), to,
		      CAIRN_TLS_NAME_MAX) != NULL) {
		names->n++;
	}
}

static void add_alternative(struct cairn_tls_names *names, const GENERAL_NAME *name)
{
	switch (name->type) {
	case GEN_DNS:
	case GEN_URI:
	case GEN_EMAIL:
		add_text(names, name->d.ia5);
		break;
	case GEN_IPADD:
		add_address(names, name->d.iPAddress);
		break;
	default:
		break;
	}
}

void cairn_tls_names_of(const X509 *cert, struct cairn_tls_names *ret)
{
	ret->n = 0;
	const X509_NAME *subject = X509_get_subject_name(cert);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	if (at >= 0) add_text(ret, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		add_alternative(ret, sk_GENERAL_NAME_value(names, i));
	}
	GENERAL_NAMES_free(names);
}

void cairn_tls_peer_names(SSL *ssl, struct cairn_tls_names *ret)
{
	ret->n = 0;
	const X509 *cert = SSL_get0_peer_certificate(ssl);
	if (cert != NULL) cairn_tls_names_of(cert, ret);
}

/* ---- faults ---- */

/* The other has ended the handshake with an alert. */
static enum cairn_code alert_fault(int alert, struct cairn_err *err)
{
	switch (alert) {
	case SSL_AD_BAD_CERTIFICATE:
	case SSL_AD_UNSUPPORTED_CERTIFICATE:
	case SSL_AD_CERTIFICATE_REVOKED:
	case SSL_AD_CERTIFICATE_EXPIRED:
	case SSL_AD_CERTIFICATE_UNKNOWN:
	case SSL_AD_UNKNOWN_CA:
	case SSL_AD_ACCESS_DENIED:
	case SSL_AD_DECRYPT_ERROR:
	case SSL_AD_CERTIFICATE_REQUIRED:
		return cairn_err_set(err, CAIRN_UNAUTHENTICATED, "it refuses our certificate: %s",
				     SSL_alert_desc_string_long(alert));
	case SSL_AD_NO_APPLICATION_PROTOCOL:
	case SSL_AD_PROTOCOL_VERSION:
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "it does not speak cairn's peer protocol inside TLS 1.3");
	default:
		return cairn_err_set(err, CAIRN_UNAVAILABLE, "it ended TLS: %s",
				     SSL_alert_desc_string_long(alert));
	}
}

/* Its certificate did not pass. */
static enum cairn_code verify_fault(SSL *ssl, struct cairn_err *err)
{
	char name[CAIRN_TLS_NAME_MAX] = "";
	const char *why = X509_verify_cert_error_string(SSL_get_verify_result(ssl));
	STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl); /* what was tried: its own is first */
	if (chain != NULL && sk_X509_num(chain) > 0) {
		certificate_name(sk_X509_value(chain, 0), name);
	}
	return cairn_err_set(err, CAIRN_UNAUTHENTICATED, "its certificate (%s) is refused: %s",
			     name[0] != '\0' ? name : "without a name", why);
}

enum cairn_code cairn_tls_fault(SSL *ssl, struct cairn_err *err)
{
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
	if (reason > SSL_AD_REASON_OFFSET) return alert_fault(reason - SSL_AD_REASON_OFFSET, err);
	switch (reason) {
	case SSL_R_CERTIFICATE_VERIFY_FAILED:
		return verify_fault(ssl, err);
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
		return cairn_err_set(err, CAIRN_UNAUTHENTICATED, "it shows no certificate");
	case SSL_R_UNEXPECTED_EOF_WHILE_READING:
		return cairn_err_set(err, CAIRN_UNAVAILABLE, "it closed the connection");
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_HTTP_REQUEST:
	case SSL_R_HTTPS_PROXY_REQUEST:
	case SSL_R_UNSUPPORTED_PROTOCOL:
	case SSL_R_NO_APPLICATION_PROTOCOL:
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "it does not speak cairn's peer protocol inside TLS 1.3: %s",
				     ERR_reason_error_string(code));
	default:
		return cairn_err_set(err, CAIRN_UNAVAILABLE, "TLS: %s",
				     code != 0 ? ERR_reason_error_string(code) : "it failed");
	}
}
