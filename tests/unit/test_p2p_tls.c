/* Who gets in, and what is said to who does not: certificates, and Hellos. The strangers here are
 * made with OpenSSL itself, because our own side does not load what others would refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>

#include "peer.pb-c.h"
#include "support/peers.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		if ((call) != CAIRN_OK) fail_msg("%s: %s", #call, err.msg);                        \
	} while (0)

#define NODE_USAGE "serverAuth,clientAuth"

struct fixture {
	struct certs certs;
	struct cairn_tls_files *tls;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	(void)signal(SIGPIPE, SIG_IGN); /* for the strangers; ours does not need it */
	if (f == NULL || certs_init(&f->certs) != 0) return -1;
	f->tls = peers_tls(&f->certs, "node");
	certs_make(&f->certs,
		   &(struct cert_spec){.name = "plain"}); /* no usage, no alternative name */
	certs_make(&f->certs,
		   &(struct cert_spec){.name = "expired", .from_s = -7200, .until_s = -3600});
	certs_make(&f->certs,
		   &(struct cert_spec){.name = "early", .from_s = 3600, .until_s = 7200});
	certs_make(&f->certs, &(struct cert_spec){.name = "stranger", .other_ca = true});
	certs_make(&f->certs, &(struct cert_spec){.name = "server", .usage = "serverAuth"});
	certs_make(&f->certs, &(struct cert_spec){.name = "client", .usage = "clientAuth"});
	certs_make(&f->certs, &(struct cert_spec){.name = "mail", .usage = "emailProtection"});
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cairn_tls_files_free(f->tls);
	certs_fini(&f->certs);
	free(f);
	return 0;
}

/* ---- files ---- */

static enum cairn_code load(struct fixture *f, const char *ca, const char *cert, const char *key,
			    struct cairn_err *err)
{
	char paths[3][160];
	struct cairn_tls_files *files = NULL;
	enum cairn_code rc = cairn_tls_files_load(
		certs_path(&f->certs, ca, paths[0]), certs_path(&f->certs, cert, paths[1]),
		certs_path(&f->certs, key, paths[2]), &files, err);
	if (rc == CAIRN_OK) cairn_tls_files_free(files);
	return rc;
}

