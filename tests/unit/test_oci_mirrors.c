/* Whom is asked, and where redirects lead. */
#include "support/registry_fixture.h"

#include "oci/http.h"

/* ---- mirrors ---------------------------------------------------------------------------------
 */

/* A port of the loopback where nobody listens. */
static int closed_port(void)
{
	struct http_server *s = http_server_start();
	int port = s->port;
	http_server_stop(s);
	return port;
}

static void mirrors__are_asked_first_with_ns(void **state)
{
	struct world *w = *state;
	w->mirrors[0] = text(w, "http://%s/cache/", w->host_b);
	w->hosts[0].n_mirrors = 1;
	http_server_then(w->b, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_has(http_server_request(w->b, 0),
		   text(w, "GET /cache/v2/lib/app/manifests/v1?ns=127.0.0.1%%3A%d HTTP/1.1\r\n",
			w->a->port));
	assert_int_equal(http_server_requests(w->a), 0);
}

static void mirrors__have_v2_appended_once_and_no_ns_for_themselves(void **state)
{
	struct world *w = *state;
	w->mirrors[0] = text(w, "http://%s/other/v2//", w->host_a);
	w->hosts[0].n_mirrors = 1;
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_has(http_server_request(w->a, 0), "GET /other/v2/lib/app/manifests/v1 HTTP/1.1\r\n");
}

static void mirrors__of_docker_hub(void **state)
{
	struct world *w = *state;
	w->hosts[0].host = "docker.io";
	w->mirrors[0] = text(w, "http://%s", w->host_b);
	w->hosts[0].n_mirrors = 1;
	strcpy(w->ref.registry, "docker.io");
	http_server_then(w->b, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_has(http_server_request(w->b, 0), "?ns=docker.io HTTP/1.1\r\n");
}

static void mirrors__fall_through_in_order(void **state)
{
	static const int statuses[] = {400, 401, 403, 404, 429, 500, 503};
	struct world *w = *state;
	w->mirrors[0] = text(w, "http://127.0.0.1:%d", closed_port());
	w->mirrors[1] = text(w, "http://%s", w->host_b);
	w->hosts[0].n_mirrors = 2;
	world_open(w, NULL);
	for (size_t i = 0; i < CAIRN_LEN(statuses); i++) {
		http_server_then(w->b, (struct http_step){.status = statuses[i],
							  .headers = "Retry-After: 50\r\n"});
		http_server_then(w->a, a_manifest());
		assert_code(w, try_manifest(w), CAIRN_OK);
		assert_int_equal(http_server_requests(w->b), i + 1); /* tried once */
		assert_int_equal(http_server_requests(w->a), i + 1);
	}
	http_server_then(w->b, (struct http_step){.body = "<html>"});
	http_server_then(w->a, a_manifest());
	assert_code(w, try_manifest(w), CAIRN_OK);
	http_server_then(w->b, (struct http_step){.hang_up = true});
	http_server_then(w->a, (struct http_step){.status = 404});
	assert_code(w, try_manifest(w), CAIRN_NOT_FOUND); /* the registry's own error */
	assert_has(w->err.msg, w->host_a);
}

static void mirrors__that_cannot_be_reached_rest_a_while(void **state)
{
	struct world *w = *state;
	w->mirrors[0] = text(w, "http://%s", w->host_b);
	w->hosts[0].n_mirrors = 1;
	http_server_then(w->b, (struct http_step){.hang_up = true});
	for (int i = 0; i < 3; i++) http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	for (int i = 0; i < 3; i++) assert_code(w, try_manifest(w), CAIRN_OK);
	assert_true(http_server_requests(w->b) <= 2); /* curl tries a kept connection anew */
	assert_int_equal(http_server_requests(w->a), 3);
}

static void mirrors__may_break_off_and_the_registry_goes_on(void **state)
{
	struct world *w = *state;
	struct http_step shorter = whole_blob(w);
	shorter.cut = 40000;
	w->mirrors[0] = text(w, "http://%s", w->host_b);
	w->hosts[0].n_mirrors = 1;
	http_server_then(w->b, shorter);
	http_server_then(w->b, (struct http_step){.status = 404});
	http_server_then(w->a, part_of_blob(w, 40000));
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_blob(w, 0);
	assert_int_equal(http_server_requests(w->b), 2); /* progress was worth a second try */
	assert_has(http_server_request(w->a, 0), "\r\nRange: bytes=40000-\r\n");
}

static void mirrors__with_a_wrong_manifest_are_passed_over(void **state)
{
	struct world *w = *state;
	digest_of(MANIFEST, strlen(MANIFEST), &w->ref.digest);
	w->mirrors[0] = text(w, "http://%s", w->host_b);
	w->hosts[0].n_mirrors = 1;
	http_server_then(w->b, (struct http_step){.body = "{\"manifests\":[]}"});
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
}

static void mirrors__that_are_no_urls_are_refused(void **state)
{
	static const char *const all[] = {"",
					  "mirror",
					  "ftp://m",
					  "http://",
					  "http://user:secret@m",
					  "http://user@m",
					  "http://m/?x=y",
					  "http://m/#x",
					  "http://m/a b",
					  "file:///etc/passwd",
					  "https://m:99999"};
	struct world *w = *state;
	w->hosts[0].n_mirrors = 1;
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		w->mirrors[0] = all[i];
		assert_code(w, cairn_registry_new(&w->opts, &w->registry, &w->err),
			    CAIRN_INVALID_ARGUMENT);
		assert_has(w->err.msg, w->host_a);
		assert_lacks(w->err.msg, "secret");
		assert_null(w->registry);
	}
}

/* ---- redirects -------------------------------------------------------------------------------
 */

static const struct cairn_registry_login login = {"joe", "s3cret", NULL};
#define JOE "\r\nAuthorization: Basic am9lOnMzY3JldA==\r\n"

static void redirect__takes_no_authorization_to_others(void **state)
{
	struct world *w = *state;
	http_server_then(
		w->a, (struct http_step){.status = 401, .headers = "WWW-Authenticate: Basic\r\n"});
	http_server_then(
		w->a,
		(struct http_step){.status = 307,
				   .headers = text(w, "Location: http://%s/x?X-Signature=sig\r\n",
						   w->host_b)});
	http_server_then(w->b, (struct http_step){.status = 302,
						  .headers = text(w, "Location: http://%s/back\r\n",
								  w->host_a)});
	http_server_then(w->a,
			 (struct http_step){.status = 301, .headers = "Location: ../relative\r\n"});
	http_server_then(w->a, whole_blob(w));
	world_open(w, &login);
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_blob(w, 0);
	assert_lacks(http_server_request(w->a, 0), "Authorization:");
	assert_has(http_server_request(w->a, 1), JOE);
	assert_has(http_server_request(w->b, 0), "GET /x?X-Signature=sig HTTP/1.1\r\n");
	assert_lacks(http_server_request(w->b, 0), "Authorization:");
	assert_lacks(http_server_request(w->b, 0), "s3cret");
	assert_has(http_server_request(w->a, 2), "GET /back HTTP/1.1\r\n");
	assert_has(http_server_request(w->a, 2), JOE);
	assert_has(http_server_request(w->a, 3), "GET /relative HTTP/1.1\r\n");
}

static void redirect__is_asked_for_anew_when_a_blob_broke_off(void **state)
{
	struct world *w = *state;
	struct http_step shorter = whole_blob(w);
	shorter.cut = 5;
	for (int i = 0; i < 2; i++) {
		http_server_then(w->a,
				 (struct http_step){.status = 307,
						    .headers = text(w, "Location: http://%s/%d\r\n",
								    w->host_b, i)});
	}
	http_server_then(w->b, shorter);
	http_server_then(w->b, part_of_blob(w, 5));
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_blob(w, 0);
	assert_has(http_server_request(w->b, 1), "GET /1 HTTP/1.1\r\n");
	assert_has(http_server_request(w->b, 1), "\r\nRange: bytes=5-\r\n");
}

static void redirect__errors_tell_no_signature(void **state)
{
	struct world *w = *state;
	http_server_then(
		w->a,
		(struct http_step){.status = 307,
				   .headers = text(w, "Location: http://127.0.0.1:%d/x?sig=no\r\n",
						   closed_port())});
	w->opts.tries = 1;
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_UNAVAILABLE);
	assert_lacks(w->err.msg, "sig=no");
	/* 401 of storage is no challenge of the registry's */
	http_server_then(w->a, (struct http_step){
				       .status = 307,
				       .headers = text(w, "Location: http://%s/\r\n", w->host_b)});
	http_server_then(
		w->b, (struct http_step){.status = 401, .headers = "WWW-Authenticate: Basic\r\n"});
	assert_code(w, get_blob(w, 0), CAIRN_UNAUTHENTICATED);
	assert_int_equal(http_server_requests(w->a), 2);
}

