/* From a challenge to the value of an Authorization header.
 *
 * The challenge comes from whom we ask, so the credentials for that host go where it says: that is
 * how Docker's token authentication is made (docker.io is served by another host than its tokens).
 * But never in plain text, unless that registry itself is configured to be asked so. */
#include "oci/auth.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "oci/answer.h"
#include "oci/base64.h"
#include "oci/http.h"
#include "oci/json.h"
#include "oci/url.h"

#define TOKEN_MS 60000	    /* for a token, all redirects included */
#define LIFE_DEFAULT_S 60   /* by the specification */
#define LIFE_MAX_S 86400    /* a token that lives longer is renewed daily */
#define MARGIN_S 10	    /* before its end a token is not used any more; at most a tenth */
#define ANSWER_FIRST 16384u /* bytes of the first buffer for an answer */

static void secretp(char **secret)
{
	cairn_secret_free(*secret);
}

static char *print_secret(const char *before, const char *secret)
{
	char *text = NULL;
	if (asprintf(&text, "%s%s", before, secret) < 0) abort();
	return text;
}

/* ---- Basic -----------------------------------------------------------------------------------
 */

static char *basic_header(const struct cairn_credentials *c)
{
	cairn_auto(secretp) char *plain = NULL;
	if (asprintf(&plain, "%s:%s", c->username, c->password) < 0) abort();
	cairn_auto(secretp) char *encoded = cairn_base64_encode(plain, strlen(plain));
	return print_secret("Basic ", encoded);
}

static bool has_password(const struct cairn_credentials *c)
{
	return c->username != NULL && c->username[0] != '\0' && c->password != NULL;
}

/* ---- a token server's answer -----------------------------------------------------------------
 */

/* Grows by hand, so that every copy can be wiped. */
struct buffer {
	char *data;
	size_t len, cap;
};

static void buffer_fini(struct buffer *b)
{
	if (b->data != NULL) explicit_bzero(b->data, b->cap);
	free(b->data);
}

static enum cairn_code take_body(void *arg, const struct cairn_http_answer *answer,
				 const void *data, size_t n, struct cairn_err *err)
{
	(void)answer;
	struct buffer *b = arg;
	if (n > CAIRN_TOKEN_ANSWER_MAX - b->len) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "is longer than %u bytes",
				     CAIRN_TOKEN_ANSWER_MAX);
	}
	if (b->len + n > b->cap) {
		struct buffer larger = {.len = b->len, .cap = 2 * (b->len + n) + ANSWER_FIRST};
		larger.data = malloc(larger.cap);
		if (larger.data == NULL) abort();
		if (b->len > 0) memcpy(larger.data, b->data, b->len);
		buffer_fini(b);
		*b = larger;
	}
	memcpy(b->data + b->len, data, n);
	b->len += n;
	return CAIRN_OK;
}

static const char *token_in(const json_t *doc)
{
	const char *token = json_string_value(json_object_get(doc, "token"));
	if (token != NULL && token[0] != '\0') return token;
	token = json_string_value(json_object_get(doc, "access_token"));
	return token != NULL && token[0] != '\0' ? token : NULL;
}

/* When a token that lives so long from now on is not to be used any more. */
static int64_t expiry_ns(const json_t *expires_in, int64_t asked_ns)
{
	int64_t life_s = json_is_integer(expires_in) ? json_integer_value(expires_in) : 0;
	if (life_s <= 0) life_s = LIFE_DEFAULT_S;
	if (life_s > LIFE_MAX_S) life_s = LIFE_MAX_S;
	int64_t life_ns = life_s * CAIRN_NS_PER_S, margin_ns = MARGIN_S * CAIRN_NS_PER_S;
	if (margin_ns > life_ns / 10) margin_ns = life_ns / 10;
	return asked_ns + life_ns - margin_ns;
}

static void wipe(const char *text)
{
	if (text != NULL) explicit_bzero((char *)(uintptr_t)text, strlen(text));
}

static enum cairn_code parse_token(const struct buffer *b, int64_t asked_ns, char **ret,
				   int64_t *ret_expires_ns, struct cairn_err *err)
{
	cairn_auto(cairn_json_freep) json_t *doc = NULL;
	enum cairn_code code = cairn_json_load(b->data, b->len, true, &doc, err);
	if (code != CAIRN_OK) return code;
	const char *token = token_in(doc);
	if (token == NULL) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "has neither token nor "
				     "access_token");
	}
	size_t n = strlen(token);
	bool good = n <= CAIRN_TOKEN_MAX;
	for (size_t i = 0; good && i < n; i++) good = token[i] > ' ' && token[i] <= '~';
	if (good) {
		*ret = print_secret("Bearer ", token);
		*ret_expires_ns = expiry_ns(json_object_get(doc, "expires_in"), asked_ns);
	} else {
		code = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "has a token that no header can hold");
	}
	wipe(json_string_value(json_object_get(doc, "token")));
	wipe(json_string_value(json_object_get(doc, "access_token")));
	wipe(json_string_value(json_object_get(doc, "refresh_token")));
	return code;
}

/* ---- Bearer ----------------------------------------------------------------------------------
 */

