/* What is asked of a registry, and what becomes of its answers. Who we are is test_oci_auth.c's,
 * time and limits are test_oci_http.c's. */
#include "support/registry_fixture.h"

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

/* ---- manifests -------------------------------------------------------------------------------
 */

static void manifest__by_tag(void **state)
{
	struct world *w = *state;
	struct cairn_registry_manifest m;
	struct cairn_digest want;
	char digest[CAIRN_DIGEST_STR];
	digest_of(MANIFEST, strlen(MANIFEST), &want);
	http_server_then(w->a, (struct http_step){
				       .headers = text(w, TYPE_LINE "Docker-Content-Digest: %s\r\n",
						       cairn_digest_format(&want, digest)),
				       .body = MANIFEST});
	world_open(w, NULL);
	assert_code(w, get_manifest(w, &m), CAIRN_OK);
	assert_int_equal(m.len, strlen(MANIFEST));
	assert_memory_equal(m.json, MANIFEST, m.len);
	assert_true(cairn_digest_equal(&m.digest, &want));
	assert_string_equal(m.media_type, MANIFEST_TYPE);
	free(m.json);

	const char *request = http_server_request(w->a, 0);
	assert_has(request, "GET /v2/lib/app/manifests/v1 HTTP/1.1\r\n");
	assert_has(request, "\r\nUser-Agent: cairn/test\r\n");
	assert_has(request, "\r\nAccept: application/vnd.docker.distribution.manifest.v2+json, "
			    "application/vnd.docker.distribution.manifest.list.v2+json, "
			    "application/vnd.oci.image.manifest.v1+json, "
			    "application/vnd.oci.image.index.v1+json, */*\r\n");
	assert_lacks(request, "authorization:");
	assert_lacks(request, "accept-encoding:");
	assert_lacks(request, "range:");
}

static void manifest__by_digest_which_wins_over_the_tag(void **state)
{
	struct world *w = *state;
	char digest[CAIRN_DIGEST_STR];
	digest_of(MANIFEST, strlen(MANIFEST), &w->ref.digest);
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	cairn_digest_format(&w->ref.digest, digest);
	assert_has(http_server_request(w->a, 0),
		   text(w, "GET /v2/lib/app/manifests/%s HTTP/1.1\r\n", digest));
}

static void manifest__refuses_other_bytes_than_its_digest(void **state)
{
	struct world *w = *state;
	digest_of("other", 5, &w->ref.digest);
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_DATA_LOSS);
	assert_has(w->err.msg, "the reference says sha256:");
	assert_int_equal(http_server_requests(w->a), 1);
}

static void manifest__refuses_other_bytes_than_the_header_says(void **state)
{
	struct world *w = *state;
	const char *line = text(w, TYPE_LINE "Docker-Content-Digest: sha256:%064d\r\n", 0);
	http_server_then(w->a, (struct http_step){.headers = line, .body = MANIFEST});
	http_server_then(w->a, (struct http_step){.headers = line, .body = MANIFEST});
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_DATA_LOSS);
	assert_has(w->err.msg, "Docker-Content-Digest says sha256:000");
	digest_of(MANIFEST, strlen(MANIFEST), &w->ref.digest);
	assert_code(w, try_manifest(w), CAIRN_DATA_LOSS);
}

static void manifest__takes_its_type_from_the_bytes(void **state)
{
	static const struct {
		const char *header, *body, *want;
	} all[] = {
		{"application/json; charset=utf-8", "{\"manifests\":[]}",
		 "application/vnd.oci.image.index.v1+json"},
		{MANIFEST_TYPE, "{\"manifests\":[]}", "application/vnd.oci.image.index.v1+json"},
		{"Application/vnd.oci.image.manifest.v1+JSON ; x=y",
		 "{\"layers\":[],\"config\":{\"size\":1,\"digest\":\"sha256:" ZEROS "\"}}",
		 MANIFEST_TYPE},
		{"text/plain",
		 "{\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\"}",
		 "application/vnd.docker.distribution.manifest.v2+json"},
	};
	struct world *w = *state;
	world_open(w, NULL);
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		struct cairn_registry_manifest m;
		http_server_then(w->a, (struct http_step){.headers = text(w, "Content-Type: %s\r\n",
									  all[i].header),
							  .body = all[i].body});
		assert_code(w, get_manifest(w, &m), CAIRN_OK);
		assert_string_equal(m.media_type, all[i].want);
		free(m.json);
	}
}

