/* Time, limits, and how a connection can go wrong. */
#include "support/registry_fixture.h"

#include "oci/limit.h"

static void assert_within(int64_t begin_ms, int64_t least, int64_t most)
{
	int64_t took = boot_ms() - begin_ms;
	if (took < least || took > most) fail_msg("took %lld ms", (long long)took);
}

/* ---- time ------------------------------------------------------------------------------------
 */

static void stall__before_headers_and_in_a_body(void **state)
{
	struct world *w = *state;
	struct http_step body = whole_blob(w);
	body.cut = 70000;
	body.stall_ms = 5000;
	http_server_then(w->a, body);
	w->opts.stall_ms = 300;
	w->opts.tries = 1;
	world_open(w, NULL);
	int64_t begin = boot_ms();
	assert_code(w, get_blob(w, 0), CAIRN_UNAVAILABLE);
	assert_int_equal(w->n_got, 70000);
	assert_has(w->err.msg, "no byte came for 300 ms");
	assert_within(begin, 550, 4000);
	begin = boot_ms();
	assert_code(w, get_blob(w, 0), CAIRN_UNAVAILABLE); /* the server is still busy */
	assert_within(begin, 290, 3000);
}

static void stall__is_not_what_the_sink_or_the_limit_take(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, whole_blob(w));
	w->opts.stall_ms = 100;
	limit_to(w, 100000); /* 64 KiB come at once, then some chunks of 160 ms each */
	world_open(w, NULL);
	int64_t begin = boot_ms();
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_blob(w, 0);
	assert_within(begin, 250, 3000);
	assert_int_equal(http_server_requests(w->a), 1);
}

/* What others took from it, such as the bytes that came from peers, counts too. */
static void limit__is_shared_with_who_else_takes_from_it(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, whole_blob(w));
	limit_to(w, 1000000); /* of which a quarter of a second's come at once */
	world_open(w, NULL);
	int64_t begin = boot_ms();
	(void)cairn_rate_take(&w->limit, 750000, cairn_boot_ns(&cairn_clock_system));
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_blob(w, 0);
	assert_within(begin, 500, 3000);
}

static void slow__bytes_are_no_stall(void **state)
{
	struct world *w = *state;
	struct http_step slow = whole_blob(w);
	slow.piece = 20000;
	slow.piece_ms = 150;
	http_server_then(w->a, slow);
	w->opts.stall_ms = 400;
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_blob(w, 0);
	assert_int_equal(http_server_requests(w->a), 1);
}

/* ---- cancel ----------------------------------------------------------------------------------
 */

static void stop_in(struct world *w, int64_t ms)
{
	w->stop_ns = cairn_boot_ns(&cairn_clock_system) + ms * CAIRN_NS_PER_MS;
}

static void assert_cancelled(struct world *w, enum cairn_code code, int64_t begin)
{
	assert_code(w, code, CAIRN_CANCELLED);
	assert_within(begin, 250, 1300);
	w->stop_ns = 0;
}

static void cancel__before_the_first_request(void **state)
{
	struct world *w = *state;
	world_open(w, NULL);
	w->stop_ns = 1;
	assert_code(w, try_manifest(w), CAIRN_CANCELLED);
	assert_code(w, get_blob(w, 0), CAIRN_CANCELLED);
	assert_int_equal(http_server_connections(w->a), 0);
}

static void cancel__while_headers_are_awaited(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, (struct http_step){.wait_ms = 20000});
	w->opts.stall_ms = 20000;
	world_open(w, NULL);
	stop_in(w, 300);
	int64_t begin = boot_ms();
	assert_cancelled(w, try_manifest(w), begin);
}

static void cancel__while_a_body_is_awaited(void **state)
{
	struct world *w = *state;
	struct http_step body = whole_blob(w);
	body.cut = 1000;
	body.stall_ms = 20000;
	http_server_then(w->a, body);
	w->opts.stall_ms = 20000;
	world_open(w, NULL);
	stop_in(w, 300);
	int64_t begin = boot_ms();
	assert_cancelled(w, get_blob(w, 0), begin);
	assert_int_equal(w->n_got, 1000);
}

