/* Certificates are made with the openssl tool, in a temporary folder. */
#include <grpc/grpc.h>

#include "support/rpc_fixture.h"
#include "support/tmp.h"

struct tls_fixture {
	char dir[64];
	char *ca, *other_ca, *cert, *key, *client_cert, *client_key, *stranger_cert, *stranger_key;
	struct fixture *f;
	struct cairn_rpc_server *server;
	int port;
};

static char *slurp(const char *dir, const char *name)
{
	char path[160], *text = calloc(1, 16384);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *in = fopen(path, "re");
	if (in == NULL || text == NULL) abort();
	(void)!fread(text, 1, 16383, in);
	fclose(in);
	return text;
}

static int run(const char *dir, const char *command)
{
	char line[1024];
	snprintf(line, sizeof(line), "cd %s && (%s) >log 2>&1", dir, command);
	return system(line); // NOLINT(cert-env33-c): a test's own command
}

#define EC "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
#define SIGN(name, ca)                                                                             \
	"openssl req " EC " -keyout " name ".key -out " name ".csr -subj /CN=" name " && "         \
	"openssl x509 -req -in " name ".csr -CA " ca ".crt -CAkey " ca ".key -CAcreateserial "     \
	"-days 2 -out " name ".crt -extfile ext"

static int tls_setup(void **state)
{
	struct tls_fixture *t = calloc(1, sizeof(*t));
	void *inner = NULL;
	if (t == NULL || fixture_setup(&inner) != 0) return -1;
	t->f = inner;
	tmp_template(t->dir, sizeof(t->dir), "tls");
	if (mkdtemp(t->dir) == NULL) return -1;
	if (run(t->dir, "printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > ext && "
			"openssl req -x509 " EC " -keyout ca.key -out ca.crt -subj /CN=ca && "
			"openssl req -x509 " EC " -keyout no.key -out no.crt -subj /CN=no") != 0 ||
	    run(t->dir, SIGN("server", "ca")) != 0 || run(t->dir, SIGN("client", "ca")) != 0 ||
	    run(t->dir, SIGN("stranger", "no")) != 0) {
		return -1;
	}
	t->ca = slurp(t->dir, "ca.crt");
	t->other_ca = slurp(t->dir, "no.crt");
	t->cert = slurp(t->dir, "server.crt");
	t->key = slurp(t->dir, "server.key");
	t->client_cert = slurp(t->dir, "client.crt");
	t->client_key = slurp(t->dir, "client.key");
	t->stranger_cert = slurp(t->dir, "stranger.crt");
	t->stranger_key = slurp(t->dir, "stranger.key");
	*state = t;
	return 0;
}

static int tls_teardown(void **state)
{
	struct tls_fixture *t = *state;
	void *inner = t->f;
	if (t->server != NULL) {
		(void)cairn_rpc_server_drain(t->server, 0);
		cairn_rpc_server_free(t->server);
	}
	fixture_teardown(&inner);
	free(t->ca);
	free(t->other_ca);
	free(t->cert);
	free(t->key);
	free(t->client_cert);
	free(t->client_key);
	free(t->stranger_cert);
	free(t->stranger_key);
	char line[96];
	snprintf(line, sizeof(line), "rm -r %s", t->dir);
	int rc = system(line); // NOLINT(cert-env33-c)
	free(t);
	return rc;
}

static void serve(struct tls_fixture *t, const struct cairn_tls *tls)
{
	struct cairn_err err;
	OK(cairn_rpc_server_new(t->f->rpc, &t->server, &err));
	cairn_rpc_server_add(t->server, test_methods, CAIRN_LEN(test_methods), &t->f->service);
	OK(cairn_rpc_server_listen_tcp(t->server, "127.0.0.1:0", tls, &t->port, &err));
	OK(cairn_rpc_server_start(t->server, &err));
}