static void redirect__loops_end(void **state)
{
	struct world *w = *state;
	for (int i = 0; i < 20; i++) {
		http_server_then(
			w->a, (struct http_step){.status = 302, .headers = "Location: /round\r\n"});
	}
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	assert_has(w->err.msg, "more than 10");
	assert_int_equal(http_server_requests(w->a), 11);
}

static void redirect__to_nonsense_is_refused(void **state)
{
	static const char *const all[] = {"Location: file:///etc/passwd\r\n",
					  "Location: gopher://127.0.0.1/x\r\n",
					  "Location: http://user:pw@127.0.0.1/\r\n",
					  "Location: http://\r\n",
					  "",
					  "Location: \r\n",
					  "Location: http://a b/\r\n"};
	struct world *w = *state;
	world_open(w, NULL);
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		http_server_then(w->a, (struct http_step){.status = 302, .headers = all[i]});
		/* an empty one is relative, and so the same again */
		if (i == 5) http_server_then(w->a, (struct http_step){.status = 400});
		assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
		assert_lacks(w->err.msg, "pw");
	}
}

static void redirect__never_from_https_to_http(void **state)
{
	static const struct {
		const char *from, *location, *to; /* to NULL: refused */
	} all[] = {
		{"https://r.io/v2/x", "http://r.io/y", NULL},
		{"https://r.io/v2/x", "HTTP://cdn.io/y", NULL},
		{"https://r.io/v2/x", "//cdn.io/y", "https://cdn.io:443"},
		{"https://r.io/v2/x", "/y", "https://r.io:443"},
		{"https://r.io/v2/x", "https://R.io:444/y", "https://r.io:444"},
		{"http://r.io/v2/x", "http://r.io/y", "http://r.io:80"},
		{"http://r.io/v2/x", "https://r.io/y", "https://r.io:443"},
		{"https://r.io/v2/x", "https://u:p@r.io/y", NULL},
		{"https://r.io/v2/x", "ftp://r.io/y", NULL},
	};
	struct world *w = *state;
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		struct cairn_url from, to = {0};
		assert_code(w, cairn_url_parse(all[i].from, NULL, &from, &w->err), CAIRN_OK);
		enum cairn_code code = cairn_http_redirect(&from, all[i].location, &to, &w->err);
		assert_code(w, code, all[i].to != NULL ? CAIRN_OK : CAIRN_INVALID_ARGUMENT);
		if (all[i].to != NULL) assert_string_equal(to.origin, all[i].to);
		cairn_url_fini(&from);
		cairn_url_fini(&to);
	}
}

