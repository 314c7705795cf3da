/* Who we are: what is sent to whom when a registry asks. */
#include "support/registry_fixture.h"

#include "oci/auth.h"

static const struct cairn_registry_login joe = {"joe", "s3cret", NULL};
static const struct cairn_registry_login token_login = {NULL, NULL, "refresh/me+now"};
#define JOE "\r\nAuthorization: Basic am9lOnMzY3JldA==\r\n"

static struct http_step basic_401(void)
{
	return (struct http_step){.status = 401,
				  .headers = "WWW-Authenticate: Basic realm=\"r\"\r\n"};
}

/* 401 that names b as the token server. */
static struct http_step bearer_401(struct world *w)
{
	return (struct http_step){
		.status = 401,
		.headers = text(w,
				"WWW-Authenticate: Bearer realm=\"http://%s/token?x=y\",service=\""
				"reg one\",scope=\"repository:lib/app:pull\"\r\n",
				w->host_b),
	};
}

static struct http_step token(const char *json)
{
	return (struct http_step){.headers = "Content-Type: application/json\r\n", .body = json};
}

/* ---- Basic -----------------------------------------------------------------------------------
 */

static void basic__is_sent_once_it_was_asked_for(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, basic_401());
	http_server_then(w->a, a_manifest());
	http_server_then(w->a, whole_blob(w));
	world_open(w, &joe);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_lacks(http_server_request(w->a, 0), "Authorization");
	assert_has(http_server_request(w->a, 1), JOE);
	assert_has(http_server_request(w->a, 2), JOE);
	assert_int_equal(http_server_connections(w->a), 1);
}

static void basic__that_is_refused_ends(void **state)
{
	struct world *w = *state;
	for (int i = 0; i < 2; i++) http_server_then(w->a, basic_401());
	world_open(w, &joe);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	assert_int_equal(http_server_requests(w->a), 2);
	assert_lacks(w->err.msg, "s3cret");
	assert_lacks(w->err.msg, "am9l");
}

static void basic__without_credentials_ends(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, basic_401());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	assert_has(w->err.msg, "no credentials are configured");
	assert_int_equal(http_server_requests(w->a), 1);
}

static void login__is_for_the_first_registry_only(void **state)
{
	struct world *w = *state;
	w->hosts[1] = (struct cairn_registry_host){.host = w->host_b, .plain_http = true, .ca = ""};
	w->opts.n_hosts = 2;
	http_server_then(w->a, a_manifest());
	http_server_then(w->b, basic_401());
	http_server_then(w->a, basic_401());
	http_server_then(w->a, a_manifest());
	world_open(w, &joe);
	assert_code(w, try_manifest(w), CAIRN_OK);
	strcpy(w->ref.registry, w->host_b);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	assert_int_equal(http_server_requests(w->b), 1);
	strcpy(w->ref.registry, w->host_a);
	assert_code(w, try_manifest(w), CAIRN_OK);
}

static void login__is_not_for_mirrors(void **state)
{
	struct world *w = *state;
	w->mirrors[0] = text(w, "http://%s", w->host_b);
	w->hosts[0].n_mirrors = 1;
	http_server_then(w->b, basic_401());
	http_server_then(w->a, basic_401());
	http_server_then(w->a, a_manifest());
	world_open(w, &joe);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_int_equal(http_server_requests(w->b), 1);
	assert_lacks(http_server_request(w->b, 0), "Authorization");
}

/* ---- Bearer ----------------------------------------------------------------------------------
 */

static void bearer__anonymous(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, token("{\"token\":\"abc.DEF\",\"expires_in\":300}"));
	http_server_then(w->a, a_manifest());
	http_server_then(w->a, whole_blob(w));
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_has(http_server_request(w->b, 0),
		   "GET /token?x=y&service=reg%20one&scope=repository%3Alib%2Fapp%3Apull "
		   "HTTP/1.1\r\n");
	assert_lacks(http_server_request(w->b, 0), "Authorization");
	assert_has(http_server_request(w->a, 1), "\r\nAuthorization: Bearer abc.DEF\r\n");
	assert_has(http_server_request(w->a, 2), "\r\nAuthorization: Bearer abc.DEF\r\n");
	assert_int_equal(http_server_requests(w->b), 1);
}