static void manifest__refuses_what_is_none(void **state)
{
	static const char *const all[] = {"<html>log in</html>", "{}", "", "[1]",
					  "{\"layers\":\"no\",\"config\":1}"};
	struct world *w = *state;
	world_open(w, NULL);
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		http_server_then(w->a, (struct http_step){.headers = "Content-Type: text/html\r\n",
							  .body = all[i]});
		assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
		assert_has(w->err.msg, "no manifest");
		assert_has(w->err.msg, w->host_a);
	}
	http_server_then(w->a, (struct http_step){.status = 206, .body = MANIFEST});
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
}

static void manifest__is_bounded(void **state)
{
	struct world *w = *state;
	size_t n = CAIRN_MANIFEST_BYTES_MAX + 1;
	char *huge = malloc(n + 1);
	memset(huge, ' ', n);
	huge[n] = '\0';
	http_server_then(w->a, (struct http_step){.body = huge, .len = n});
	http_server_then(w->a, (struct http_step){.body = huge, .len = n, .chunked = true});
	world_open(w, NULL);
	for (int i = 0; i < 2; i++) {
		assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
		assert_has(w->err.msg, "longer than 4194304 bytes");
	}
	http_server_stop(w->a);
	w->a = http_server_start();
	free(huge);
}

/* ---- tags ------------------------------------------------------------------------------------
 */

static void resolve__is_one_head(void **state)
{
	struct world *w = *state;
	struct cairn_digest got = {0};
	char digest[CAIRN_DIGEST_STR];
	cairn_digest_format(&w->digest, digest);
	http_server_then(w->a, (struct http_step){
				       .headers = text(w, "Docker-Content-Digest: %s\r\n", digest),
				       .body = MANIFEST});
	world_open(w, NULL);
	assert_code(w, resolve(w, &got), CAIRN_OK);
	assert_true(cairn_digest_equal(&got, &w->digest));
	assert_int_equal(w->told_size, strlen(MANIFEST));
	assert_has(http_server_request(w->a, 0), "HEAD /v2/lib/app/manifests/v1 HTTP/1.1\r\n");
	assert_int_equal(http_server_requests(w->a), 1);
}

static void resolve__gets_where_head_tells_too_little(void **state)
{
	struct world *w = *state;
	struct cairn_digest got = {0}, want;
	digest_of(MANIFEST, strlen(MANIFEST), &want);
	http_server_then(w->a, (struct http_step){.headers = TYPE_LINE});
	http_server_then(w->a, a_manifest());
	http_server_then(w->a, (struct http_step){.status = 405});
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	for (int i = 0; i < 2; i++) {
		assert_code(w, resolve(w, &got), CAIRN_OK);
		assert_true(cairn_digest_equal(&got, &want));
		assert_int_equal(w->told_size, strlen(MANIFEST));
	}
	assert_has(http_server_request(w->a, 3), "GET ");
}

static void resolve__without_a_tag_asks_for_the_digest(void **state)
{
	struct world *w = *state;
	struct cairn_digest got = {0};
	w->ref.tag[0] = '\0';
	w->ref.digest = w->digest;
	http_server_then(w->a,
			 (struct http_step){
				 .headers = text(w, "Docker-Content-Digest: sha256:%064d\r\n", 1)});
	http_server_then(w->a, (struct http_step){.status = 404});
	world_open(w, NULL);
	assert_code(w, resolve(w, &got), CAIRN_DATA_LOSS);
	assert_code(w, resolve(w, &got), CAIRN_NOT_FOUND);
}

/* ---- blobs -----------------------------------------------------------------------------------
 */

static void blob__comes_whole(void **state)
{
	struct world *w = *state;
	char digest[CAIRN_DIGEST_STR];
	struct http_step chunked = whole_blob(w), bare = whole_blob(w);
	chunked.chunked = true;
	chunked.piece = 7777;
	bare.no_length = true;
	http_server_then(w->a, whole_blob(w));
	http_server_then(w->a, chunked);
	http_server_then(w->a, bare);
	world_open(w, NULL);
	for (int i = 0; i < 3; i++) {
		assert_code(w, get_blob(w, 0), CAIRN_OK);
		assert_blob(w, 0);
	}
	const char *request = http_server_request(w->a, 0);
	cairn_digest_format(&w->digest, digest);
	assert_has(request, text(w, "GET /v2/lib/app/blobs/%s HTTP/1.1\r\n", digest));
	assert_lacks(request, "range:");
	assert_lacks(request, "accept-encoding:");
	assert_int_equal(http_server_connections(w->a), 1);
}

