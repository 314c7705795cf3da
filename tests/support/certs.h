/* Certificates for tests, made with OpenSSL's own calls, as PEM files in a temporary folder. After
 * cmocka.h. */
#ifndef CAIRN_TESTS_CERTS_H
#define CAIRN_TESTS_CERTS_H

#include <dirent.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/tmp.h"

struct certs {
	char dir[64];
	long serial;
	EVP_PKEY *ca_key, *other_key;
	X509 *ca, *other; /* two CAs: ca.crt, other.crt */
};

/* What a certificate is to be. */
struct cert_spec {
	const char *name;     /* <name>.crt and <name>.key; its common name */
	const char *san;      /* "DNS:a,IP:127.0.0.1"; NULL: none */
	const char *usage;    /* "serverAuth,clientAuth"; NULL: none */
	bool ca;	      /* it may sign others */
	bool other_ca;	      /* signed by the other CA */
	long from_s, until_s; /* from now; both 0: an hour back to an hour ahead */
};

static inline const char *certs_path(const struct certs *c, const char *file, char buf[static 160])
{
	snprintf(buf, 160, "%s/%s", c->dir, file);
	return buf;
}

static inline void certs_write(const struct certs *c, const char *file, const char *text)
{
	char path[160];
	FILE *out = fopen(certs_path(c, file, path), "we");
	if (out == NULL || fputs(text, out) < 0 || fclose(out) != 0) abort();
}

static inline void certs_save(const struct certs *c, const char *name, X509 *cert, EVP_PKEY *key)
{
	char path[160], file[64];
	snprintf(file, sizeof(file), "%s.crt", name);
	FILE *out = fopen(certs_path(c, file, path), "we");
	if (out == NULL || PEM_write_X509(out, cert) != 1 || fclose(out) != 0) abort();
	snprintf(file, sizeof(file), "%s.key", name);
	out = fopen(certs_path(c, file, path), "we");
	if (out == NULL || PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) != 1 ||
	    fclose(out) != 0) {
		abort();
	}
}

static inline void certs_extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	if (ext == NULL || X509_add_ext(cert, ext, -1) != 1) abort();
	X509_EXTENSION_free(ext);
}

/* issuer NULL: it signs itself. */
static inline X509 *certs_sign(struct certs *c, const struct cert_spec *spec, EVP_PKEY *key,
			       X509 *issuer, EVP_PKEY *issuer_key)
{
	X509 *cert = X509_new();
	X509_NAME *subject = X509_get_subject_name(cert);
	long from = spec->from_s, until = spec->until_s;
	if (from == 0 && until == 0) {
		from = -3600;
		until = 3600;
	}
	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), ++c->serial);
	X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)spec->name,
				   -1, -1, 0);
	X509_set_issuer_name(cert, issuer != NULL ? X509_get_subject_name(issuer) : subject);
	X509_gmtime_adj(X509_getm_notBefore(cert), from);
	X509_gmtime_adj(X509_getm_notAfter(cert), until);
	X509_set_pubkey(cert, key);
	if (issuer == NULL || spec->ca) {
		certs_extend(cert, issuer != NULL ? issuer : cert, NID_basic_constraints,
			     "critical,CA:TRUE");
	}
	if (spec->san != NULL) certs_extend(cert, issuer, NID_subject_alt_name, spec->san);
	if (spec->usage != NULL) certs_extend(cert, issuer, NID_ext_key_usage, spec->usage);
	if (X509_sign(cert, issuer != NULL ? issuer_key : key, EVP_sha256()) == 0) abort();
	return cert;
}

static inline void certs_make(struct certs *c, const struct cert_spec *spec)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = certs_sign(c, spec, key, spec->other_ca ? c->other : c->ca,
				spec->other_ca ? c->other_key : c->ca_key);
	certs_save(c, spec->name, cert, key);
	X509_free(cert);
	EVP_PKEY_free(key);
}

/* Makes ca, other, and node, a right one (its name is node.example). */
static inline int certs_init(struct certs *c)
{
	*c = (struct certs){0};
	tmp_template(c->dir, sizeof(c->dir), "certs");
	if (mkdtemp(c->dir) == NULL) return -1;
	c->ca_key = EVP_EC_gen("P-256");
	c->other_key = EVP_EC_gen("P-256");
	c->ca = certs_sign(c, &(struct cert_spec){.name = "ca"}, c->ca_key, NULL, NULL);
	c->other = certs_sign(c, &(struct cert_spec){.name = "other"}, c->other_key, NULL, NULL);
	certs_save(c, "ca", c->ca, c->ca_key);
	certs_save(c, "other", c->other, c->other_key);
	certs_make(c, &(struct cert_spec){.name = "node",
					  .san = "IP:127.0.0.1,DNS:node.example",
					  .usage = "serverAuth,clientAuth"});
	return 0;
}

static inline void certs_fini(struct certs *c)
{
	DIR *dir = opendir(c->dir);
	char path[512];
	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
		snprintf(path, sizeof(path), "%s/%s", c->dir, e->d_name);
		if (e->d_name[0] != '.') (void)unlink(path);
	}
	if (dir != NULL) closedir(dir);
	(void)rmdir(c->dir);
	X509_free(c->ca);
	X509_free(c->other);
	EVP_PKEY_free(c->ca_key);
	EVP_PKEY_free(c->other_key);
}

#endif
