/* The etcd directory with TLS and client certificates, made with the openssl tool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <grpc/grpc.h>

#include "p2p/etcd.h"
#include "support/etcd_server.h"

static struct cairn_rpc *rpc;
static struct etcd_server server;
static char dir[64];

/* The script's only variable is its folder. */
static int run_script(const char *script)
{
	pid_t pid = fork();
	if (pid == 0) {
		int log = open("/dev/null", O_WRONLY | O_CLOEXEC);
		dup2(log, 2);
		if (chdir(dir) == 0) execlp("sh", "sh", "-ec", script, (char *)NULL);
		_exit(127);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	return status;
}

#define EC "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"

static const char make_certificates[] =
	"printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' > ext\n"
	"for ca in ca no; do openssl req -x509 " EC " -keyout $ca.key -out $ca.crt -subj /CN=$ca\n"
	"done\n"
	"sign() {\n"
	"	openssl req " EC " -keyout $1.key -out $1.csr -subj /CN=$1\n"
	"	openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -CAcreateserial -days 2 "
	"-out $1.crt -extfile ext\n"
	"}\n"
	"sign server ca; sign client ca; sign stranger no\n";

static const char *path(const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *p = paths[next++ % 4];
	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

static struct cairn_directory *start(const char *ca, const char *cert, const char *key)
{
	static int prefixes;
	struct cairn_err err;
	struct cairn_directory *d;
	char prefix[32];
	const char *const endpoints[] = {server.url};
	snprintf(prefix, sizeof(prefix), "/tls%d/", prefixes++);
	const struct cairn_etcd_opts opts = {
		.rpc = rpc,
		.address = "node:1",
		.endpoints = endpoints,
		.n_endpoints = 1,
		.prefix = prefix,
		.ca = ca != NULL ? path(ca) : "",
		.cert = cert != NULL ? path(cert) : NULL,
		.key = key != NULL ? path(key) : NULL,
		.ttl_s = 3,
	};
	OK(cairn_etcd_new(&opts, &d, &err));
	return d;
}

static bool well(struct cairn_directory *d)
{
	char text[256];
	d->ops->health(d, text);
	return text[0] == '\0';
}

static bool down(struct cairn_directory *d)
{
	char text[256];
	d->ops->health(d, text);
	return strstr(text, "does not answer") != NULL;
}

static void certificate__of_etcds_ca_is_let_in(void **state)
{
	(void)state;
	struct cairn_directory *d = start("ca.crt", "client.crt", "client.key");
	const struct cairn_digest digest = {.alg = CAIRN_SHA256, .bytes = {1}};
	struct cairn_answer a;
	struct cairn_err err;
	UNTIL(well(d));
	OK(d->ops->ask(d, &digest, true, true, 10000, &a, &err));
	assert_true(a.grant.ours);
	d->ops->close(d, 5000);
}

static void others__are_not(void **state)
{
	static const char *const all[][3] = {
		{"ca.crt", NULL, NULL},			    /* none */
		{"ca.crt", "stranger.crt", "stranger.key"}, /* another CA's */
		{"no.crt", "client.crt", "client.key"},	    /* we do not trust etcd's */
		{NULL, "client.crt", "client.key"},	    /* nor does the system */
		{"ca.crt", "client.crt", "stranger.key"},   /* a key that does not fit */
	};
	(void)state;
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		const struct cairn_digest digest = {.alg = CAIRN_SHA256, .bytes = {1}};
		struct cairn_directory *d = start(all[i][0], all[i][1], all[i][2]);
		struct cairn_answer a;
		struct cairn_err err;
		UNTIL(down(d));
		assert_int_equal(d->ops->ask(d, &digest, true, true, 10000, &a, &err),
				 CAIRN_UNAVAILABLE);
		d->ops->close(d, 1000);
	}
}

/* A certificate is put in place of one that was refused. */
static void new_files__are_read_without_a_restart(void **state)
{
	(void)state;
	assert_int_equal(run_script("cp stranger.crt now.crt; cp stranger.key now.key"), 0);
	struct cairn_directory *d = start("ca.crt", "now.crt", "now.key");
	UNTIL(down(d));
	assert_int_equal(run_script("cp client.crt now.crt; cp client.key now.key"), 0);
	UNTIL(well(d));
	d->ops->close(d, 5000);
}

static void files__that_are_no_pem_are_refused(void **state)
{
	(void)state;
	struct cairn_directory *d;
	struct cairn_err err;
	const char *const endpoints[] = {server.url};
	struct cairn_etcd_opts opts = {.rpc = rpc,
				       .address = "node:1",
				       .endpoints = endpoints,
				       .n_endpoints = 1,
				       .ca = path("ext")};
	assert_int_equal(cairn_etcd_new(&opts, &d, &err), CAIRN_INVALID_ARGUMENT);
	assert_non_null(strstr(err.msg, "CA certificate"));
	opts.ca = path("ca.crt");
	opts.cert = path("client.crt");
	assert_int_equal(cairn_etcd_new(&opts, &d, &err), CAIRN_INVALID_ARGUMENT);
	assert_non_null(strstr(err.msg, "key"));
}

static int setup(void **state)
{
	struct cairn_err err;
	(void)state;
	tmp_template(dir, sizeof(dir), "etcdtls");
	grpc_init(); /* so that it ends with us, see teardown */
	if (mkdtemp(dir) == NULL || run_script(make_certificates) != 0) return -1;
	OK(cairn_rpc_new(&(struct cairn_rpc_opts){.pollers = 2}, &rpc, &err));
	etcd_start(&server, rpc, dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	etcd_end(&server);
	cairn_rpc_free(rpc);
	/* gRPC's threads used OpenSSL: what that keeps for each is gone only with the thread. */
	grpc_shutdown_blocking();
	return nftw(dir, etcd_unlink, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(certificate__of_etcds_ca_is_let_in),
		cmocka_unit_test(others__are_not),
		cmocka_unit_test(new_files__are_read_without_a_restart),
		cmocka_unit_test(files__that_are_no_pem_are_refused),
	};
	return cmocka_run_group_tests_name("p2p/etcd tls", tests, setup, teardown);
}