static void blob__from_an_offset(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, part_of_blob(w, 99999));
	http_server_then(w->a, whole_blob(w));
	world_open(w, NULL);
	assert_code(w, get_blob(w, 99999), CAIRN_OK);
	assert_blob(w, 99999);
	assert_has(http_server_request(w->a, 0), "\r\nRange: bytes=99999-\r\n");
	assert_code(w, get_blob(w, 50000), CAIRN_OK); /* a 200 to a Range */
	assert_blob(w, 50000);
	assert_code(w, get_blob(w, sizeof(w->blob)), CAIRN_OK);
	assert_int_equal(w->n_got, 0);
	assert_code(w, get_blob(w, sizeof(w->blob) + 1), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(http_server_requests(w->a), 2);
}

static void blob__goes_on_where_it_broke_off(void **state)
{
	struct world *w = *state;
	struct http_step shorter = whole_blob(w), reset = part_of_blob(w, 30000);
	struct http_step again = part_of_blob(w, 30001);
	shorter.cut = 30000;
	reset.cut = 1;
	reset.stall_ms = 500; /* a reset may overtake the bytes before it */
	reset.reset = true;
	again.cut = 20000;
	http_server_then(w->a, shorter);
	http_server_then(w->a, reset);
	http_server_then(w->a, again);
	http_server_then(w->a, (struct http_step){.status = 503});
	http_server_then(w->a, part_of_blob(w, 50001));
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_blob(w, 0);
	assert_has(http_server_request(w->a, 1), "\r\nRange: bytes=30000-\r\n");
	assert_has(http_server_request(w->a, 2), "\r\nRange: bytes=30001-\r\n");
	assert_has(http_server_request(w->a, 4), "\r\nRange: bytes=50001-\r\n");
}

static void blob__gives_up_without_progress(void **state)
{
	struct world *w = *state;
	struct http_step stuck = whole_blob(w), first = whole_blob(w);
	first.cut = 1000;
	stuck.cut = 500; /* all of it is dropped */
	http_server_then(w->a, first);
	for (int i = 0; i < 3; i++) http_server_then(w->a, stuck);
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_UNAVAILABLE);
	assert_int_equal(w->n_got, 1000);
	assert_int_equal(http_server_requests(w->a), 4);
}

static void blob__that_ends_early_in_good_order_is_data_loss(void **state)
{
	struct world *w = *state;
	struct http_step early = whole_blob(w);
	early.len = 1000;
	early.chunked = true;
	for (int i = 0; i < 4; i++) http_server_then(w->a, early);
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_DATA_LOSS);
	assert_has(w->err.msg, "ends after 1000 of 100000 bytes");
	assert_int_equal(w->n_got, 1000);
}

static void blob__of_another_size_is_data_loss(void **state)
{
	struct world *w = *state;
	struct http_step longer = {.body = w->got, .len = sizeof(w->blob) + 1};
	http_server_then(w->a, longer);
	longer.chunked = true;
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_DATA_LOSS);
	assert_has(w->err.msg, "has 100001 bytes there, want 100000");
	assert_int_equal(w->n_got, 0);

	struct http_step total = part_of_blob(w, 10);
	total.headers = "Content-Range: bytes 10-99999/100001\r\n";
	http_server_then(w->a, total);
	assert_code(w, get_blob(w, 10), CAIRN_DATA_LOSS);
	assert_int_equal(w->n_got, 0);

	uint8_t *more = calloc(1, sizeof(w->blob) + 1);
	memcpy(more, w->blob, sizeof(w->blob));
	longer.body = more;
	http_server_then(w->a, longer);
	assert_code(w, get_blob(w, 0), CAIRN_DATA_LOSS);
	assert_has(w->err.msg, "more than its 100000 bytes");
	assert_true(w->n_got <= sizeof(w->blob));
	assert_int_equal(http_server_requests(w->a), 3);
	free(more);
}