static char *scope_of(const struct cairn_authorize *a)
{
	char *scope = NULL;
	if (a->challenge->scope[0] != '\0') {
		scope = strdup(a->challenge->scope);
	} else if (asprintf(&scope, "repository:%s:pull", a->repository) < 0) {
		scope = NULL;
	}
	if (scope == NULL) abort();
	return scope;
}

static void replace(char **text, char *longer)
{
	free(*text);
	*text = longer;
}

/* The token server's URL, with what we want of it, one scope at a time. */
static char *get_url(const struct cairn_authorize *a, const char *realm, char *scope)
{
	char *url = strdup(realm), *rest = NULL;
	if (url == NULL) abort();
	if (a->challenge->service[0] != '\0') {
		replace(&url, cairn_url_add(url, "service", a->challenge->service));
	}
	for (char *one = strtok_r(scope, " ", &rest); one != NULL;
	     one = strtok_r(NULL, " ", &rest)) {
		replace(&url, cairn_url_add(url, "scope", one));
	}
	return url;
}

static char *post_form(const struct cairn_authorize *a, const char *scope)
{
	char *form = NULL;
	cairn_form_add(&form, "grant_type", "refresh_token");
	cairn_form_add(&form, "service", a->challenge->service);
	cairn_form_add(&form, "scope", scope);
	cairn_form_add(&form, "client_id", "cairn");
	cairn_form_add(&form, "refresh_token", a->credentials->identity_token);
	return form;
}

static enum cairn_code check_realm(const struct cairn_authorize *a, struct cairn_err *err)
{
	cairn_auto(cairn_url_fini) struct cairn_url url = {0};
	char shown[CAIRN_URL_SHOW];
	enum cairn_code code = cairn_url_parse(a->challenge->realm, NULL, &url, err);
	if (code != CAIRN_OK) return cairn_err_wrap(err, "token server");
	if (url.https || a->plain_http) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "token server %s: plain HTTP is refused",
			     cairn_url_show(a->challenge->realm, shown));
}

const char *cairn_secret_part(const char *header)
{
	const char *space = header != NULL ? strchr(header, ' ') : NULL;
	return space != NULL ? space + 1 : NULL;
}

static enum cairn_code ask_token(const struct cairn_authorize *a,
				 const struct cairn_http_request *request, char **ret,
				 int64_t *ret_expires_ns, struct cairn_again *again,
				 struct cairn_err *err)
{
	cairn_auto(buffer_fini) struct buffer body = {0};
	struct cairn_http_request whole = *request;
	struct cairn_http_answer answer;
	char shown[CAIRN_URL_SHOW];
	int64_t asked_ns = cairn_boot_ns(&cairn_clock_system);
	whole.body = take_body;
	whole.arg = &body;
	whole.ca = a->ca;
	whole.total_ms = TOKEN_MS;
	enum cairn_code code = cairn_http_do(a->client, &whole, a->go_on, &answer, err);
	again->yes = code == CAIRN_UNAVAILABLE;
	if (code != CAIRN_OK && !answer.stopped) return code;
	if (code == CAIRN_OK && answer.status >= 300) {
		cairn_answer_hide(&answer, a->credentials->password);
		cairn_answer_hide(&answer, a->credentials->identity_token);
		cairn_answer_hide(&answer, cairn_secret_part(request->authorization));
		code = cairn_answer_error(&answer, request->url, again, err);
		if (answer.status != 400) return code;
		return err->code = CAIRN_UNAUTHENTICATED; /* OAuth2's invalid_grant, for one */
	}
	if (code == CAIRN_OK) code = parse_token(&body, asked_ns, ret, ret_expires_ns, err);
	if (code == CAIRN_OK) return code;
	return cairn_err_wrap(err, "%s: the answer", cairn_url_show(request->url, shown));
}

static enum cairn_code bearer(const struct cairn_authorize *a, char **ret, int64_t *ret_expires_ns,
			      struct cairn_again *again, struct cairn_err *err)
{
	enum cairn_code code = check_realm(a, err);
	if (code != CAIRN_OK) return code;
	char *scope = scope_of(a), *url = NULL;
	struct cairn_http_request request = {.url = a->challenge->realm};
	cairn_auto(secretp) char *form = NULL;
	cairn_auto(secretp) char *basic = NULL;
	if (a->credentials->identity_token != NULL) {
		form = post_form(a, scope);
		request.method = CAIRN_HTTP_POST;
		request.form = form;
	} else {
		url = get_url(a, a->challenge->realm, scope);
		if (has_password(a->credentials)) basic = basic_header(a->credentials);
		request.url = url;
		request.authorization = basic;
	}
	code = ask_token(a, &request, ret, ret_expires_ns, again, err);
	free(scope);
	free(url);
	return code;
}

enum cairn_code cairn_authorize(const struct cairn_authorize *a, char **ret,
				int64_t *ret_expires_ns, struct cairn_again *again,
				struct cairn_err *err)
{
	*again = (struct cairn_again){0};
	if (a->challenge->scheme == CAIRN_AUTH_BEARER) {
		return bearer(a, ret, ret_expires_ns, again, err);
	}
	if (!has_password(a->credentials)) {
		return cairn_err_set(err, CAIRN_UNAUTHENTICATED,
				     "asks for a user name and a password");
	}
	*ret = basic_header(a->credentials);
	*ret_expires_ns = INT64_MAX;
	return CAIRN_OK;
}
