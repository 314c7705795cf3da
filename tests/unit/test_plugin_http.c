#include "support/content_fixture.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "support/fake_swarm.h"

struct world {
	struct cairn_swarm *swarm;
	struct node *n;
	struct cairn_runtime *rt;
	struct cairn_http *http;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	w->n = node_new(true, false);
	struct cairn_runtime_opts ropts = {
		.rpc = w->n->rpc, .cache = w->n->cache, .address = "", .interval_ms = 1000};
	OK(cairn_runtime_start(&ropts, &w->rt, &node_err));
	w->swarm = fake_swarm_new(CAIRN_WANT_FAILED);
	w->swarm->stats = (struct cairn_swarm_stats){.from_peers_bytes = 77,
						     .grants = 3,
						     .decisions = 5,
						     .decide_us_sum = 1500,
						     .decide_buckets = {1, 5},
						     .connections_in = 2,
						     .members = 4};
	w->swarm->n_peers = 2;
	strcpy(w->swarm->peers[0].address, "10.0.0.2:7400");
	strcpy(w->swarm->peers[1].address, "10.0.0.3:7400");
	w->swarm->peers[1].bad_pieces = 6;
	w->n->content.swarm = w->swarm;
	struct cairn_http_opts opts = {
		.listen = "127.0.0.1:0",
		.cache = w->n->cache,
		.server = w->n->server,
		.runtime = w->rt,
		.content = &w->n->content,
		.swarm = w->swarm,
		.health = &w->n->health,
		.version = "1.2\"3\\4\n5",
		.started_ns = 1,
	};
	OK(cairn_http_start(&opts, &w->http, &node_err));
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	cairn_http_stop(w->http);
	cairn_runtime_stop(w->rt);
	node_free(w->n);
	fake_swarm_free(w->swarm);
	free(w);
	return 0;
}

