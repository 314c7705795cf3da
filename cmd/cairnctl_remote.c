/* gRPC has one status for all that may go wrong before a call is there, and few words. So when it
 * fails, the same is tried again here, step by step: name, TCP, TLS, and whether the other side
 * stays; and each step says for itself what is wrong. */
#include "cmd/cairnctl_remote.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/log.h"

#define FILE_BYTES_MAX (1u << 20)
#define HOST_MAX 256
#define STEP_S 5	   /* for each step of an explanation */
#define KEEPALIVE_MS 20000 /* cairnd ends what says nothing for two minutes */

/* ---- options ---- */

/* "host:port", "[v6]:port". */
static bool split(const char *address, char host[static HOST_MAX], const char **ret_port)
{
	const char *colon = strrchr(address, ':');
	if (colon == NULL) return false;
	size_t n = (size_t)(colon - address);
	bool v6 = n > 2 && address[0] == '[' && address[n - 1] == ']';
	const char *from = v6 ? address + 1 : address;
	if (v6) n -= 2;
	char *end;
	unsigned long port = strtoul(colon + 1, &end, 10);
	if (n == 0 || n >= HOST_MAX || port == 0 || port > 65535 || *end != '\0' ||
	    colon[1] < '0' || colon[1] > '9' || (!v6 && memchr(from, ':', n) != NULL)) {
		return false;
	}
	memcpy(host, from, n);
	host[n] = '\0';
	*ret_port = colon + 1;
	return true;
}

int ctl_remote_check(const struct ctl *ctl)
{
	static const struct {
		const char *option;
		size_t at;
	} files[] = {{"--tls-cert", offsetof(struct ctl, tls_cert)},
		     {"--tls-key", offsetof(struct ctl, tls_key)},
		     {"--tls-ca", offsetof(struct ctl, tls_ca)}};
	char host[HOST_MAX];
	const char *port;
	for (size_t i = 0; i < CAIRN_LEN(files); i++) {
		const char *value;
		memcpy(&value, (const char *)ctl + files[i].at, sizeof(value));
		if (value != NULL && ctl->address == NULL) {
			return ctl_usage(ctl, "%s is of use with --address only", files[i].option);
		}
		if (ctl->address != NULL && (value == NULL || value[0] == '\0')) {
			return ctl_usage(ctl,
					 "--address needs --tls-cert, --tls-key and --tls-ca: %s "
					 "is missing",
					 files[i].option);
		}
	}
	if (ctl->tls_server_name != NULL && ctl->address == NULL) {
		return ctl_usage(ctl, "--tls-server-name is of use with --address only");
	}
	if (ctl->address == NULL) return 0;
	if (ctl->socket != NULL) return ctl_usage(ctl, "--address or --socket, not both");
	if (!split(ctl->address, host, &port)) {
		return ctl_usage(ctl, "--address is host:port or [IPv6]:port, not \"%.200s\"",
				 ctl->address);
	}
	if (ctl->tls_server_name != NULL &&
	    (ctl->tls_server_name[0] == '\0' || strlen(ctl->tls_server_name) >= HOST_MAX)) {
		return ctl_usage(ctl, "--tls-server-name is 1 to %d bytes", HOST_MAX - 1);
	}
	return 0;
}

/* ---- files ---- */

static const char *ssl_reason(void)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());
	return reason != NULL ? reason : "no reason given";
}

static enum cairn_code bad_file(const char *path, const char *why, struct cairn_err *err)
{
	cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%.150s: %s", path, why);
	ERR_clear_error();
	return err->code;
}

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
	(void)buf, (void)size, (void)writing, (void)arg;
	return -1;
}

/* As gRPC will use them; but what is wrong with them is said. */
static enum cairn_code load(const struct ctl *ctl, SSL_CTX *ctx, struct cairn_err *err)
{
	SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
	ERR_clear_error();
	if (SSL_CTX_load_verify_locations(ctx, ctl->tls_ca, NULL) != 1) {
		return bad_file(ctl->tls_ca, ssl_reason(), err);
	}
	if (SSL_CTX_use_certificate_chain_file(ctx, ctl->tls_cert) != 1) {
		return bad_file(ctl->tls_cert, ssl_reason(), err);
	}
	X509 *cert = SSL_CTX_get0_certificate(ctx);
	if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0) {
		return bad_file(ctl->tls_cert, "the certificate has expired: issue a new one", err);
	}
	if (SSL_CTX_use_PrivateKey_file(ctx, ctl->tls_key, SSL_FILETYPE_PEM) != 1) {
		if (ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH) {
			return bad_file(ctl->tls_key, "not the key of the certificate", err);
		}
		return bad_file(ctl->tls_key, ssl_reason(), err);
	}
	return CAIRN_OK;
}