/* ---- proxies ---------------------------------------------------------------------------------
 */

static void proxy__of_the_environment(void **state)
{
	struct world *w = *state;
	setenv("http_proxy", text(w, "http://%s", w->host_b), 1);
	http_server_then(w->b, a_manifest());
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_has(http_server_request(w->b, 0),
		   text(w, "GET http://%s/v2/lib/app/manifests/v1 HTTP/1.1\r\n", w->host_a));
	setenv("no_proxy", "127.0.0.1", 1);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_int_equal(http_server_requests(w->a), 1);
	unsetenv("no_proxy");
	unsetenv("http_proxy");
}

static void proxy__of_https_and_docker_hub_by_its_real_name(void **state)
{
	struct world *w = *state;
	setenv("https_proxy", text(w, "http://%s", w->host_b), 1);
	strcpy(w->ref.registry, "docker.io");
	w->opts.tries = 1;
	http_server_then(w->b, (struct http_step){.status = 403});
	world_open(w, &login);
	assert_code(w, try_manifest(w), CAIRN_UNAVAILABLE);
	assert_has(http_server_request(w->b, 0), "CONNECT registry-1.docker.io:443 HTTP/1.1\r\n");
	assert_lacks(http_server_request(w->b, 0), "Authorization");
	unsetenv("https_proxy");
}