static void files__mistakes_are_named(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	certs_write(&f->certs, "empty.pem", "");
	certs_write(&f->certs, "text.pem", "no certificate\n");
	certs_write(&f->certs, "bad.pem",
		    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
	certs_write(&f->certs, "locked.key",
		    "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
		    "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n"
		    "-----END EC PRIVATE KEY-----\n");
	static const struct {
		const char *ca, *cert, *key, *file, *fault;
	} cases[] = {
		{"none.crt", "node.crt", "node.key", "none.crt", "No such file"},
		{"ca.crt", "none.crt", "node.key", "none.crt", "No such file"},
		{"ca.crt", "node.crt", "none.key", "none.key", "No such file"},
		{".", "node.crt", "node.key", "/.:", ""},
		{"empty.pem", "node.crt", "node.key", "empty.pem", "no certificate in it"},
		{"ca.crt", "text.pem", "node.key", "text.pem", "no certificate in it"},
		{"bad.pem", "node.crt", "node.key", "bad.pem", "damaged"},
		{"ca.crt", "node.key", "node.key", "node.key", "no certificate in it"},
		{"ca.crt", "node.crt", "node.crt", "node.crt", "no key"},
		{"ca.crt", "node.crt", "locked.key", "locked.key", "passphrase"},
		{"ca.crt", "node.crt", "plain.key", "plain.key", "not the key"},
		{"ca.crt", "expired.crt", "expired.key", "expired.crt", "certificate has expired"},
		{"ca.crt", "early.crt", "early.key", "early.crt", "not yet valid"},
		{"ca.crt", "stranger.crt", "stranger.key", "stranger.crt", "issuer"},
		{"ca.crt", "server.crt", "server.key", "server.crt", "client's"},
		{"ca.crt", "client.crt", "client.key", "client.crt", "server's"},
		{"ca.crt", "mail.crt", "mail.key", "mail.crt", "purpose"},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		if (load(f, cases[i].ca, cases[i].cert, cases[i].key, &err) !=
			    CAIRN_INVALID_ARGUMENT ||
		    strstr(err.msg, cases[i].file) == NULL ||
		    strstr(err.msg, cases[i].fault) == NULL) {
			fail_msg("case %zu: %s", i, err.msg);
		}
	}
	OK(load(f, "ca.crt", "plain.crt", "plain.key", &err));
	assert_int_equal(ERR_peek_error(), 0);
}

static void copy_file(const struct certs *c, const char *from, const char *to)
{
	char path[160], buf[16384];
	FILE *in = fopen(certs_path(c, from, path), "re");
	assert_non_null(in);
	buf[fread(buf, 1, sizeof(buf) - 1, in)] = '\0';
	fclose(in);
	certs_write(c, to, buf);
}

static void append_file(const struct certs *c, const char *from, const char *to)
{
	char path[160], buf[16384];
	FILE *in = fopen(certs_path(c, from, path), "re");
	assert_non_null(in);
	buf[fread(buf, 1, sizeof(buf) - 1, in)] = '\0';
	fclose(in);
	FILE *out = fopen(certs_path(c, to, path), "ae");
	assert_non_null(out);
	assert_true(fputs(buf, out) >= 0);
	fclose(out);
}

static void files__an_intermediate_ca(void **state)
{
	struct fixture *f = *state;
	struct certs *c = &f->certs;
	struct cairn_err err;
	EVP_PKEY *mid_key = EVP_EC_gen("P-256"), *key = EVP_EC_gen("P-256");
	X509 *mid = certs_sign(c, &(struct cert_spec){.name = "mid", .ca = true}, mid_key, c->ca,
			       c->ca_key);
	X509 *leaf = certs_sign(c, &(struct cert_spec){.name = "leaf"}, key, mid, mid_key);
	certs_save(c, "mid", mid, mid_key);
	certs_save(c, "leaf", leaf, key);
	/* Its root is the CA, and the intermediate is shown; or it is the CA itself. */
	assert_int_equal(load(f, "ca.crt", "leaf.crt", "leaf.key", &err), CAIRN_INVALID_ARGUMENT);
	copy_file(c, "leaf.crt", "chain.crt");
	append_file(c, "mid.crt", "chain.crt");
	OK(load(f, "ca.crt", "chain.crt", "leaf.key", &err));
	OK(load(f, "mid.crt", "leaf.crt", "leaf.key", &err));
	assert_int_equal(load(f, "mid.crt", "node.crt", "node.key", &err), CAIRN_INVALID_ARGUMENT);
	struct cairn_conn *client, *server;
	copy_file(c, "chain.crt", "chained.crt");
	copy_file(c, "leaf.key", "chained.key");
	struct cairn_tls_files *chained = peers_tls(c, "chained");
	peers_connect(chained, &client, &server);
	assert_string_equal(cairn_conn_certificate(client), "leaf");
	cairn_conn_free(client);
	cairn_conn_free(server);
	cairn_tls_files_free(chained);
	X509_free(mid);
	X509_free(leaf);
	EVP_PKEY_free(mid_key);
	EVP_PKEY_free(key);
}

/* ---- strangers ---- */

struct stranger {
	const char *cert; /* NULL: shows none */
	const char *alpn; /* NULL: none */
	int version;
	bool plain; /* no TLS at all */
};

static SSL_CTX *stranger_ctx(struct fixture *f, const struct stranger *who)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	char path[160], file[64];
	assert_non_null(ctx);
	if (who->version != 0) SSL_CTX_set_max_proto_version(ctx, who->version);
	if (who->alpn != NULL) {
		assert_int_equal(SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)who->alpn,
							 (unsigned)strlen(who->alpn)),
				 0);
	}
	if (who->cert != NULL) {
		snprintf(file, sizeof(file), "%s.crt", who->cert);
		assert_int_equal(SSL_CTX_use_certificate_file(
					 ctx, certs_path(&f->certs, file, path), SSL_FILETYPE_PEM),
				 1);
		snprintf(file, sizeof(file), "%s.key", who->cert);
		assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, certs_path(&f->certs, file, path),
							     SSL_FILETYPE_PEM),
				 1);
	}
	return ctx;
}