static SSL_CTX *new_context(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x02h2", 3) != 0) {
		abort();
	}
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	(void)X509_STORE_set_flags(SSL_CTX_get_cert_store(ctx), X509_V_FLAG_PARTIAL_CHAIN);
	return ctx;
}

static enum cairn_code read_file(const char *path, char **ret, struct cairn_err *err)
{
	FILE *file = fopen(path, "re");
	if (file == NULL) return cairn_err_sys(err, errno, "read %s", path);
	char *text = malloc(FILE_BYTES_MAX + 1);
	if (text == NULL) abort();
	size_t n = fread(text, 1, FILE_BYTES_MAX + 1, file);
	bool failed = ferror(file) != 0;
	(void)fclose(file);
	if (!failed && n <= FILE_BYTES_MAX) {
		text[n] = '\0';
		*ret = text;
		return CAIRN_OK;
	}
	free(text);
	return bad_file(path, failed ? "it cannot be read" : "it is larger than 1 MiB", err);
}

static void free_text(char **text)
{
	free(*text);
}

enum cairn_code ctl_remote_open(struct ctl *ctl, struct cairn_err *err)
{
	cairn_auto(free_text) char *ca = NULL, *cert = NULL, *key = NULL;
	cairn_log_set_level(
		CAIRN_LOG_ERROR); /* gRPC's own lines about a failed handshake help nobody */
	enum cairn_code rc = read_file(ctl->tls_ca, &ca, err);
	if (rc == CAIRN_OK) rc = read_file(ctl->tls_cert, &cert, err);
	if (rc == CAIRN_OK) rc = read_file(ctl->tls_key, &key, err);
	SSL_CTX *ctx = new_context();
	if (rc == CAIRN_OK) rc = load(ctl, ctx, err);
	SSL_CTX_free(ctx);
	const struct cairn_tls tls = {.ca = ca,
				      .cert = cert,
				      .key = key,
				      .server_name = ctl->tls_server_name,
				      .keepalive_ms = KEEPALIVE_MS};
	return rc ? rc : cairn_channel_new(ctl->rpc, ctl->address, &tls, &ctl->channel, err);
}

/* ---- explaining ---- */

/* *ret_fd: connected. False: *err says why there is none. */
static bool reach(const struct ctl *ctl, const char *host, const char *port, int *ret_fd,
		  struct cairn_err *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *addrs;
	int rc = getaddrinfo(host, port, &hints, &addrs), failed = 0;
	if (rc != 0) {
		cairn_err_set(err, CAIRN_UNAVAILABLE, "%s: no address is known for it: %s",
			      ctl->address, gai_strerror(rc));
		return false;
	}
	const struct timeval limit = {.tv_sec = STEP_S};
	int fd = -1;
	for (const struct addrinfo *a = addrs; a != NULL && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0) continue;
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)); /* connect */
		if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) break;
		failed = errno == EINPROGRESS ? ETIMEDOUT : errno;
		close(fd);
		fd = -1;
	}
	freeaddrinfo(addrs);
	*ret_fd = fd;
	if (fd >= 0) return true;
	cairn_err_set(err, CAIRN_UNAVAILABLE, "%s: %s: %s", ctl->address, strerror(failed),
		      failed == ECONNREFUSED
			      ? "cairnd does not run there, or its p2p.listen is another"
			      : "it cannot be reached from here");
	return false;
}

static void first_dns_name(X509 *cert, char *ret, size_t n)
{
	snprintf(ret, n, "?");
	GENERAL_NAMES *names =
		cert != NULL ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		if (name->type != GEN_DNS) continue;
		const unsigned char *text = ASN1_STRING_get0_data(name->d.dNSName);
		size_t len = (size_t)ASN1_STRING_length(name->d.dNSName), to = 0;
		for (; to < len && to + 1 < n; to++) {
			ret[to] = '?';
			if (text[to] > ' ' && text[to] < 0x7f) ret[to] = (char)text[to];
		}
		ret[to] = '\0';
		break;
	}
	GENERAL_NAMES_free(names);
}