/* ---- URLs ------------------------------------------------------------------------------------
 */

static void url__is_shown_without_what_is_secret(void **state)
{
	static const char *const all[][2] = {
		{"https://r.io/v2/x?sig=abc", "https://r.io/v2/x"},
		{"https://r.io/v2/x#frag", "https://r.io/v2/x"},
		{"https://u:pw@r.io/x", "(with an @)"},
		{"https://u:p?w@r.io/x", "(with an @)"},
		{"https://r.io/\x1b[1m\xff", "https://r.io/?[1m?"},
	};
	(void)state;
	char buf[CAIRN_URL_SHOW], longer[CAIRN_URL_MAX];
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		assert_string_equal(cairn_url_show(all[i][0], buf), all[i][1]);
	}
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(strlen(cairn_url_show(longer, buf)), CAIRN_URL_SHOW - 1);
}

static void url__has_an_origin_and_a_host(void **state)
{
	struct world *w = *state;
	struct cairn_url url;
	assert_code(w, cairn_url_parse("HTTPS://Mirror.IO:443/a/", NULL, &url, &w->err), CAIRN_OK);
	assert_string_equal(url.origin, "https://mirror.io:443");
	assert_string_equal(url.host, "mirror.io");
	cairn_url_fini(&url);
	assert_code(w, cairn_url_parse("http://[::1]:5000?q", NULL, &url, &w->err), CAIRN_OK);
	assert_string_equal(url.origin, "http://[::1]:5000");
	assert_string_equal(url.host, "[::1]:5000");
	assert_true(url.has_query);
	cairn_url_fini(&url);
	cairn_url_fini(&url);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(mirrors__are_asked_first_with_ns),
		CASE(mirrors__have_v2_appended_once_and_no_ns_for_themselves),
		CASE(mirrors__of_docker_hub),
		CASE(mirrors__fall_through_in_order),
		CASE(mirrors__that_cannot_be_reached_rest_a_while),
		CASE(mirrors__may_break_off_and_the_registry_goes_on),
		CASE(mirrors__with_a_wrong_manifest_are_passed_over),
		CASE(mirrors__that_are_no_urls_are_refused),
		CASE(redirect__takes_no_authorization_to_others),
		CASE(redirect__is_asked_for_anew_when_a_blob_broke_off),
		CASE(redirect__errors_tell_no_signature),
		CASE(redirect__loops_end),
		CASE(redirect__to_nonsense_is_refused),
		CASE(redirect__never_from_https_to_http),
		CASE(proxy__of_the_environment),
		CASE(proxy__of_https_and_docker_hub_by_its_real_name),
		CASE(url__is_shown_without_what_is_secret),
		CASE(url__has_an_origin_and_a_host),
	};
	return cmocka_run_group_tests_name("oci/mirrors", tests, NULL, NULL);
}