static void bearer__with_a_password_and_a_scope_of_ours(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, (struct http_step){.status = 401,
						  .headers = text(w,
								  "WWW-Authenticate: Basic\r\n"
								  "WWW-Authenticate: Bearer "
								  "realm=\"http://%s/token\"\r\n",
								  w->host_b)});
	http_server_then(w->b, token("{\"access_token\":\"t\"}"));
	http_server_then(w->a, a_manifest());
	world_open(w, &joe);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_has(http_server_request(w->b, 0),
		   "GET /token?scope=repository%3Alib%2Fapp%3Apull HTTP/1.1\r\n");
	assert_has(http_server_request(w->b, 0), JOE);
	assert_has(http_server_request(w->a, 1), "\r\nAuthorization: Bearer t\r\n");
}

static void bearer__with_an_identity_token(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, token("{\"access_token\":\"t\",\"refresh_token\":\"other\"}"));
	http_server_then(w->a, a_manifest());
	world_open(w, &token_login);
	assert_code(w, try_manifest(w), CAIRN_OK);
	const char *request = http_server_request(w->b, 0);
	assert_has(request, "POST /token?x=y HTTP/1.1\r\n");
	assert_has(request, "\r\nContent-Type: application/x-www-form-urlencoded\r\n");
	assert_has(request, "\r\n\r\ngrant_type=refresh_token&service=reg%20one&scope=repository"
			    "%3Alib%2Fapp%3Apull&client_id=cairn&refresh_token=refresh%2Fme%2Bnow");
	assert_lacks(request, "Authorization");
	assert_has(http_server_request(w->a, 1), "\r\nAuthorization: Bearer t\r\n");
}

static void bearer__refused_with_an_identity_token(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, (struct http_step){.status = 400,
						  .headers = "Content-Type: application/json\r\n",
						  .body = "{\"error\":\"invalid_grant\"}"});
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, (struct http_step){
				       .status = 302,
				       .headers = text(w, "Location: http://%s/\r\n", w->host_a)});
	world_open(w, &token_login);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	assert_has(w->err.msg, "invalid_grant");
	assert_lacks(w->err.msg, "refresh/me");
	/* The challenge is remembered: the token server is asked at once. */
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	assert_has(w->err.msg, "POST is refused");
	assert_int_equal(http_server_requests(w->a), 1);
}

static void bearer__is_renewed_in_the_middle_of_a_blob(void **state)
{
	struct world *w = *state;
	struct http_step first = whole_blob(w), second = part_of_blob(w, 100);
	first.cut = 100;
	second.cut = 100;
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, token("{\"token\":\"one\"}"));
	http_server_then(w->a, first);
	http_server_then(w->a, bearer_401(w)); /* expired on the way */
	http_server_then(w->b, token("{\"token\":\"two\"}"));
	http_server_then(w->a, second);
	http_server_then(w->a, bearer_401(w)); /* again, after progress */
	http_server_then(w->b, token("{\"token\":\"three\"}"));
	http_server_then(w->a, part_of_blob(w, 200));
	world_open(w, NULL);
	assert_code(w, get_blob(w, 0), CAIRN_OK);
	assert_blob(w, 0);
	assert_has(http_server_request(w->a, 1), "Bearer one\r\n");
	assert_has(http_server_request(w->a, 2), "Bearer one\r\n");
	assert_has(http_server_request(w->a, 3), "Bearer two\r\n");
	assert_has(http_server_request(w->a, 5), "Bearer three\r\n");
}

static void bearer__is_renewed_before_it_expires(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, token("{\"token\":\"one\",\"expires_in\":1}"));
	http_server_then(w->a, a_manifest());
	http_server_then(w->b, token("{\"token\":\"two\",\"expires_in\":-7}"));
	http_server_then(w->a, a_manifest());
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	usleep(1100 * 1000);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_has(http_server_request(w->a, 2), "Bearer two\r\n");
	assert_has(http_server_request(w->a, 3), "Bearer two\r\n");
}

static void bearer__token_of_one_repository_is_not_sent_for_another(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, token("{\"token\":\"one\"}"));
	http_server_then(w->a, a_manifest());
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	strcpy(w->ref.repository, "other/app");
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_lacks(http_server_request(w->a, 2), "Authorization");
}

static void bearer__token_that_is_refused_ends(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, token("{\"token\":\"s3cret-token\"}"));
	http_server_then(w->a, bearer_401(w));
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	assert_has(w->err.msg, "no credentials are configured");
	assert_lacks(w->err.msg, "s3cret-token");
	assert_int_equal(http_server_requests(w->a), 2);
	assert_int_equal(http_server_requests(w->b), 1);
}