/* Its certificate is none that we take. */
static void explain_verify(const struct ctl *ctl, SSL *ssl, long why, struct cairn_err *err)
{
	if (why != X509_V_ERR_HOSTNAME_MISMATCH && why != X509_V_ERR_IP_ADDRESS_MISMATCH) {
		cairn_err_set(err, CAIRN_UNAUTHENTICATED,
			      "%s: its certificate is refused: %s (the authority is that of "
			      "--tls-ca %.100s)",
			      ctl->address, X509_verify_cert_error_string(why), ctl->tls_ca);
		return;
	}
	char name[100];
	STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
	first_dns_name(chain != NULL && sk_X509_num(chain) > 0 ? sk_X509_value(chain, 0) : NULL,
		       name, sizeof(name));
	cairn_err_set(err, CAIRN_UNAUTHENTICATED,
		      "%s: its certificate is not for that name, but for \"%s\": if that is the "
		      "node that you mean, say --tls-server-name %s",
		      ctl->address, name, name);
}

/* TLS has failed, at the handshake or at the first byte after it. */
static void explain_tls(const struct ctl *ctl, SSL *ssl, struct cairn_err *err)
{
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_REASON(code);
	long verified = SSL_get_verify_result(ssl);
	if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED && verified != X509_V_OK) {
		explain_verify(ctl, ssl, verified, err);
	} else if (reason == SSL_AD_REASON_OFFSET + SSL_AD_NO_APPLICATION_PROTOCOL) {
		cairn_err_set(err, CAIRN_UNAVAILABLE,
			      "%s: it takes no admins from other machines: p2p.admins is empty in "
			      "its configuration",
			      ctl->address);
	} else if (reason > SSL_AD_REASON_OFFSET) {
		cairn_err_set(err, CAIRN_UNAUTHENTICATED,
			      "%s: it refuses the certificate %.100s: %s (its authority is that of "
			      "p2p.tls.ca there)",
			      ctl->address, ctl->tls_cert,
			      SSL_alert_desc_string_long(reason - SSL_AD_REASON_OFFSET));
	} else if (code != 0 && reason != SSL_R_UNEXPECTED_EOF_WHILE_READING) {
		cairn_err_set(err, CAIRN_UNAVAILABLE,
			      "%s: it does not speak TLS 1.3 with HTTP/2, or is not cairnd's port "
			      "for other nodes: %s",
			      ctl->address, ssl_reason());
	} else {
		cairn_err_set(
			err, CAIRN_UNAVAILABLE,
			"%s: it closed the connection, or says nothing: cairnd is starting or "
			"stopping, or has too many connections of admins; its log says which",
			ctl->address);
	}
}

/* The handshake, and the first byte of HTTP/2: with TLS 1.3 the other's verdict on our certificate
 * comes after the handshake. True: all is well. */
static bool talk(const struct ctl *ctl, SSL *ssl, const char *host, int fd, struct cairn_err *err)
{
	const char *name = ctl->tls_server_name != NULL ? ctl->tls_server_name : host;
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	struct in6_addr ignored;
	bool ip =
		inet_pton(AF_INET, name, &ignored) == 1 || inet_pton(AF_INET6, name, &ignored) == 1;
	int set = ip ? X509_VERIFY_PARAM_set1_ip_asc(param, name)
		     : X509_VERIFY_PARAM_set1_host(param, name, 0);
	if (set != 1 || SSL_set_fd(ssl, fd) != 1) return true; /* nothing to say */
	if (!ip) { /* SSL_set_tlsext_host_name(), which is a cast */
		(void)SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
			       (void *)(uintptr_t)name);
	}
	char byte;
	ERR_clear_error();
	bool well = SSL_connect(ssl) == 1 && SSL_read(ssl, &byte, 1) == 1;
	if (!well) explain_tls(ctl, ssl, err);
	ERR_clear_error();
	return well;
}

void ctl_remote_explain(const struct ctl *ctl, struct cairn_err *err)
{
	char host[HOST_MAX];
	const char *port;
	int fd;
	struct cairn_err ignored;
	if (!split(ctl->address, host, &port) || !reach(ctl, host, port, &fd, err)) return;
	SSL_CTX *ctx = new_context();
	if (load(ctl, ctx, &ignored) == CAIRN_OK) {
		SSL *ssl = SSL_new(ctx);
		if (ssl == NULL) abort();
		(void)talk(ctl, ssl, host, fd, err);
		SSL_free(ssl);
	}
	SSL_CTX_free(ctx);
	close(fd);
}