static void blob__is_done_with_its_last_byte(void **state)
{
	struct world *w = *state;
	struct http_step endless = whole_blob(w);
	endless.chunked = true;
	endless.no_end = true;
	http_server_then(w->a, endless);
	endless.stall_ms = 20000;
	http_server_then(w->a, endless);
	w->opts.stall_ms = 200;
	world_open(w, NULL);
	for (int i = 0; i < 2; i++) {
		assert_code(w, get_blob(w, 0), CAIRN_OK);
		assert_blob(w, 0);
	}
	assert_int_equal(http_server_requests(w->a), 2);
}

static void blob__without_range_is_asked_for_whole(void **state)
{
	static const char *const odd[] = {
		"Content-Range: bytes 0-99999/100000\r\n", "Content-Range: bytes 51-50/100000\r\n",
		"Content-Range: elephants 50-99999/100000\r\n", "",
		"Content-Range: bytes 50-99999999999999999999999/100000\r\n"};
	struct world *w = *state;
	world_open(w, NULL);
	for (size_t i = 0; i < CAIRN_LEN(odd); i++) {
		struct http_step step = part_of_blob(w, 50);
		step.headers = odd[i];
		http_server_then(w->a, step);
		http_server_then(w->a, whole_blob(w));
		assert_code(w, get_blob(w, 50), CAIRN_OK);
		assert_blob(w, 50);
		assert_lacks(http_server_request(w->a, 2 * i + 1), "range:");
	}
	http_server_then(w->a, (struct http_step){.status = 416});
	http_server_then(w->a, whole_blob(w));
	assert_code(w, get_blob(w, 50), CAIRN_OK);
	assert_blob(w, 50);
	http_server_then(w->a, (struct http_step){.status = 416});
	http_server_then(w->a, (struct http_step){.status = 416});
	assert_code(w, get_blob(w, 50), CAIRN_INVALID_ARGUMENT);
	http_server_then(w->a, part_of_blob(w, 50)); /* to no Range at all */
	assert_code(w, get_blob(w, 0), CAIRN_INVALID_ARGUMENT);
}

static enum cairn_code full(void *arg, const void *data, size_t n, struct cairn_err *err)
{
	(void)arg;
	(void)data;
	(void)n;
	return cairn_err_set(err, CAIRN_UNAVAILABLE, "the disk is away");
}

static void blob__ends_with_its_sink(void **state)
{
	struct world *w = *state;
	w->mirrors[0] = text(w, "http://%s", w->host_b);
	w->hosts[0].n_mirrors = 1;
	http_server_then(w->b, whole_blob(w));
	world_open(w, NULL);
	enum cairn_code code = cairn_registry_get_blob(w->session, &w->ref, &w->digest, 0,
						       sizeof(w->blob), NULL, full, NULL, &w->err);
	assert_code(w, code, CAIRN_UNAVAILABLE);
	assert_string_equal(w->err.msg, "the disk is away");
	assert_int_equal(http_server_requests(w->b), 1);
	assert_int_equal(http_server_requests(w->a), 0);
}

/* ---- errors and tries ------------------------------------------------------------------------
 */

static void errors__by_status(void **state)
{
	static const struct {
		int status;
		enum cairn_code code;
		int tries;
	} all[] = {
		{400, CAIRN_INVALID_ARGUMENT, 1},  {401, CAIRN_UNAUTHENTICATED, 1},
		{403, CAIRN_PERMISSION_DENIED, 1}, {404, CAIRN_NOT_FOUND, 1},
		{408, CAIRN_UNAVAILABLE, 3},	   {429, CAIRN_RESOURCE_EXHAUSTED, 3},
		{500, CAIRN_UNAVAILABLE, 3},	   {501, CAIRN_UNAVAILABLE, 1},
		{502, CAIRN_UNAVAILABLE, 3},	   {503, CAIRN_UNAVAILABLE, 3},
		{504, CAIRN_UNAVAILABLE, 3},	   {304, CAIRN_INVALID_ARGUMENT, 1},
		{302, CAIRN_INVALID_ARGUMENT, 1},
	};
	struct world *w = *state;
	size_t before = 0;
	world_open(w, NULL);
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		for (int k = 0; k < all[i].tries; k++) {
			http_server_then(
				w->a,
				(struct http_step){
					.status = all[i].status,
					.headers = "Content-Type: application/json\r\n",
					.body = "{\"errors\":[{\"code\":\"X\",\"message\":\"so "
						"\\u001b[1m\\nit is\"}]}"});
		}
		assert_code(w, get_blob(w, 0), all[i].code);
		if (all[i].status >= 400) {
			assert_has(w->err.msg,
				   text(w, "HTTP status %d: so ?[1m?it is", all[i].status));
			assert_has(w->err.msg, "/v2/lib/app/blobs/sha256:");
		}
		assert_int_equal(http_server_requests(w->a) - before, all[i].tries);
		before = http_server_requests(w->a);
	}
}

