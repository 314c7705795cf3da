#include "oci/answer.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "oci/json.h"
#include "oci/show.h"
#include "oci/url.h"

#define HINT_BYTES 6		   /* of a secret's beginning are enough to know it by */
#define WAIT_MAX_MS INT64_C(60000) /* of what Retry-After may ask for */

static enum cairn_code code_of(int status)
{
	switch (status) {
	case 401:
		return CAIRN_UNAUTHENTICATED;
	case 403:
		return CAIRN_PERMISSION_DENIED;
	case 404:
		return CAIRN_NOT_FOUND;
	case 408:
		return CAIRN_UNAVAILABLE;
	case 429:
		return CAIRN_RESOURCE_EXHAUSTED;
	default:
		return status >= 500 ? CAIRN_UNAVAILABLE : CAIRN_INVALID_ARGUMENT;
	}
}

static bool may_pass(int status)
{
	return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 ||
	       status == 504;
}

static const char *text_in(const json_t *object, const char *const *names)
{
	for (; *names != NULL; names++) {
		const char *text = json_string_value(json_object_get(object, *names));
		if (text != NULL && text[0] != '\0') return text;
	}
	return NULL;
}

/* What the server says: a registry's errors[0], an OAuth2 error, or plain text; "": nothing. */
static const char *reason(const struct cairn_http_answer *answer,
			  char shown[static CAIRN_SHOW_MAX + 4])
{
	static const char *const of_error[] = {"message", "code", NULL};
	static const char *const of_answer[] = {"error_description", "details", "message", "error",
						NULL};
	cairn_auto(cairn_json_freep) json_t *doc = NULL;
	struct cairn_err ignored;
	shown[0] = '\0';
	if (strcmp(answer->type, "text/plain") == 0 && answer->error[0] != '{') {
		size_t n = 0;
		while (n < answer->error_len && answer->error[n] != '\n') n++;
		return cairn_show(answer->error, n, shown);
	}
	if (cairn_json_load(answer->error, answer->error_len, false, &doc, &ignored) != CAIRN_OK) {
		return shown;
	}
	const char *text = text_in(json_array_get(json_object_get(doc, "errors"), 0), of_error);
	if (text == NULL) text = text_in(doc, of_answer);
	return text != NULL ? cairn_show(text, strlen(text), shown) : shown;
}

enum cairn_code cairn_answer_error(const struct cairn_http_answer *answer, const char *url,
				   struct cairn_again *ret, struct cairn_err *err)
{
	char shown_url[CAIRN_URL_SHOW], shown[CAIRN_SHOW_MAX + 4];
	const char *why = reason(answer, shown);
	ret->yes = may_pass(answer->status);
	ret->wait_ms = answer->retry_ms < WAIT_MAX_MS ? answer->retry_ms : WAIT_MAX_MS;
	return cairn_err_set(err, code_of(answer->status), "%s: HTTP status %d%s%s",
			     cairn_url_show(url, shown_url), answer->status,
			     why[0] != '\0' ? ": " : "", why);
}

void cairn_answer_hide(struct cairn_http_answer *answer, const char *secret)
{
	size_t n = secret != NULL ? strnlen(secret, HINT_BYTES) : 0;
	if (n == 0 || memmem(answer->error, answer->error_len, secret, n) == NULL) return;
	explicit_bzero(answer->error, sizeof(answer->error));
	answer->error_len = 0;
}

static bool take_number(const char **text, char end, uint64_t *ret)
{
	uint64_t n = 0;
	const char *c = *text;
	if (!isdigit((unsigned char)*c)) return false;
	for (; isdigit((unsigned char)*c); c++) {
		if (n > (UINT64_C(1) << 59)) return false;
		n = 10 * n + (uint64_t)(*c - '0');
	}
	if (*c != end) return false;
	*text = end != '\0' ? c + 1 : c;
	*ret = n;
	return true;
}

bool cairn_content_range(const char *text, uint64_t *ret_first, uint64_t *ret_last,
			 uint64_t *ret_total)
{
	uint64_t first = 0, last = 0, total = UINT64_MAX;
	if (strncmp(text, "bytes ", 6) != 0) return false;
	text += 6;
	if (!take_number(&text, '-', &first) || !take_number(&text, '/', &last)) return false;
	if (strcmp(text, "*") != 0 && !take_number(&text, '\0', &total)) return false;
	if (first > last || last >= total) return false;
	*ret_first = first;
	*ret_last = last;
	*ret_total = total;
	return true;
}
