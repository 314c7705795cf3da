/* X.509: an authority that signs for its own cluster and nothing else, and certificates of it. Keys
 * are EC P-256, which every TLS of today speaks and which is cheap. What OpenSSL can only fail at
 * for want of memory or of random numbers aborts. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/cairnctl_certs.h"

#define SERIAL_BITS 159	   /* 20 bytes with a sign, RFC 5280 */
#define EARLIER_S (5 * 60) /* good since then: clocks differ */
#define DAY_S ((time_t)24 * 60 * 60)

static void must(bool well)
{
	if (!well) abort();
}

static void free_pkey(EVP_PKEY **key)
{
	EVP_PKEY_free(*key);
}

static void free_x509(X509 **cert)
{
	X509_free(*cert);
}

/* ---- files ---- */

static enum cairn_code join(char ret[static CERTS_PATH_MAX], const char *dir, const char *name,
			    const char *end, struct cairn_err *err)
{
	int n = snprintf(ret, CERTS_PATH_MAX, "%s/%s%s", dir, name, end);
	if (n > 0 && n < CERTS_PATH_MAX) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "the path is too long: %.120s…", dir);
}

static enum cairn_code expect_absent(const char *path, const char *remedy, struct cairn_err *err)
{
	struct stat st;
	if (lstat(path, &st) != 0) {
		return errno == ENOENT ? CAIRN_OK : cairn_err_sys(err, errno, "look for %s", path);
	}
	return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
			     "%s is there already: nothing was changed; %s", path, remedy);
}

static enum cairn_code write_pem(const char *path, unsigned mode, bool replace, BIO *pem,
				 struct cairn_err *err)
{
	char *data;
	long n = BIO_get_mem_data(pem, &data);
	must(n > 0);
	return certs_write(path, mode, replace, data, (size_t)n, err);
}

/* The key first: a cairnd that reads both in between sees that they do not fit, and keeps what it
 * has. If the certificate cannot be written, a key that replaced nothing goes again. */
static enum cairn_code write_pair(const struct certs_made *made, bool replace, X509 *cert,
				  EVP_PKEY *key, struct cairn_err *err)
{
	BIO *key_pem = BIO_new(BIO_s_secmem()), *cert_pem = BIO_new(BIO_s_mem());
	must(key_pem != NULL && cert_pem != NULL);
	must(PEM_write_bio_PrivateKey(key_pem, key, NULL, NULL, 0, NULL, NULL) == 1);
	must(PEM_write_bio_X509(cert_pem, cert) == 1);
	enum cairn_code rc = write_pem(made->key, 0600, replace, key_pem, err);
	if (rc == CAIRN_OK) {
		rc = write_pem(made->cert, 0644, replace, cert_pem, err);
		if (rc != CAIRN_OK && !replace) (void)unlink(made->key);
	}
	BIO_free(key_pem);
	BIO_free(cert_pem);
	return rc;
}

/* ---- certificates ---- */

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	must(extension != NULL && X509_add_ext(cert, extension, -1) == 1);
	X509_EXTENSION_free(extension);
}

/* All but extensions and signature. */
static X509 *new_certificate(const char *name, EVP_PKEY *key, time_t now, time_t not_after)
{
	X509 *cert = X509_new();
	BIGNUM *serial = BN_new();
	must(cert != NULL && serial != NULL);
	must(BN_rand(serial, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1);
	must(BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(cert)) != NULL);
	BN_free(serial);
	must(X509_set_version(cert, X509_VERSION_3) == 1 && X509_set_pubkey(cert, key) == 1);
	must(ASN1_TIME_set(X509_getm_notBefore(cert), now - EARLIER_S) != NULL);
	must(ASN1_TIME_set(X509_getm_notAfter(cert), not_after) != NULL);
	must(X509_NAME_add_entry_by_NID(X509_get_subject_name(cert), NID_commonName, MBSTRING_UTF8,
					(const unsigned char *)name, -1, -1, 0) == 1);
	return cert;
}

enum cairn_code certs_init(const char *dir, const char *name, int days, struct certs_made *ret,
			   struct cairn_err *err)
{
	static const char remedy[] = "choose another --dir";
	enum cairn_code rc = join(ret->cert, dir, "ca", ".pem", err);
	if (rc == CAIRN_OK) rc = join(ret->key, dir, "ca", ".key", err);
	if (rc != CAIRN_OK) return rc;
	if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
		return cairn_err_sys(err, errno, "make the folder %s", dir);
	}
	rc = expect_absent(ret->key, remedy, err);
	if (rc == CAIRN_OK) rc = expect_absent(ret->cert, remedy, err);
	if (rc != CAIRN_OK) return rc;
	cairn_auto(free_pkey) EVP_PKEY *key = EVP_EC_gen("P-256");
	must(key != NULL);
	time_t now = time(NULL);
	ret->not_after = now + days * DAY_S;
	cairn_auto(free_x509) X509 *cert = new_certificate(name, key, now, ret->not_after);
	must(X509_set_issuer_name(cert, X509_get_subject_name(cert)) == 1);
	add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
	add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign");
	add_extension(cert, cert, NID_subject_key_identifier, "hash");
	must(X509_sign(cert, key, EVP_sha256()) > 0);
	return write_pair(ret, false, cert, key, err);
}