static void cancel__while_a_body_comes_without_end(void **state)
{
	struct world *w = *state;
	struct http_step body = whole_blob(w);
	body.piece = 10;
	body.piece_ms = 5;
	http_server_then(w->a, body);
	world_open(w, NULL);
	stop_in(w, 300);
	int64_t begin = boot_ms();
	assert_cancelled(w, get_blob(w, 0), begin);
}

static void cancel__while_it_waits_to_try_again(void **state)
{
	struct world *w = *state;
	http_server_then(w->a,
			 (struct http_step){.status = 429, .headers = "Retry-After: 3000\r\n"});
	world_open(w, NULL);
	stop_in(w, 300);
	int64_t begin = boot_ms();
	assert_cancelled(w, try_manifest(w), begin);
}

static void cancel__while_the_limit_holds(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, whole_blob(w));
	limit_to(w, 100);
	world_open(w, NULL);
	stop_in(w, 300);
	int64_t begin = boot_ms();
	assert_cancelled(w, get_blob(w, 0), begin);
}

static void limit__does_not_delay_manifests(void **state)
{
	struct world *w = *state;
	char *spaced = malloc(300001);
	memset(spaced, ' ', 300000);
	memcpy(spaced, MANIFEST, strlen(MANIFEST));
	spaced[300000] = '\0';
	http_server_then(w->a, (struct http_step){.body = spaced});
	limit_to(w, 100);
	world_open(w, NULL);
	int64_t begin = boot_ms();
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_within(begin, 0, 2000);
	free(spaced);
}

static void cancel__while_a_token_is_awaited(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, (struct http_step){
				       .status = 401,
				       .headers = text(w,
						       "WWW-Authenticate: Bearer realm=\"http://%s/"
						       "t\"\r\n",
						       w->host_b)});
	http_server_then(w->b, (struct http_step){.wait_ms = 20000});
	w->opts.stall_ms = 20000;
	world_open(w, NULL);
	stop_in(w, 300);
	int64_t begin = boot_ms();
	assert_cancelled(w, try_manifest(w), begin);
}

static void cancel__while_it_connects(void **state)
{
	struct world *w = *state;
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	/* Nobody accepts; once the queue is full a SYN is not answered. */
	int fd = socket(AF_INET, SOCK_STREAM, 0), fill[8];
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	assert_int_equal(listen(fd, 0), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	for (size_t i = 0; i < CAIRN_LEN(fill); i++) {
		fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)!connect(fill[i], (struct sockaddr *)&addr, len);
	}
	snprintf(w->host_a, sizeof(w->host_a), "127.0.0.1:%d", ntohs(addr.sin_port));
	snprintf(w->ref.registry, sizeof(w->ref.registry), "%s", w->host_a);
	w->opts.connect_ms = 20000;
	w->opts.stall_ms = 20000;
	world_open(w, NULL);
	stop_in(w, 300);
	int64_t begin = boot_ms();
	assert_cancelled(w, try_manifest(w), begin);
	cairn_registry_session_free(w->session);
	cairn_registry_free(w->registry);
	w->opts.connect_ms = 300;
	w->opts.tries = 1;
	world_open(w, NULL);
	begin = boot_ms();
	assert_code(w, try_manifest(w), CAIRN_UNAVAILABLE);
	assert_within(begin, 290, 2000);
	for (size_t i = 0; i < CAIRN_LEN(fill); i++) close(fill[i]);
	close(fd);
}

/* ---- what comes ------------------------------------------------------------------------------
 */