static enum cairn_code try(struct tls_fixture *t, const struct cairn_tls *tls)
{
	struct cairn_err err;
	struct cairn_channel *channel;
	char target[64];
	read_resp *r = NULL;
	snprintf(target, sizeof(target), "127.0.0.1:%d", t->port);
	OK(cairn_channel_new(t->f->rpc, target, tls, &channel, &err));
	enum cairn_code rc = ask(channel, "echo", 0, 1000, 10000, &r, &err);
	if (rc == CAIRN_OK) free_resp(r);
	cairn_channel_free(channel);
	return rc;
}

static void tls__is_accepted_by_who_trusts_the_ca(void **state)
{
	struct tls_fixture *t = *state;
	serve(t, &(struct cairn_tls){.cert = t->cert, .key = t->key});
	assert_int_equal(try(t, &(struct cairn_tls){.ca = t->ca}), CAIRN_OK);
	assert_int_equal(try(t, &(struct cairn_tls){.ca = t->other_ca}), CAIRN_UNAVAILABLE);
	assert_int_equal(try(t, &(struct cairn_tls){.ca = NULL}), CAIRN_UNAVAILABLE);
	assert_int_equal(try(t, NULL), CAIRN_UNAVAILABLE); /* plain text */
	assert_int_equal(t->f->service.entered, 1);
}

static void mutual_tls__demands_a_certificate_of_the_ca(void **state)
{
	struct tls_fixture *t = *state;
	serve(t, &(struct cairn_tls){.ca = t->ca, .cert = t->cert, .key = t->key});
	assert_int_equal(
		try(t,
		    &(struct cairn_tls){.ca = t->ca, .cert = t->client_cert, .key = t->client_key}),
		CAIRN_OK);
	assert_int_equal(try(t, &(struct cairn_tls){.ca = t->ca}), CAIRN_UNAVAILABLE);
	assert_int_equal(try(t, &(struct cairn_tls){.ca = t->ca,
						    .cert = t->stranger_cert,
						    .key = t->stranger_key}),
			 CAIRN_UNAVAILABLE);
	assert_int_equal(t->f->service.entered, 1);
}

static void bad_pem__is_refused(void **state)
{
	struct tls_fixture *t = *state;
	struct cairn_err err;
	struct cairn_channel *channel;
	struct cairn_rpc_server *server;
	int port;
	const struct cairn_tls bad[] = {
		{.cert = t->cert},
		{.key = t->key},
		{.cert = "nonsense", .key = t->key},
		{.ca = "", .cert = t->cert, .key = t->key},
	};
	OK(cairn_rpc_server_new(t->f->rpc, &server, &err));
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		assert_int_equal(
			cairn_rpc_server_listen_tcp(server, "127.0.0.1:0", &bad[i], &port, &err),
			CAIRN_INVALID_ARGUMENT);
		assert_int_equal(
			cairn_channel_new(t->f->rpc, "127.0.0.1:1", &bad[i], &channel, &err),
			CAIRN_INVALID_ARGUMENT);
	}
	/* A key that is another's: only the library finds out. */
	const struct cairn_tls mixed = {.cert = t->cert, .key = t->client_key};
	assert_int_not_equal(
		cairn_rpc_server_listen_tcp(server, "127.0.0.1:0", &mixed, &port, &err), CAIRN_OK);
	cairn_rpc_server_free(server);
}

#define TLS_TEST(name) cmocka_unit_test_setup_teardown(name, tls_setup, tls_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TLS_TEST(tls__is_accepted_by_who_trusts_the_ca),
		TLS_TEST(mutual_tls__demands_a_certificate_of_the_ca),
		TLS_TEST(bad_pem__is_refused),
	};
	grpc_init();
	int failed = cmocka_run_group_tests_name("rpc/tls", tests, NULL, NULL);
	/* Its threads used OpenSSL: what that keeps for each is gone only with the thread. */
	grpc_shutdown_blocking();
	return failed;
}