static void errors__bodies_are_bounded_and_may_be_nonsense(void **state)
{
	struct world *w = *state;
	size_t n = 100000;
	char *nested = malloc(n);
	memset(nested, '[', n);
	static const char *const all[] = {"{\"errors\":{}}",
					  "{\"errors\":[]}",
					  "[]",
					  "nonsense",
					  "{\"errors\":[{\"message\":7}]}",
					  "{\"errors\":[null]}"};
	world_open(w, NULL);
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		http_server_then(w->a, (struct http_step){.status = 404, .body = all[i]});
		assert_code(w, get_blob(w, 0), CAIRN_NOT_FOUND);
		assert_lacks(w->err.msg, "nonsense");
	}
	http_server_then(w->a, (struct http_step){.status = 404, .body = nested, .len = n});
	assert_code(w, get_blob(w, 0), CAIRN_NOT_FOUND);
	http_server_then(w->a,
			 (struct http_step){.status = 404, .body = nested, .len = n, .cut = 5});
	assert_code(w, get_blob(w, 0), CAIRN_NOT_FOUND);
	http_server_then(w->a, (struct http_step){.status = 400,
						  .headers = "Content-Type: text/plain\r\n",
						  .body = "speak TLS\nplease"});
	assert_code(w, get_blob(w, 0), CAIRN_INVALID_ARGUMENT);
	assert_has(w->err.msg, "HTTP status 400: speak TLS");
	assert_lacks(w->err.msg, "please");
	http_server_stop(w->a);
	w->a = http_server_start();
	free(nested);
}

static void tries__go_on_until_it_is_good(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, (struct http_step){.status = 500});
	http_server_then(w->a, (struct http_step){.hang_up = true, .reset = true});
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_int_equal(http_server_requests(w->a), 3);
}

static void tries__wait_as_long_as_retry_after_says(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, (struct http_step){.status = 429, .headers = "Retry-After: 1\r\n"});
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	int64_t begin = boot_ms();
	assert_code(w, try_manifest(w), CAIRN_OK);
	int64_t took = boot_ms() - begin;
	assert_true(took >= 990 && took < 5000);
	char date[64];
	time_t then = time(NULL) + 2;
	struct tm tm;
	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&then, &tm));
	http_server_then(w->a, (struct http_step){.status = 503,
						  .headers = text(w, "Retry-After: %s\r\n", date)});
	http_server_then(w->a, a_manifest());
	begin = boot_ms();
	assert_code(w, try_manifest(w), CAIRN_OK);
	took = boot_ms() - begin;
	assert_true(took >= 500 && took < 6000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(manifest__by_tag),
		CASE(manifest__by_digest_which_wins_over_the_tag),
		CASE(manifest__refuses_other_bytes_than_its_digest),
		CASE(manifest__refuses_other_bytes_than_the_header_says),
		CASE(manifest__takes_its_type_from_the_bytes),
		CASE(manifest__refuses_what_is_none),
		CASE(manifest__is_bounded),
		CASE(resolve__is_one_head),
		CASE(resolve__gets_where_head_tells_too_little),
		CASE(resolve__without_a_tag_asks_for_the_digest),
		CASE(blob__comes_whole),
		CASE(blob__from_an_offset),
		CASE(blob__goes_on_where_it_broke_off),
		CASE(blob__gives_up_without_progress),
		CASE(blob__that_ends_early_in_good_order_is_data_loss),
		CASE(blob__of_another_size_is_data_loss),
		CASE(blob__is_done_with_its_last_byte),
		CASE(blob__without_range_is_asked_for_whole),
		CASE(blob__ends_with_its_sink),
		CASE(errors__by_status),
		CASE(errors__bodies_are_bounded_and_may_be_nonsense),
		CASE(tries__go_on_until_it_is_good),
		CASE(tries__wait_as_long_as_retry_after_says),
	};
	return cmocka_run_group_tests_name("oci/registry", tests, NULL, NULL);
}