static void headers__are_bounded(void **state)
{
	struct world *w = *state;
	const size_t line = 1000, lines = 80;
	char *many = calloc(1, lines * line + 1), *one = malloc(200000);
	for (size_t i = 0; i < lines; i++) {
		memset(many + i * line, 'x', line);
		memcpy(many + i * line, "X-A: ", 5);
		memcpy(many + (i + 1) * line - 2, "\r\n", 2);
	}
	memset(one, 'y', 200000);
	memcpy(one, "X-B: ", 5);
	memcpy(one + 199997, "\r\n", 3);
	http_server_then(w->a, (struct http_step){.headers = many, .body = MANIFEST});
	http_server_then(w->a, (struct http_step){.headers = one, .body = MANIFEST});
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	assert_has(w->err.msg, "headers are longer than 65536 bytes");
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	http_server_stop(w->a);
	w->a = http_server_start();
	free(many);
	free(one);
}

static void headers__interim_answers_are_counted(void **state)
{
	struct world *w = *state;
	const char *interim = "HTTP/1.1 103 Early\r\nX-A: b\r\n\r\n";
	const char *good = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{}  ";
	size_t n = strlen(interim), times = 5000;
	char *many = malloc(n * times + strlen(good) + 1);
	for (size_t i = 0; i < times; i++) memcpy(many + i * n, interim, n);
	strcpy(many + n * times, good);
	http_server_then(w->a, (struct http_step){.raw = true, .body = many});
	http_server_then(w->a, (struct http_step){.raw = true, .body = many + n * (times - 3)});
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	assert_has(w->err.msg, "headers are longer");
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	assert_has(w->err.msg, "no manifest");
	http_server_stop(w->a);
	w->a = http_server_start();
	free(many);
}

static void answers__that_are_no_http(void **state)
{
	static const struct {
		const char *bytes;
		enum cairn_code code;
	} all[] = {
		{"SSH-2.0-OpenSSH_9.2\r\n", CAIRN_INVALID_ARGUMENT},
		{"HTTP/1.1 999999 X\r\n\r\n", CAIRN_INVALID_ARGUMENT},
		{"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", CAIRN_INVALID_ARGUMENT},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", CAIRN_UNAVAILABLE},
		{"HTTP/1.1 200", CAIRN_UNAVAILABLE},
	};
	struct world *w = *state;
	w->opts.tries = 1;
	world_open(w, NULL);
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		http_server_then(w->a, (struct http_step){.raw = true, .body = all[i].bytes});
		enum cairn_code code = try_manifest(w);
		if (code != all[i].code) print_message("answer %zu\n", i);
		assert_code(w, code, all[i].code);
	}
}

static void tls__where_plain_http_is_spoken(void **state)
{
	struct world *w = *state;
	struct cairn_registry_session *session = NULL;
	pthread_mutex_lock(&w->a->mu);
	w->a->greeting = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
	pthread_mutex_unlock(&w->a->mu);
	w->hosts[0].plain_http = false;
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_FAILED_PRECONDITION);
	assert_has(w->err.msg, "https://127.0.0.1:");
	assert_int_equal(http_server_connections(w->a), 1);
	/* Not configured at all is https too. */
	w->opts.n_hosts = 0;
	struct cairn_registry *other = NULL;
	assert_code(w, cairn_registry_new(&w->opts, &other, &w->err), CAIRN_OK);
	assert_code(w, cairn_registry_session_new(other, NULL, &session, &w->err), CAIRN_OK);
	struct cairn_digest digest;
	uint64_t size;
	enum cairn_code code =
		cairn_registry_resolve(session, &w->ref, NULL, &digest, &size, &w->err);
	assert_code(w, code, CAIRN_FAILED_PRECONDITION);
	cairn_registry_session_free(session);
	cairn_registry_free(other);
}

static void tls__with_a_ca_file_that_is_none(void **state)
{
	struct world *w = *state;
	w->hosts[0].plain_http = false;
	w->hosts[0].ca = "/nonexistent/ca.pem";
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_FAILED_PRECONDITION);
	assert_has(w->err.msg, "/nonexistent/ca.pem");
}

/* ---- sessions --------------------------------------------------------------------------------
 */

