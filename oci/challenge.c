/* WWW-Authenticate, by RFC 7235's grammar: challenges in a list, each a scheme and either a token68
 * or parameters in a list of their own, both with commas between.
 *
 * The list in a list is read with one rule: a token that "=" follows is a parameter, one that does
 * not begins the next challenge. */
#include "oci/auth.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

struct reader {
	const char *text;
	size_t n, at;
};

static bool is_token(char c)
{
	return isalnum((unsigned char)c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static void skip(struct reader *r, const char *set)
{
	while (r->at < r->n && r->text[r->at] != '\0' && strchr(set, r->text[r->at]) != NULL) {
		r->at++;
	}
}

static bool take(struct reader *r, char c)
{
	if (r->at >= r->n || r->text[r->at] != c) return false;
	r->at++;
	return true;
}

static size_t take_token(struct reader *r, const char **ret)
{
	size_t start = r->at;
	while (r->at < r->n && is_token(r->text[r->at])) r->at++;
	*ret = r->text + start;
	return r->at - start;
}

/* A token or a quoted string into buf. False: none, or it does not fit, or is not printable. */
static bool take_value(struct reader *r, char *buf, size_t cap)
{
	bool good = true;
	size_t len = 0;
	if (!take(r, '"')) {
		const char *token = NULL;
		len = take_token(r, &token);
		if (len == 0 || len >= cap) return false;
		memcpy(buf, token, len);
		buf[len] = '\0';
		return true;
	}
	for (; r->at < r->n && r->text[r->at] != '"'; r->at++) {
		if (r->text[r->at] == '\\' && r->at + 1 < r->n) r->at++;
		char c = r->text[r->at];
		if (c < ' ' || c > '~' || len + 1 >= cap) good = false;
		if (good) buf[len++] = c;
	}
	buf[len] = '\0';
	return take(r, '"') && good;
}

static bool same(const char *name, size_t n, const char *want)
{
	return n == strlen(want) && strncasecmp(name, want, n) == 0;
}

/* Pass over a token68, which some schemes have in place of parameters. */
static void skip_token68(struct reader *r)
{
	size_t start = r->at;
	while (r->at < r->n && (is_token(r->text[r->at]) || r->text[r->at] == '/')) r->at++;
	skip(r, "=");
	skip(r, " \t");
	if (r->at < r->n && r->text[r->at] != ',') r->at = start; /* parameters after all */
}

/* The parameters of a challenge, up to the name of the next one. False: one of ours is bad. */
static bool take_params(struct reader *r, struct cairn_challenge *c)
{
	char ignored[4096];
	bool good = true;
	for (;;) {
		const char *name = NULL;
		skip(r, " \t,");
		size_t start = r->at, n = take_token(r, &name);
		skip(r, " \t");
		if (n == 0 || !take(r, '=')) {
			r->at = start;
			return good;
		}
		skip(r, " \t");
		if (same(name, n, "realm")) {
			good &= take_value(r, c->realm, sizeof(c->realm));
		} else if (same(name, n, "service")) {
			good &= take_value(r, c->service, sizeof(c->service));
		} else if (same(name, n, "scope")) {
			good &= take_value(r, c->scope, sizeof(c->scope));
		} else {
			(void)take_value(r, ignored, sizeof(ignored));
		}
	}
}

void cairn_challenge_parse(const char *header, size_t n, struct cairn_challenge *ret)
{
	struct reader r = {.text = header, .n = n};
	*ret = (struct cairn_challenge){0};
	for (;;) {
		struct cairn_challenge c = {0};
		const char *scheme = NULL;
		skip(&r, " \t,");
		size_t len = take_token(&r, &scheme);
		if (len == 0) return;
		if (same(scheme, len, "Basic")) c.scheme = CAIRN_AUTH_BASIC;
		if (same(scheme, len, "Bearer")) c.scheme = CAIRN_AUTH_BEARER;
		skip(&r, " \t");
		skip_token68(&r);
		bool good = take_params(&r, &c);
		if (c.scheme == CAIRN_AUTH_BEARER && c.realm[0] == '\0') good = false;
		if (good && c.scheme > ret->scheme) *ret = c;
	}
}