/* The whole answer to "METHOD PATH", in a buffer that lives until the next call. */
static char *fetch(struct world *w, const char *request)
{
	static char buf[1 << 18];
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_port = htons((uint16_t)cairn_http_port(w->http)),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	dprintf(fd, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", request);
	size_t len = 0;
	for (ssize_t got; (got = read(fd, buf + len, sizeof(buf) - 1 - len)) > 0;) {
		len += (size_t)got;
	}
	buf[len] = '\0';
	close(fd);
	return buf;
}

static void assert_status(const char *answer, int code)
{
	int got = 0;
	assert_int_equal(sscanf(answer, "HTTP/1.1 %d", &got), 1);
	assert_int_equal(got, code);
}

static void http__answers_what_it_has_and_nothing_else(void **state)
{
	struct world *w = *state;
	assert_status(fetch(w, "GET /healthz"), 200);
	assert_status(fetch(w, "HEAD /healthz"), 200);
	assert_status(fetch(w, "GET /readyz"), 200);
	assert_status(fetch(w, "GET /metrics?x=y"), 200);
	assert_status(fetch(w, "GET /"), 404);
	assert_status(fetch(w, "GET /metrics/../../etc/passwd"), 404);
	char *denied = fetch(w, "POST /metrics");
	assert_status(denied, 405);
	assert_non_null(strstr(denied, "Allow: GET, HEAD"));
	assert_status(fetch(w, "DELETE /healthz"), 405);
	atomic_store(&w->n->health.serving, false);
	assert_status(fetch(w, "GET /readyz"), 503);
	assert_status(fetch(w, "GET /healthz"), 200);
}

static void metrics__count_calls_and_bytes(void **state)
{
	struct world *w = *state;
	uint8_t data[1000];
	fill_bytes(data, sizeof(data), 1);
	OK(put_blob(w->n, "r", data, sizeof(data)));
	(void)!get_info(w->n, "nonsense", NULL);
	char *text = NULL;
	/* A call is counted when its handler has returned, which the client may see before. */
	for (int i = 0; i < 10000; i++) {
		text = fetch(w, "GET /metrics");
		if (strstr(text, "grpc_method=\"Info\",grpc_code=\"InvalidArgument\"} 1\n") !=
			    NULL &&
		    strstr(text, "grpc_method=\"Write\",grpc_code=\"OK\"} 1\n") != NULL) {
			break;
		}
		usleep(1000);
	}
	static const char *const lines[] = {
		"cairn_build_info{version=\"1.2\\\"3\\\\4\\n5\"} 1\n",
		"cairn_serving 1\n",
		"cairn_rpc_handled_total{grpc_service=\"containerd.services.content.v1.Content\","
		"grpc_method=\"Info\",grpc_code=\"InvalidArgument\"} 1\n",
		"grpc_method=\"Info\",grpc_code=\"OK\"} 0\n",
		"grpc_method=\"Write\",grpc_code=\"OK\"} 1\n",
		"cairn_rpc_duration_seconds_bucket{grpc_service=\"containerd.services.content.v1."
		"Content\",grpc_method=\"Write\",le=\"+Inf\"} 1\n",
		"cairn_blobs{state=\"referenced\"} 1\n",
		"cairn_blob_bytes{state=\"referenced\"} 1000\n",
		"cairn_blobs{state=\"cached\"} 0\n",
		"cairn_damaged_blobs 0\n",
		"cairn_ingests 0\n",
		"cairn_disk_free_bytes ",
		"cairn_cache_written_bytes_total 1000\n",
		"# TYPE cairn_rpc_duration_seconds histogram\n",
	};
	for (size_t i = 0; i < CAIRN_LEN(lines); i++) {
		if (strstr(text, lines[i]) == NULL) fail_msg("missing: %s in\n%s", lines[i], text);
	}
}

/* Every line is a comment, or a name with perhaps labels, a space, and a number; each name was
 * announced by a TYPE before. */
static void metrics__are_well_formed(void **state)
{
	struct world *w = *state;
	char *text = strstr(fetch(w, "GET /metrics"), "\r\n\r\n");
	char type[200] = "";
	assert_non_null(text);
	for (char *line = strtok(text + 4, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		if (strncmp(line, "# TYPE ", 7) == 0) {
			snprintf(type, sizeof(type), "%.*s", (int)strcspn(line + 7, " "), line + 7);
		}
		if (line[0] == '#') continue;
		if (!islower((unsigned char)line[0])) fail_msg("odd line: %s", line);
		assert_int_equal(strncmp(line, type, strlen(type)), 0);
		const char *value = strrchr(line, ' ');
		assert_non_null(value);
		char *end = NULL;
		strtod(value + 1, &end);
		assert_true(end != value + 1 && *end == '\0');
	}
}

static void metrics__tell_where_blobs_come_from(void **state)
{
	struct world *w = *state;
	uint8_t data[1000];
	char ref[200];
	fill_bytes(data, sizeof(data), 1);
	snprintf(ref, sizeof(ref), "default/1/layer-%s", digest_text(data, sizeof(data)));
	OK(put_blob(w->n, ref, data, sizeof(data)));
	OK(put_blob(w->n, "an/import", data, sizeof(data) - 1)); /* is no pull */
	char *text = fetch(w, "GET /metrics");
	static const char *const lines[] = {
		"cairn_pull_blobs_total{source=\"containerd\"} 1\n",
		"cairn_pull_blobs_total{source=\"peers\"} 0\n",
		"cairn_repairs_total{result=\"ok\"} 0\n",
		"cairn_p2p_received_bytes_total{source=\"peers\"} 77\n",
		"cairn_p2p_received_bytes_total{source=\"registry\"} 1000\n",
		"cairn_p2p_received_bytes_total{source=\"preheat\"} 0\n",
		"cairn_p2p_grants_total 3\n",
		"cairn_p2p_decision_seconds_bucket{le=\"+Inf\"} 5\n",
		"cairn_p2p_decision_seconds_sum 0.001500\n",
		"cairn_p2p_bad_pieces_total{peer=\"10.0.0.3:7400\"} 6\n",
		"cairn_p2p_connections{direction=\"in\"} 2\n",
		"cairn_p2p_members 4\n",
		"cairn_p2p_healthy 1\n",
	};
	for (size_t i = 0; i < CAIRN_LEN(lines); i++) {
		if (strstr(text, lines[i]) == NULL) fail_msg("missing: %s in\n%s", lines[i], text);
	}
	assert_null(strstr(text, "10.0.0.2")); /* which did no wrong */
}

static void start__says_what_is_wrong_with_the_address(void **state)
{
	struct world *w = *state;
	struct cairn_http_opts opts = {.cache = w->n->cache,
				       .server = w->n->server,
				       .runtime = w->rt,
				       .health = &w->n->health,
				       .version = "x"};
	struct cairn_http *http = NULL;
	char taken[64];
	snprintf(taken, sizeof(taken), "127.0.0.1:%d", cairn_http_port(w->http));
	const char *bad[] = {"nonsense", "256.1.1.1:80", taken};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		opts.listen = bad[i];
		assert_int_not_equal(cairn_http_start(&opts, &http, &node_err), CAIRN_OK);
		assert_non_null(strstr(node_err.msg, bad[i]));
		assert_null(http);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(http__answers_what_it_has_and_nothing_else, setup,
						teardown),
		cmocka_unit_test_setup_teardown(metrics__count_calls_and_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(metrics__are_well_formed, setup, teardown),
		cmocka_unit_test_setup_teardown(metrics__tell_where_blobs_come_from, setup,
						teardown),
		cmocka_unit_test_setup_teardown(start__says_what_is_wrong_with_the_address, setup,
						teardown),
	};
	return cmocka_run_group_tests_name("plugin/http", tests, NULL, NULL);
}
