/* A registry client and two scripted servers: a is the registry that reference names, b is whoever
 * else there is (a token server, a mirror, storage). */
#ifndef CAIRN_TESTS_REGISTRY_FIXTURE_H
#define CAIRN_TESTS_REGISTRY_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>

#include "base/clock.h"
#include "oci/registry.h"
#include "support/http_server.h"
#include "support/tmp.h"

#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"
#define MANIFEST "{\"schemaVersion\":2,\"mediaType\":\"" MANIFEST_TYPE "\",\"layers\":[]}"
#define TYPE_LINE "Content-Type: " MANIFEST_TYPE "\r\n"

struct world {
	struct http_server *a, *b;
	char host_a[32], host_b[32];
	struct cairn_registry_opts opts;
	struct cairn_rate limit; /* of opts, after limit_to */
	struct cairn_registry_host hosts[2];
	const char *mirrors[3];
	struct cairn_registry *registry;
	struct cairn_registry_session *session;
	struct cairn_reference ref;
	struct cairn_digest digest; /* of blob */
	uint64_t told_size;	    /* of the last that was resolved */
	uint8_t blob[100000];
	uint8_t got[200000];
	size_t n_got;
	int64_t stop_ns; /* go_on says no from here on; 0: never */
	char *texts[64];
	size_t n_texts;
	char config[80]; /* a docker config's path; "": none was written */
	struct cairn_err err;
};

/* Text that lives as long as the world. */
static inline const char *text(struct world *w, const char *fmt, ...) CAIRN_PRINTF(2, 3);
static inline const char *text(struct world *w, const char *fmt, ...)
{
	va_list args;
	char *made = NULL;
	va_start(args, fmt);
	assert_true(vasprintf(&made, fmt, args) >= 0);
	va_end(args);
	assert_true(w->n_texts < CAIRN_LEN(w->texts));
	w->texts[w->n_texts++] = made;
	return made;
}

static inline void digest_of(const void *data, size_t n, struct cairn_digest *ret)
{
	struct cairn_hasher h;
	cairn_hasher_init(&h, CAIRN_SHA256);
	cairn_hasher_update(&h, data, n);
	cairn_hasher_digest(&h, ret);
}

static inline int world_new(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	for (size_t i = 0; i < sizeof(w->blob); i++) w->blob[i] = (uint8_t)(i * 31 + (i >> 8));
	digest_of(w->blob, sizeof(w->blob), &w->digest);
	signal(SIGPIPE, SIG_IGN);
	static const char *const proxies[] = {"http_proxy", "https_proxy", "all_proxy",
					      "HTTPS_PROXY", "ALL_PROXY"};
	for (size_t i = 0; i < CAIRN_LEN(proxies); i++) unsetenv(proxies[i]);
	w->a = http_server_start();
	w->b = http_server_start();
	snprintf(w->host_a, sizeof(w->host_a), "127.0.0.1:%d", w->a->port);
	snprintf(w->host_b, sizeof(w->host_b), "127.0.0.1:%d", w->b->port);
	w->hosts[0] = (struct cairn_registry_host){
		.host = w->host_a, .plain_http = true, .ca = "", .mirrors = w->mirrors};
	w->opts = (struct cairn_registry_opts){.docker_config = "",
					       .hosts = w->hosts,
					       .n_hosts = 1,
					       .user_agent = "cairn/test",
					       .connect_ms = 2000,
					       .stall_ms = 3000,
					       .retry_ms = 20,
					       .tries = 3};
	snprintf(w->ref.registry, sizeof(w->ref.registry), "%s", w->host_a);
	strcpy(w->ref.repository, "lib/app");
	strcpy(w->ref.tag, "v1");
	*state = w;
	return 0;
}

static inline int world_free(void **state)
{
	struct world *w = *state;
	cairn_registry_session_free(w->session);
	cairn_registry_free(w->registry);
	if (w->opts.limit != NULL) cairn_rate_fini(&w->limit);
	http_server_stop(w->a);
	http_server_stop(w->b);
	for (size_t i = 0; i < w->n_texts; i++) free(w->texts[i]);
	if (w->config[0] != '\0') unlink(w->config);
	free(w);
	return 0;
}

static inline void limit_to(struct world *w, uint64_t bytes_per_s)
{
	cairn_rate_init(&w->limit, bytes_per_s, cairn_boot_ns(&cairn_clock_system));
	w->opts.limit = &w->limit;
}

