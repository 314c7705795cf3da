/* TLS credentials. Certificates and keys are PEM text; gRPC parses them only when it makes the
 * first use of them, so what is plainly no PEM is refused here, where it can be told well. */
#include <grpc/grpc_security.h>
#include <string.h>

#include "rpc/server.h"

static enum cairn_code check_pem(const char *pem, const char *what, const char *mark,
				 struct cairn_err *err)
{
	if (pem != NULL && strstr(pem, mark) != NULL) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "TLS: the %s is %s: PEM text with a line \"%s...\" is needed", what,
			     pem == NULL ? "missing" : "no PEM text", mark);
}

static enum cairn_code check_pair(const struct cairn_tls *tls, struct cairn_err *err)
{
	enum cairn_code rc = check_pem(tls->cert, "certificate", "-----BEGIN CERTIFICATE", err);
	if (rc) return rc;
	return check_pem(tls->key, "key", "-----BEGIN", err);
}

static enum cairn_code check_ca(const struct cairn_tls *tls, struct cairn_err *err)
{
	if (tls->ca == NULL) return CAIRN_OK;
	return check_pem(tls->ca, "CA certificate", "-----BEGIN CERTIFICATE", err);
}

enum cairn_code cairn_tls_server(const struct cairn_tls *tls, grpc_server_credentials **ret,
				 struct cairn_err *err)
{
	enum cairn_code rc = check_pair(tls, err);
	if (rc) return rc;
	rc = check_ca(tls, err);
	if (rc) return rc;
	grpc_ssl_pem_key_cert_pair pair = {tls->key, tls->cert};
	grpc_server_credentials *creds = grpc_ssl_server_credentials_create_ex(
		tls->ca, &pair, 1,
		tls->ca != NULL ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
				: GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
		NULL);
	if (creds == NULL) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "TLS: gRPC refuses the certificate, key or CA");
	}
	*ret = creds;
	return CAIRN_OK;
}

enum cairn_code cairn_tls_client(const struct cairn_tls *tls, grpc_channel_credentials **ret,
				 struct cairn_err *err)
{
	enum cairn_code rc = check_ca(tls, err);
	if (rc) return rc;
	grpc_ssl_pem_key_cert_pair pair = {tls->key, tls->cert};
	bool own = tls->cert != NULL || tls->key != NULL;
	if (own) rc = check_pair(tls, err);
	if (rc) return rc;
	grpc_channel_credentials *creds =
		grpc_ssl_credentials_create(tls->ca, own ? &pair : NULL, NULL, NULL);
	if (creds == NULL) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "TLS: gRPC refuses the certificate, key or CA");
	}
	*ret = creds;
	return CAIRN_OK;
}