/* ---- the authority ---- */

/* A key with a passphrase is refused, not asked about: we may have no terminal. */
static int no_passphrase(char *buf, int size, int rwflag, void *arg)
{
	(void)buf, (void)size, (void)rwflag, (void)arg;
	return -1;
}

static enum cairn_code open_pem(const char *path, BIO **ret, struct cairn_err *err)
{
	errno = 0;
	BIO *file = BIO_new_file(path, "r");
	ERR_clear_error();
	if (file == NULL && errno == ENOENT) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "there is no %s: make the authority with cairnctl certs init, "
				     "or say with --dir where it is",
				     path);
	}
	if (file == NULL) return cairn_err_sys(err, errno, "read %s", path);
	*ret = file;
	return CAIRN_OK;
}

static enum cairn_code read_authority(const char *dir, X509 **cert, EVP_PKEY **key,
				      struct cairn_err *err)
{
	char path[CERTS_PATH_MAX];
	BIO *file;
	enum cairn_code rc = join(path, dir, "ca", ".pem", err);
	if (rc == CAIRN_OK) rc = open_pem(path, &file, err);
	if (rc != CAIRN_OK) return rc;
	*cert = PEM_read_bio_X509(file, NULL, no_passphrase, NULL);
	BIO_free(file);
	if (*cert == NULL || X509_check_ca(*cert) == 0) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s is no certificate of an authority", path);
	}
	rc = join(path, dir, "ca", ".key", err);
	if (rc == CAIRN_OK) rc = open_pem(path, &file, err);
	if (rc != CAIRN_OK) return rc;
	*key = PEM_read_bio_PrivateKey(file, NULL, no_passphrase, NULL);
	BIO_free(file);
	if (*key == NULL) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s is no private key in PEM without a passphrase", path);
	}
	if (X509_check_private_key(*cert, *key) == 1) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "%s is not the key of the ca.pem beside it", path);
}

static enum cairn_code check_end(X509 *ca, time_t not_after, int days, struct cairn_err *err)
{
	if (X509_cmp_time(X509_get0_notAfter(ca), &not_after) > 0) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
			     "the authority is not good for %d days any more: take fewer --days, "
			     "or make a new one in another folder",
			     days);
}

/* The digest that goes with the authority's key: none with Ed25519. */
static const EVP_MD *digest_for(const EVP_PKEY *key)
{
	int id = EVP_PKEY_get_base_id(key);
	return id == EVP_PKEY_ED25519 || id == EVP_PKEY_ED448 ? NULL : EVP_sha256();
}

enum cairn_code certs_issue(const struct certs_request *request, struct certs_made *ret,
			    struct cairn_err *err)
{
	static const char remedy[] = "--force replaces it";
	cairn_auto(free_x509) X509 *ca = NULL;
	cairn_auto(free_pkey) EVP_PKEY *ca_key = NULL;
	enum cairn_code rc = join(ret->cert, request->out, request->name, ".pem", err);
	if (rc == CAIRN_OK) rc = join(ret->key, request->out, request->name, ".key", err);
	if (rc == CAIRN_OK) rc = read_authority(request->dir, &ca, &ca_key, err);
	ERR_clear_error();
	if (rc == CAIRN_OK && !request->replace) rc = expect_absent(ret->key, remedy, err);
	if (rc == CAIRN_OK && !request->replace) rc = expect_absent(ret->cert, remedy, err);
	if (rc != CAIRN_OK) return rc;
	time_t now = time(NULL);
	ret->not_after = now + request->days * DAY_S;
	rc = check_end(ca, ret->not_after, request->days, err);
	if (rc != CAIRN_OK) return rc;
	cairn_auto(free_pkey) EVP_PKEY *key = EVP_EC_gen("P-256");
	must(key != NULL);
	cairn_auto(free_x509) X509 *cert = new_certificate(request->name, key, now, ret->not_after);
	must(X509_set_issuer_name(cert, X509_get_subject_name(ca)) == 1);
	add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE");
	add_extension(cert, ca, NID_key_usage, "critical,digitalSignature");
	add_extension(cert, ca, NID_ext_key_usage,
		      request->admin ? "clientAuth" : "serverAuth,clientAuth");
	add_extension(cert, ca, NID_subject_alt_name, request->alts);
	add_extension(cert, ca, NID_subject_key_identifier, "hash");
	if (X509_get0_subject_key_id(ca) != NULL) {
		add_extension(cert, ca, NID_authority_key_identifier, "keyid:always");
	}
	if (X509_sign(cert, ca_key, digest_for(ca_key)) <= 0) {
		ERR_clear_error();
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s/ca.key is of a kind that cannot sign certificates",
				     request->dir);
	}
	return write_pair(ret, request->replace, cert, key, err);
}