#define ALPN                                                                                       \
	"\x0c"                                                                                     \
	"cairn-peer/1"

/* A stranger dials us: he gets no byte inside TLS. Returns why, as we see it. */
static struct cairn_err stranger_dials(struct fixture *f, const struct stranger *who)
{
	struct peers_server s;
	char buf[4096];
	peers_begin(&s, f->tls);
	int fd = peers_raw(s.address);
	if (who->plain) {
		assert_int_equal(write(fd, "\0\0\0\x02\x01\0\0\0\x08\x01", 10), 10);
		while (read(fd, buf, sizeof(buf)) > 0) continue;
	} else {
		SSL_CTX *ctx = stranger_ctx(f, who);
		SSL *ssl = SSL_new(ctx);
		SSL_set_fd(ssl, fd);
		if (SSL_connect(ssl) == 1) assert_true(SSL_read(ssl, buf, sizeof(buf)) <= 0);
		SSL_free(ssl);
		SSL_CTX_free(ctx);
		ERR_clear_error();
	}
	close(fd);
	peers_join(&s);
	assert_null(s.conn);
	return s.err;
}

static void strangers__get_nothing(void **state)
{
	struct fixture *f = *state;
	static const struct {
		struct stranger who;
		enum cairn_code code;
		const char *words;
	} cases[] = {
		{{.alpn = ALPN}, CAIRN_UNAUTHENTICATED, "shows no certificate"},
		{{.cert = "expired", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(expired) is refused: certificate has expired"},
		{{.cert = "early", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(early) is refused: certificate is not yet valid"},
		{{.cert = "stranger", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(stranger) is refused: unable to get"},
		{{.cert = "server", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(server) is refused: unsuitable"},
		{{.cert = "mail", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(mail) is refused: unsuitable"},
		{{.cert = "client", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(client) is refused: it is for clients only"},
		{{.cert = "node", .alpn = NULL},
		 CAIRN_FAILED_PRECONDITION,
		 "does not speak cairn's peer protocol"},
		{{.cert = "node", .alpn = "\x02h2"},
		 CAIRN_FAILED_PRECONDITION,
		 "does not speak cairn's"},
		{{.cert = "node", .alpn = ALPN, .version = TLS1_2_VERSION},
		 CAIRN_FAILED_PRECONDITION,
		 "TLS 1.3"},
		{{.plain = true}, CAIRN_FAILED_PRECONDITION, "TLS 1.3"},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		struct cairn_err err = stranger_dials(f, &cases[i].who);
		if (err.code != cases[i].code || strstr(err.msg, cases[i].words) == NULL ||
		    strstr(err.msg, "127.0.0.1:") != err.msg) {
			fail_msg("case %zu: %d %s", i, err.code, err.msg);
		}
	}
}

struct stranger_server {
	SSL_CTX *ctx;
	int fd;
	pthread_t thread;
};

static void *stranger_accepts(void *arg)
{
	struct stranger_server *s = arg;
	char buf[4096];
	int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
	if (s->ctx == NULL) {
		(void)!write(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
	} else {
		SSL *ssl = SSL_new(s->ctx);
		SSL_set_fd(ssl, fd);
		if (SSL_accept(ssl) == 1) (void)SSL_read(ssl, buf, sizeof(buf));
		SSL_free(ssl);
	}
	shutdown(fd, SHUT_WR);
	while (read(fd, buf, sizeof(buf)) > 0) continue;
	close(fd);
	return NULL;
}

static int take_alpn(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *in,
		     unsigned in_len, void *arg)
{
	(void)ssl, (void)in_len, (void)arg;
	*out = in + 1;
	*n = in[0];
	return SSL_TLSEXT_ERR_OK;
}

/* We dial a stranger. */
static struct cairn_err dial_stranger(struct fixture *f, const struct stranger *who)
{
	struct stranger_server s = {0};
	char address[CAIRN_ADDRESS_MAX];
	struct cairn_err err;
	struct cairn_conn *conn;
	const struct cairn_hello hello = peers_hello("10.9.8.7:4444", 2);
	s.fd = peers_listen(1, address);
	if (!who->plain) {
		s.ctx = stranger_ctx(f, who);
		if (who->alpn != NULL) SSL_CTX_set_alpn_select_cb(s.ctx, take_alpn, NULL);
	}
	assert_int_equal(pthread_create(&s.thread, NULL, stranger_accepts, &s), 0);
	assert_int_not_equal(cairn_conn_dial(f->tls, address, &hello, PEERS_MS, &conn, &err),
			     CAIRN_OK);
	pthread_join(s.thread, NULL);
	SSL_CTX_free(s.ctx);
	close(s.fd);
	return err;
}

static void strangers__are_not_believed(void **state)
{
	struct fixture *f = *state;
	static const struct {
		struct stranger who;
		enum cairn_code code;
		const char *words;
	} cases[] = {
		{{.cert = "expired", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(expired) is refused: certificate has expired"},
		{{.cert = "stranger", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(stranger) is refused: unable to get"},
		{{.cert = "client", .alpn = ALPN},
		 CAIRN_UNAUTHENTICATED,
		 "(client) is refused: unsuitable"},
		{{.cert = "node", .alpn = NULL},
		 CAIRN_FAILED_PRECONDITION,
		 "does not speak cairn's"},
		{{.cert = "node", .alpn = ALPN, .version = TLS1_2_VERSION},
		 CAIRN_FAILED_PRECONDITION,
		 "TLS 1.3"},
		{{.plain = true}, CAIRN_FAILED_PRECONDITION, "TLS 1.3"},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		struct cairn_err err = dial_stranger(f, &cases[i].who);
		if (err.code != cases[i].code || strstr(err.msg, cases[i].words) == NULL)
			fail_msg("case %zu: %d %s", i, err.code, err.msg);
	}
}

/* Whoever is refused is told so in our words, although TLS 1.3 lets him believe at first that all
 * is well: a cluster whose CA is replaced under the one, and not yet under the other. */
static void who_is_refused__knows_that_it_is_for_his_certificate(void **state)
{
	struct fixture *f = *state;
	struct peers_server s;
	struct cairn_conn *conn;
	struct cairn_err err;
	const struct cairn_hello hello = peers_hello("10.9.8.7:4444", 2);
	char ca[160], cert[160], key[160];
	/* He trusts both, and shows one of the other CA. */
	copy_file(&f->certs, "other.crt", "both.crt");
	append_file(&f->certs, "ca.crt", "both.crt");
	struct cairn_tls_files *his;
	OK(cairn_tls_files_load(certs_path(&f->certs, "both.crt", ca),
				certs_path(&f->certs, "stranger.crt", cert),
				certs_path(&f->certs, "stranger.key", key), &his, &err));
	for (int i = 0; i < 20; i++) { /* it is a matter of who is faster */
		peers_begin(&s, f->tls);
		assert_int_equal(cairn_conn_dial(his, s.address, &hello, PEERS_MS, &conn, &err),
				 CAIRN_UNAUTHENTICATED);
		assert_non_null(strstr(err.msg, "it refuses our certificate: unknown CA"));
		assert_non_null(strstr(err.msg, s.address));
		peers_join(&s);
		assert_int_equal(s.err.code, CAIRN_UNAUTHENTICATED);
	}
	cairn_tls_files_free(his);
}

static void names__are_the_first_dns_name_else_the_common_name(void **state)
{
	struct fixture *f = *state;
	struct cairn_conn *client, *server;
	struct cairn_tls_files *plain = peers_tls(&f->certs, "plain");
	peers_connect(f->tls, &client, &server);
	assert_string_equal(cairn_conn_certificate(client), "node.example");
	cairn_conn_free(client);
	cairn_conn_free(server);
	peers_connect(plain, &client, &server);
	assert_string_equal(cairn_conn_certificate(client), "plain");
	cairn_conn_free(client);
	cairn_conn_free(server);
	cairn_tls_files_free(plain);
}

static void all_names__are_whole_and_harmless_or_none(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		int type;
	} alts[] = {{"fine.example", GEN_DNS},	{"two\nlines", GEN_DNS},   {"", GEN_DNS},
		    {"a@b.example", GEN_EMAIL}, {"spiffe://c/a", GEN_URI}, {"1.2.3.4", GEN_DNS}};
	static const unsigned char addresses[][17] = {"\x0a\0\0\1", "\x0a\0\0"};
	static const int sizes[] = {4, 3}; /* the last is none */
	static struct cairn_tls_names names;
	char longest[CAIRN_TLS_NAME_MAX + 1];
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0'; /* a byte too many */
	X509 *cert = X509_new();
	GENERAL_NAMES *list = sk_GENERAL_NAME_new_null();
	assert_int_equal(X509_NAME_add_entry_by_NID(X509_get_subject_name(cert), NID_commonName,
						    MBSTRING_UTF8,
						    (const unsigned char *)"the name", -1, -1, 0),
			 1);
	for (size_t i = 0; i <= CAIRN_LEN(alts); i++) {
		GENERAL_NAME *name = GENERAL_NAME_new();
		ASN1_IA5STRING *text = ASN1_IA5STRING_new();
		const char *is = i < CAIRN_LEN(alts) ? alts[i].name : longest;
		assert_int_equal(ASN1_STRING_set(text, is, -1), 1);
		GENERAL_NAME_set0_value(name, i < CAIRN_LEN(alts) ? alts[i].type : GEN_DNS, text);
		assert_true(sk_GENERAL_NAME_push(list, name) > 0);
	}
	for (size_t i = 0; i < CAIRN_LEN(sizes); i++) {
		GENERAL_NAME *name = GENERAL_NAME_new();
		ASN1_OCTET_STRING *address = ASN1_OCTET_STRING_new();
		assert_int_equal(ASN1_OCTET_STRING_set(address, addresses[i], sizes[i]), 1);
		GENERAL_NAME_set0_value(name, GEN_IPADD, address);
		assert_true(sk_GENERAL_NAME_push(list, name) > 0);
	}
	assert_int_equal(X509_add1_ext_i2d(cert, NID_subject_alt_name, list, 0, 0), 1);
	cairn_tls_names_of(cert, &names);
	static const char *const want[] = {"the name",	   "fine.example", "a@b.example",
					   "spiffe://c/a", "1.2.3.4",	   "10.0.0.1"};
	assert_int_equal(names.n, CAIRN_LEN(want));
	for (size_t i = 0; i < CAIRN_LEN(want); i++) {
		assert_string_equal(names.name[i], want[i]);
	}
	for (int i = 0; i < 2 * CAIRN_TLS_NAMES_MAX; i++) {
		assert_true(sk_GENERAL_NAME_push(
				    list, GENERAL_NAME_dup(sk_GENERAL_NAME_value(list, 0))) > 0);
	}
	assert_int_equal(X509_add1_ext_i2d(cert, NID_subject_alt_name, list, 0, X509V3_ADD_REPLACE),
			 1);
	cairn_tls_names_of(cert, &names);
	assert_int_equal(names.n, CAIRN_TLS_NAMES_MAX);
	GENERAL_NAMES_free(list);
	X509_free(cert);
}

/* ---- reload ---- */

static void exchange_bytes(struct cairn_conn *from, struct cairn_conn *to)
{
	struct cairn_err err;
	struct cairn_frame frame;
	Cairn__Peer__V1__Get get = CAIRN__PEER__V1__GET__INIT;
	get.piece = 1;
	OK(cairn_conn_send_message(from, CAIRN_FRAME_GET, &get.base, PEERS_MS, &err));
	OK(cairn_conn_flush(from, PEERS_MS, &err));
	OK(cairn_conn_read_head(to, PEERS_MS, &frame, &err));
}

static void reload__is_for_new_connections_and_all_or_nothing(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_conn *client[2], *server[2];
	copy_file(&f->certs, "node.crt", "live.crt");
	copy_file(&f->certs, "node.key", "live.key");
	struct cairn_tls_files *live = peers_tls(&f->certs, "live");
	peers_connect(live, &client[0], &server[0]);

	copy_file(&f->certs, "expired.crt", "live.crt");
	copy_file(&f->certs, "expired.key", "live.key");
	assert_int_equal(cairn_tls_files_reload(live, &err), CAIRN_INVALID_ARGUMENT);
	peers_connect(live, &client[1], &server[1]); /* with the old ones */
	assert_string_equal(cairn_conn_certificate(client[1]), "node.example");
	cairn_conn_free(client[1]);
	cairn_conn_free(server[1]);

	copy_file(&f->certs, "plain.crt", "live.crt");
	copy_file(&f->certs, "plain.key", "live.key");
	OK(cairn_tls_files_reload(live, &err));
	peers_connect(live, &client[1], &server[1]);
	assert_string_equal(cairn_conn_certificate(client[1]), "plain");
	exchange_bytes(client[0], server[0]); /* those of before live on, without the files, too */
	cairn_tls_files_free(live);
	for (int i = 0; i < 2; i++) {
		exchange_bytes(server[i], client[i]);
		cairn_conn_free(client[i]);
		cairn_conn_free(server[i]);
	}
}

static void end__is_that_of_the_certificate_in_use(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	certs_make(&f->certs, &(struct cert_spec){.name = "short", .from_s = -60, .until_s = 600});
	copy_file(&f->certs, "node.crt", "live.crt");
	copy_file(&f->certs, "node.key", "live.key");
	struct cairn_tls_files *live = peers_tls(&f->certs, "live");
	int64_t now = time(NULL), end = cairn_tls_files_end_s(live);
	assert_in_range(end, now + 3500, now + 3600); /* an hour, less what it took to come here */

	copy_file(&f->certs, "short.crt", "live.crt");
	copy_file(&f->certs, "short.key", "live.key");
	assert_int_equal(cairn_tls_files_end_s(live), end);
	OK(cairn_tls_files_reload(live, &err));
	end = cairn_tls_files_end_s(live);
	assert_in_range(end, now + 600, now + 700);
	cairn_tls_files_free(live);
}

static void *reload_often(void *arg)
{
	struct cairn_err err;
	for (int i = 0; i < 50; i++)
		if (cairn_tls_files_reload(arg, &err) != CAIRN_OK) abort();
	return NULL;
}

static void reload__while_others_connect(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, reload_often, f->tls), 0);
	for (int i = 0; i < 20; i++) {
		struct cairn_conn *client, *server;
		peers_connect(f->tls, &client, &server);
		exchange_bytes(client, server);
		cairn_conn_free(client);
		cairn_conn_free(server);
	}
	pthread_join(thread, NULL);
}

/* ---- Hellos, in plain text ---- */

static int raw_hello(const char *address, const Cairn__Peer__V1__Hello *msg)
{
	uint8_t buf[8192];
	size_t n = cairn__peer__v1__hello__get_packed_size(msg);
	assert_true(n < sizeof(buf) - CAIRN_FRAME_HEAD);
	cairn_frame_encode(&(struct cairn_frame){CAIRN_FRAME_HELLO, (uint32_t)n}, buf);
	cairn__peer__v1__hello__pack(msg, buf + CAIRN_FRAME_HEAD);
	int fd = peers_raw(address);
	assert_int_equal(write(fd, buf, CAIRN_FRAME_HEAD + n), CAIRN_FRAME_HEAD + n);
	return fd;
}

/* What the server answers to that Hello; "": it takes it; NULL: nothing. */
static const char *answer_to(const Cairn__Peer__V1__Hello *msg, struct peers_server *s,
			     char words[static 512])
{
	uint8_t buf[8192];
	size_t done = 0;
	peers_begin(s, NULL);
	int fd = raw_hello(s->address, msg);
	while (done < sizeof(buf)) { /* it closes if it refuses us */
		ssize_t n = read(fd, buf + done, sizeof(buf) - done);
		if (n <= 0) break;
		done += (size_t)n;
		Cairn__Peer__V1__Hello *hello =
			done < 9 ? NULL
				 : cairn__peer__v1__hello__unpack(NULL, done - CAIRN_FRAME_HEAD,
								  buf + CAIRN_FRAME_HEAD);
		if (hello == NULL) continue;
		snprintf(words, 512, "%s", hello->error);
		cairn__peer__v1__hello__free_unpacked(hello, NULL);
		close(fd);
		peers_join(s);
		return words;
	}
	close(fd);
	peers_join(s);
	return NULL;
}

/* protobuf-c does not write to what it packs. */
static char *text(const char *s)
{
	char *ret;
	memcpy(&ret, &s, sizeof(ret));
	return ret;
}

static Cairn__Peer__V1__Hello good_hello(void)
{
	static uint8_t instance[16] = {9};
	Cairn__Peer__V1__Hello msg = CAIRN__PEER__V1__HELLO__INIT;
	msg.version_min = msg.version_max = 1;
	msg.address = text("10.0.0.1:7000");
	msg.name = text("x");
	msg.instance.data = instance;
	msg.instance.len = sizeof(instance);
	return msg;
}

static void hello__is_checked_and_the_refusal_said(void **state)
{
	(void)state;
	static char longest[300];
	memset(longest, 'n', sizeof(longest) - 1);
	static uint8_t ours[16] = {1};
	struct peers_server s;
	char words[512];
	for (int i = 0; i < 12; i++) {
		Cairn__Peer__V1__Hello msg = good_hello();
		const char *expect = "";
		switch (i) {
		case 1:
			msg.version_max = 7, msg.features = ~UINT64_C(0);
			break; /* newer, but common */
		case 2:
			msg.version_min = 2, msg.version_max = 3, expect = "no common version";
			break;
		case 3:
			msg.version_min = 0, msg.version_max = 0, expect = "no common version";
			break;
		case 4:
			msg.version_min = 1, msg.version_max = 0, expect = "no common version";
			break;
		case 5:
			msg.address = text("nowhere"), expect = "no address";
			break;
		case 6:
			msg.address = longest, expect = "no address";
			break;
		case 7:
			msg.name = longest, expect = "no name";
			break;
		case 8:
			msg.name = text("a\nb"), expect = "no name";
			break;
		case 9:
			msg.instance.len = 15, expect = "no instance";
			break;
		case 10:
			msg.instance.data = ours, expect = "itself";
			break;
		case 11:
			msg.version_min = 0, msg.name = text("");
			break;
		default:
			break;
		}
		if (answer_to(&msg, &s, words) == NULL || strstr(words, expect) == NULL ||
		    (expect[0] == '\0') != (words[0] == '\0')) {
			fail_msg("case %d: %s", i, words);
		}
		if (expect[0] == '\0') {
			assert_non_null(s.conn);
			cairn_conn_free(s.conn);
		} else {
			assert_null(s.conn);
			bool self = strcmp(expect, "itself") == 0;
			assert_int_equal(s.err.code,
					 self ? CAIRN_ABORTED : CAIRN_FAILED_PRECONDITION);
			assert_non_null(strstr(s.err.msg, expect));
		}
	}
}

static void dial__tells_what_the_other_said(void **state)
{
	(void)state;
	struct peers_server s;
	struct cairn_err err;
	struct cairn_conn *conn;
	peers_begin(&s, NULL);
	struct cairn_hello bad = peers_hello("10.9.8.7:4444", 2);
	snprintf(bad.address, sizeof(bad.address), "nowhere");
	assert_int_equal(cairn_conn_dial(NULL, s.address, &bad, PEERS_MS, &conn, &err),
			 CAIRN_FAILED_PRECONDITION);
	assert_non_null(strstr(err.msg, "it refuses us: its Hello: \"nowhere\" is no address"));
	peers_join(&s);
	peers_begin(&s, NULL);
	assert_int_equal(cairn_conn_dial(NULL, s.address, &s.hello, PEERS_MS, &conn, &err),
			 CAIRN_ABORTED);
	assert_non_null(strstr(err.msg, "it is this node itself"));
	peers_join(&s);
}

/* An endless Hello: a byte now and then; and one that is too long; and another frame. */
static void hello__comes_whole_in_time_or_not_at_all(void **state)
{
	(void)state;
	struct peers_server s;
	peers_begin(&s, NULL);
	s.timeout_ms = 200; /* before it is accepted */
	int fd = peers_raw(s.address);
	ssize_t n = write(fd, "\0\0\x10\0\x01\0\0\0", 8);
	for (int i = 0; i < 4096 && n > 0; i++) {
		n = send(fd, "x", 1, MSG_NOSIGNAL);
		struct pollfd ended = {fd, POLLIN, 0};
		if (poll(&ended, 1, 20) > 0) break;
	}
	peers_join(&s);
	close(fd);
	assert_null(s.conn);
	assert_int_equal(s.err.code, CAIRN_UNAVAILABLE);
	assert_non_null(strstr(s.err.msg, "too slow"));

	static const char *const bad[] = {"\0\0\x10\x01\x01\0\0\0", "\0\0\0\0\x04\0\0\0",
					  "GET / HT", "\x16\x03\x01\x02\0\x01\0\x01"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		peers_begin(&s, NULL);
		fd = peers_raw(s.address);
		char buf[64];
		assert_int_equal(write(fd, bad[i], 8), 8);
		while (read(fd, buf, sizeof(buf)) > 0) continue;
		close(fd);
		peers_join(&s);
		assert_null(s.conn);
		assert_int_equal(s.err.code, CAIRN_FAILED_PRECONDITION);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(files__mistakes_are_named),
		TEST(files__an_intermediate_ca),
		TEST(strangers__get_nothing),
		TEST(strangers__are_not_believed),
		TEST(who_is_refused__knows_that_it_is_for_his_certificate),
		TEST(names__are_the_first_dns_name_else_the_common_name),
		TEST(all_names__are_whole_and_harmless_or_none),
		TEST(reload__is_for_new_connections_and_all_or_nothing),
		TEST(end__is_that_of_the_certificate_in_use),
		TEST(reload__while_others_connect),
		cmocka_unit_test(hello__is_checked_and_the_refusal_said),
		cmocka_unit_test(dial__tells_what_the_other_said),
		cmocka_unit_test(hello__comes_whole_in_time_or_not_at_all),
	};
	return cmocka_run_group_tests_name("p2p/tls", tests, NULL, NULL);
}