static void bearer__token_server_that_fails(void **state)
{
	static const struct {
		int status;
		enum cairn_code code;
		int tries;
	} all[] = {{401, CAIRN_UNAUTHENTICATED, 1},
		   {403, CAIRN_PERMISSION_DENIED, 1},
		   {404, CAIRN_NOT_FOUND, 1},
		   {429, CAIRN_RESOURCE_EXHAUSTED, 3},
		   {503, CAIRN_UNAVAILABLE, 3}};
	struct world *w = *state;
	size_t before = 0;
	http_server_then(w->a, bearer_401(w));
	world_open(w, &joe);
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		for (int k = 0; k < all[i].tries; k++) {
			http_server_then(w->b, (struct http_step){.status = all[i].status});
		}
		assert_code(w, try_manifest(w), all[i].code);
		assert_has(w->err.msg, text(w, "http://%s/token: HTTP status", w->host_b));
		assert_int_equal(http_server_requests(w->b) - before, all[i].tries);
		before = http_server_requests(w->b);
	}
	http_server_then(w->b, (struct http_step){.status = 503});
	http_server_then(w->b, token("{\"token\":\"t\"}"));
	http_server_then(w->a, a_manifest());
	assert_code(w, try_manifest(w), CAIRN_OK);
}

static void bearer__answers_that_make_no_sense(void **state)
{
	static const char *const all[] = {"",
					  "{",
					  "[]",
					  "{}",
					  "null",
					  "{\"token\":7}",
					  "{\"token\":\"\"}",
					  "{\"token\":\"a b\"}",
					  "{\"token\":\"a\\r\\nX-Evil: 1\"}",
					  "{\"token\":\"\\u00e9\"}",
					  "{\"token\":\"a\",\"token\":\"b\"}"};
	struct world *w = *state;
	size_t n = CAIRN_TOKEN_ANSWER_MAX + 10;
	char *huge = malloc(n), *longer = calloc(1, 50100);
	memset(huge, ' ', n);
	memset(longer, 'x', 50000);
	memcpy(longer, "{\"token\":\"", 10);
	strcpy(longer + 50000, "\"}");
	http_server_then(w->a, bearer_401(w));
	world_open(w, &joe);
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		http_server_then(w->b, token(all[i]));
		assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
		assert_lacks(w->err.msg, "Evil");
	}
	http_server_then(w->b, token(longer));
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	http_server_then(w->b, (struct http_step){.body = huge, .len = n, .chunked = true});
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	assert_has(w->err.msg, "longer than 1048576 bytes");
	memset(huge, '[', n);
	http_server_then(w->b, (struct http_step){.body = huge, .len = 1000000});
	assert_code(w, try_manifest(w), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(http_server_requests(w->a), 1);
	http_server_stop(w->b);
	w->b = http_server_start();
	free(huge);
	free(longer);
}

static void bearer__realms_that_are_refused(void **state)
{
	static const char *const all[] = {"", "token", "file:///etc/passwd",
					  "http://u:p@127.0.0.1/", "/token"};
	struct world *w = *state;
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		http_server_then(
			w->a, (struct http_step){.status = 401,
						 .headers = text(w,
								 "WWW-Authenticate: Bearer realm="
								 "\"%s\"\r\n",
								 all[i])});
		cairn_registry_session_free(w->session);
		cairn_registry_free(w->registry);
		world_open(w, &joe);
		/* without a realm it is no challenge */
		assert_code(w, try_manifest(w),
			    i == 0 ? CAIRN_UNAUTHENTICATED : CAIRN_INVALID_ARGUMENT);
	}
}

static void bearer__realm_in_plain_http_of_a_registry_in_https(void **state)
{
	struct world *w = *state;
	struct cairn_challenge challenge = {.scheme = CAIRN_AUTH_BEARER,
					    .realm = "http://127.0.0.1:1/token"};
	struct cairn_credentials credentials = {0};
	struct cairn_authorize a = {
		.challenge = &challenge, .credentials = &credentials, .repository = "x", .ca = ""};
	struct cairn_again again;
	char *header = NULL;
	int64_t expires_ns = 0;
	assert_code(w, cairn_authorize(&a, &header, &expires_ns, &again, &w->err),
		    CAIRN_INVALID_ARGUMENT);
	assert_has(w->err.msg, "plain HTTP is refused");
	assert_false(again.yes);
}