/* Begin, with the options as they are now. login: may be NULL. */
static inline void world_open(struct world *w, const struct cairn_registry_login *login)
{
	assert_int_equal(cairn_registry_new(&w->opts, &w->registry, &w->err), CAIRN_OK);
	assert_int_equal(cairn_registry_session_new(w->registry, login, &w->session, &w->err),
			 CAIRN_OK);
}

static inline void write_config(struct world *w, const char *json)
{
	if (w->config[0] == '\0') {
		tmp_template(w->config, sizeof(w->config), "docker");
		int fd = mkstemp(w->config);
		assert_true(fd >= 0);
		close(fd);
	}
	FILE *file = fopen(w->config, "we");
	assert_non_null(file);
	fputs(json, file);
	assert_int_equal(fclose(file), 0);
	w->opts.docker_config = w->config;
}

static inline int64_t boot_ms(void)
{
	return cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
}

static inline bool world_goes_on(void *arg)
{
	const struct world *w = arg;
	return w->stop_ns == 0 || cairn_boot_ns(&cairn_clock_system) < w->stop_ns;
}

static inline enum cairn_code world_sink(void *arg, const void *data, size_t n,
					 struct cairn_err *err)
{
	struct world *w = arg;
	(void)err;
	assert_true(n <= sizeof(w->got) - w->n_got);
	memcpy(w->got + w->n_got, data, n);
	w->n_got += n;
	return CAIRN_OK;
}

static inline enum cairn_code get_manifest(struct world *w, struct cairn_registry_manifest *m)
{
	struct cairn_go_on go_on = {world_goes_on, w};
	*m = (struct cairn_registry_manifest){0};
	return cairn_registry_get_manifest(w->session, &w->ref, &go_on, m, &w->err);
}

/* The code alone. */
static inline enum cairn_code try_manifest(struct world *w)
{
	struct cairn_registry_manifest m;
	enum cairn_code code = get_manifest(w, &m);
	free(m.json);
	return code;
}

static inline enum cairn_code resolve(struct world *w, struct cairn_digest *ret)
{
	struct cairn_go_on go_on = {world_goes_on, w};
	return cairn_registry_resolve(w->session, &w->ref, &go_on, ret, &w->told_size, &w->err);
}

static inline enum cairn_code get_blob(struct world *w, uint64_t offset)
{
	struct cairn_go_on go_on = {world_goes_on, w};
	w->n_got = 0;
	return cairn_registry_get_blob(w->session, &w->ref, &w->digest, offset, sizeof(w->blob),
				       &go_on, world_sink, w, &w->err);
}

/* The sink got the blob from offset on, each byte once. */
static inline void assert_blob(struct world *w, size_t offset)
{
	assert_int_equal(w->n_got, sizeof(w->blob) - offset);
	assert_memory_equal(w->got, w->blob + offset, w->n_got);
}

static inline void assert_code(struct world *w, enum cairn_code code, enum cairn_code want)
{
	if (code == want) return;
	fail_msg("got %s (%s), want %s", cairn_code_name(code),
		 code != CAIRN_OK ? w->err.msg : "no error", cairn_code_name(want));
}

static inline void assert_has(const char *in, const char *part)
{
	if (strstr(in, part) == NULL) fail_msg("\"%s\" is not in:\n%s", part, in);
}

static inline void assert_lacks(const char *in, const char *part)
{
	if (strcasestr(in, part) != NULL) fail_msg("\"%s\" is in:\n%s", part, in);
}

/* The blob's bytes from a to the end, as a 206. */
static inline struct http_step part_of_blob(struct world *w, size_t a)
{
	return (struct http_step){
		.status = 206,
		.headers = text(w, "Content-Range: bytes %zu-%zu/%zu\r\n", a, sizeof(w->blob) - 1,
				sizeof(w->blob)),
		.body = w->blob + a,
		.len = sizeof(w->blob) - a,
	};
}

static inline struct http_step whole_blob(struct world *w)
{
	return (struct http_step){.body = w->blob, .len = sizeof(w->blob)};
}

static inline struct http_step a_manifest(void)
{
	return (struct http_step){.headers = TYPE_LINE, .body = MANIFEST};
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, world_new, world_free)

#endif