struct puller {
	struct world *w;
	pthread_t thread;
	uint64_t got;
	enum cairn_code code;
};

static enum cairn_code count(void *arg, const void *data, size_t n, struct cairn_err *err)
{
	struct puller *p = arg;
	(void)err;
	if (memcmp(data, p->w->blob + p->got, n) != 0) abort();
	p->got += n;
	return CAIRN_OK;
}

static void *pull(void *arg)
{
	struct puller *p = arg;
	struct cairn_registry_session *session = NULL;
	struct cairn_err err;
	p->code = cairn_registry_session_new(p->w->registry, NULL, &session, &err);
	for (int i = 0; i < 5 && p->code == CAIRN_OK; i++) {
		p->got = 0;
		p->code = cairn_registry_get_blob(session, &p->w->ref, &p->w->digest, 0,
						  sizeof(p->w->blob), NULL, count, p, &err);
	}
	cairn_registry_session_free(session);
	return NULL;
}

static void sessions__run_beside_each_other_and_share_the_limit(void **state)
{
	struct world *w = *state;
	struct puller pullers[4];
	for (size_t i = 0; i < 5 * CAIRN_LEN(pullers); i++) http_server_then(w->a, whole_blob(w));
	limit_to(w, 2000000);
	w->opts.stall_ms = 10000;
	world_open(w, NULL);
	int64_t begin = boot_ms();
	for (size_t i = 0; i < CAIRN_LEN(pullers); i++) {
		pullers[i] = (struct puller){.w = w};
		assert_int_equal(pthread_create(&pullers[i].thread, NULL, pull, &pullers[i]), 0);
	}
	for (size_t i = 0; i < CAIRN_LEN(pullers); i++) {
		pthread_join(pullers[i].thread, NULL);
		assert_int_equal(pullers[i].code, CAIRN_OK);
		assert_int_equal(pullers[i].got, sizeof(w->blob));
	}
	/* 2 MB, of which a quarter of a second's, 500 kB, may come at once. */
	assert_within(begin, 700, 10000);
	assert_int_equal(http_server_requests(w->a), 20);
}

/* ---- patience --------------------------------------------------------------------------------
 */

static void backoff__doubles_is_random_and_bounded(void **state)
{
	int64_t most[3] = {0};
	static const unsigned nth[] = {1, 3, 60};
	(void)state;
	for (int i = 0; i < 1000; i++) {
		for (size_t k = 0; k < CAIRN_LEN(nth); k++) {
			int64_t ms = cairn_backoff_ms(nth[k], 100);
			assert_true(ms >= 0);
			if (ms > most[k]) most[k] = ms;
		}
	}
	assert_in_range(most[0], 80, 100);
	assert_in_range(most[1], 300, 400);
	assert_in_range(most[2], 20000, 30000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(stall__before_headers_and_in_a_body),
		CASE(stall__is_not_what_the_sink_or_the_limit_take),
		CASE(limit__is_shared_with_who_else_takes_from_it),
		CASE(slow__bytes_are_no_stall),
		CASE(cancel__before_the_first_request),
		CASE(cancel__while_headers_are_awaited),
		CASE(cancel__while_a_body_is_awaited),
		CASE(cancel__while_a_body_comes_without_end),
		CASE(cancel__while_it_waits_to_try_again),
		CASE(cancel__while_the_limit_holds),
		CASE(cancel__while_a_token_is_awaited),
		CASE(cancel__while_it_connects),
		CASE(limit__does_not_delay_manifests),
		CASE(headers__are_bounded),
		CASE(headers__interim_answers_are_counted),
		CASE(answers__that_are_no_http),
		CASE(tls__where_plain_http_is_spoken),
		CASE(tls__with_a_ca_file_that_is_none),
		CASE(sessions__run_beside_each_other_and_share_the_limit),
		cmocka_unit_test(backoff__doubles_is_random_and_bounded),
	};
	return cmocka_run_group_tests_name("oci/http", tests, NULL, NULL);
}