static void secrets__that_an_error_quotes_are_not_told(void **state)
{
	struct world *w = *state;
	static const char type[] = "Content-Type: application/json\r\n";
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, (struct http_step){.status = 401,
						  .headers = type,
						  .body = "{\"details\":\"s3cret is wrong\"}"});
	http_server_then(w->b,
			 (struct http_step){.status = 403,
					    .headers = type,
					    .body = "{\"details\":\"Basic am9lOnMzY3JldA== is\"}"});
	http_server_then(w->b, token("{\"token\":\"eyJabcdef\"}"));
	http_server_then(
		w->a, (struct http_step){.status = 403,
					 .headers = type,
					 .body = "{\"errors\":[{\"message\":\"no eyJabcdef\"}]}"});
	http_server_then(w->a,
			 (struct http_step){.status = 403,
					    .headers = type,
					    .body = "{\"errors\":[{\"message\":\"go away\"}]}"});
	world_open(w, &joe);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	assert_lacks(w->err.msg, "s3cret");
	assert_code(w, try_manifest(w), CAIRN_PERMISSION_DENIED);
	assert_lacks(w->err.msg, "am9lOn");
	assert_code(w, try_manifest(w), CAIRN_PERMISSION_DENIED);
	assert_lacks(w->err.msg, "eyJabc");
	assert_code(w, try_manifest(w), CAIRN_PERMISSION_DENIED);
	assert_has(w->err.msg, "HTTP status 403: go away");
}

/* ---- docker_config ---------------------------------------------------------------------------
 */

static void config__is_read_when_it_is_needed(void **state)
{
	struct world *w = *state;
	const char *good =
		text(w, "{\"auths\":{\"%s\":{\"auth\":\"am9lOnMzY3JldA==\"}}}", w->host_a);
	write_config(w, "{\"auths\":{}}");
	http_server_then(w->a, basic_401());
	http_server_then(w->a, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	write_config(w, good);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_has(http_server_request(w->a, 1), JOE);
}

static void config__serves_mirrors_and_others_by_their_host(void **state)
{
	struct world *w = *state;
	w->mirrors[0] = text(w, "http://%s", w->host_b);
	w->hosts[0].n_mirrors = 1;
	write_config(w, text(w,
			     "{\"auths\":{\"http://%s/v2/\":{\"username\":\"joe\",\"password\":"
			     "\"s3cret\"},\"%s\":{\"auth\":\"bm90OmhlcmU=\"}}}",
			     w->host_b, w->host_a));
	http_server_then(w->b, basic_401());
	http_server_then(w->b, a_manifest());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_has(http_server_request(w->b, 1), JOE);
}

static void config__that_cannot_be_used_is_told_when_it_is_needed(void **state)
{
	struct world *w = *state;
	http_server_then(w->a, a_manifest());
	http_server_then(w->a, basic_401());
	w->opts.docker_config = "/nonexistent/config.json";
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	assert_has(w->err.msg, "docker_config /nonexistent/config.json: open: No such file");
}

static void config__helpers_are_not_run_but_public_images_come(void **state)
{
	struct world *w = *state;
	write_config(w, "{\"credsStore\":\"desktop\"}");
	http_server_then(w->a, bearer_401(w));
	http_server_then(w->b, token("{\"token\":\"anon\"}"));
	http_server_then(w->a, a_manifest());
	http_server_then(w->a, basic_401());
	http_server_then(w->a, basic_401());
	world_open(w, NULL);
	assert_code(w, try_manifest(w), CAIRN_OK);
	assert_code(w, try_manifest(w), CAIRN_UNAUTHENTICATED);
	assert_has(w->err.msg, "credential helper, which is not run");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(basic__is_sent_once_it_was_asked_for),
		CASE(basic__that_is_refused_ends),
		CASE(basic__without_credentials_ends),
		CASE(login__is_for_the_first_registry_only),
		CASE(login__is_not_for_mirrors),
		CASE(bearer__anonymous),
		CASE(bearer__with_a_password_and_a_scope_of_ours),
		CASE(bearer__with_an_identity_token),
		CASE(bearer__refused_with_an_identity_token),
		CASE(bearer__is_renewed_in_the_middle_of_a_blob),
		CASE(bearer__is_renewed_before_it_expires),
		CASE(bearer__token_of_one_repository_is_not_sent_for_another),
		CASE(bearer__token_that_is_refused_ends),
		CASE(bearer__token_server_that_fails),
		CASE(bearer__answers_that_make_no_sense),
		CASE(bearer__realms_that_are_refused),
		CASE(bearer__realm_in_plain_http_of_a_registry_in_https),
		CASE(secrets__that_an_error_quotes_are_not_told),
		CASE(config__is_read_when_it_is_needed),
		CASE(config__serves_mirrors_and_others_by_their_host),
		CASE(config__that_cannot_be_used_is_told_when_it_is_needed),
		CASE(config__helpers_are_not_run_but_public_images_come),
	};
	return cmocka_run_group_tests_name("oci/auth", tests, NULL, NULL);
}
