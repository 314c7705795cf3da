#include "oci/url.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void url_cleanupp(CURLU **url)
{
	curl_url_cleanup(*url);
}

static void curl_freep(char **text)
{
	curl_free(*text);
}

static CURLU *new_url(void)
{
	CURLU *url = curl_url();
	if (url == NULL) abort();
	return url;
}

static enum cairn_code refuse(const char *text, const char *why, struct cairn_err *err)
{
	char shown[CAIRN_URL_SHOW];
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "URL %s: %s", cairn_url_show(text, shown),
			     why);
}

/* Owned by us, where curl would want it back. */
static char *part(CURLU *url, CURLUPart which, unsigned flags)
{
	cairn_auto(curl_freep) char *text = NULL;
	if (curl_url_get(url, which, &text, flags) != CURLUE_OK || text == NULL) return NULL;
	char *copy = strdup(text);
	if (copy == NULL) abort();
	return copy;
}

static char *print(const char *scheme, const char *host, const char *port)
{
	char *text = NULL;
	if (asprintf(&text, "%s%s%s%s%s", scheme, scheme[0] != '\0' ? "://" : "", host,
		     port != NULL ? ":" : "", port != NULL ? port : "") < 0) {
		abort();
	}
	for (char *c = text; *c != '\0'; c++) *c = (char)tolower((unsigned char)*c);
	return text;
}

static bool has_part(CURLU *url, CURLUPart which)
{
	char *text = part(url, which, 0);
	bool has = text != NULL;
	free(text);
	return has;
}

static enum cairn_code take_parts(CURLU *url, const char *text, struct cairn_url *ret,
				  struct cairn_err *err)
{
	if (has_part(url, CURLUPART_USER) || has_part(url, CURLUPART_PASSWORD)) {
		return refuse(text, "may hold no user name or password", err);
	}
	char *scheme = part(url, CURLUPART_SCHEME, 0), *host = part(url, CURLUPART_HOST, 0);
	char *port = part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT);
	char *own_port = part(url, CURLUPART_PORT, CURLU_NO_DEFAULT_PORT);
	bool good = scheme != NULL && host != NULL && host[0] != '\0' && port != NULL &&
		    (strcmp(scheme, "https") == 0 || strcmp(scheme, "http") == 0);
	curl_url_set(url, CURLUPART_FRAGMENT, NULL, 0);
	if (good) {
		ret->text = part(url, CURLUPART_URL, 0);
		ret->origin = print(scheme, host, port);
		ret->host = print("", host, own_port);
		ret->https = strcmp(scheme, "https") == 0;
		ret->has_query = has_part(url, CURLUPART_QUERY);
	}
	free(scheme);
	free(host);
	free(port);
	free(own_port);
	return good ? CAIRN_OK : refuse(text, "want http:// or https:// and a host", err);
}

enum cairn_code cairn_url_parse(const char *text, const char *base, struct cairn_url *ret,
				struct cairn_err *err)
{
	cairn_auto(url_cleanupp) CURLU *url = new_url();
	*ret = (struct cairn_url){0};
	if (strnlen(text, CAIRN_URL_MAX + 1) > CAIRN_URL_MAX) {
		return refuse(text, "is too long", err);
	}
	for (const char *c = text; *c != '\0'; c++) {
		if (*c <= ' ' || *c == 0x7f) return refuse(text, "has a byte that no URL has", err);
	}
	if (base != NULL && curl_url_set(url, CURLUPART_URL, base, 0) != CURLUE_OK) {
		return refuse(base, "is none", err);
	}
	/* Non-ASCII bytes are what they are to a server; curl encodes nothing here. */
	if (curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK) {
		return refuse(text, "is none for http or https", err);
	}
	enum cairn_code code = take_parts(url, text, ret, err);
	if (code == CAIRN_OK && ret->text == NULL) code = refuse(text, "is none", err);
	if (code != CAIRN_OK) cairn_url_fini(ret);
	return code;
}

void cairn_url_fini(struct cairn_url *url)
{
	free(url->text);
	free(url->origin);
	free(url->host);
	*url = (struct cairn_url){0};
}

/* Percent-encoded but for the unreserved bytes of RFC 3986; returns the end of what was written. */
static char *encode(char *to, const char *value)
{
	static const char hex[] = "0123456789ABCDEF";
	for (const unsigned char *c = (const unsigned char *)value; *c != '\0'; c++) {
		if (*c < 0x80 && (isalnum(*c) || strchr("-._~", *c) != NULL)) {
			*to++ = (char)*c;
			continue;
		}
		*to++ = '%';
		*to++ = hex[*c >> 4];
		*to++ = hex[*c & 15];
	}
	*to = '\0';
	return to;
}

void cairn_form_add(char **form, const char *name, const char *value)
{
	const char *before = *form != NULL ? *form : "";
	size_t n = strlen(before);
	char *text = malloc(n + 1 + strlen(name) + 1 + 3 * strlen(value) + 1);
	if (text == NULL) abort();
	char *to = stpcpy(text, before);
	if (n > 0) *to++ = '&';
	to = stpcpy(stpcpy(to, name), "=");
	encode(to, value);
	if (*form != NULL) explicit_bzero(*form, n); /* it may hold a secret */
	free(*form);
	*form = text;
}

char *cairn_url_add(const char *url, const char *name, const char *value)
{
	char *pair = NULL, *text = NULL;
	cairn_form_add(&pair, name, value);
	const char *mark = strchr(url, '?') == NULL ? "?" : "&";
	if (url[strlen(url) - 1] == '?') mark = "";
	if (asprintf(&text, "%s%s%s", url, mark, pair) < 0) abort();
	free(pair);
	return text;
}

const char *cairn_url_show(const char *url, char buf[static CAIRN_URL_SHOW])
{
	size_t n = strcspn(url, "?#"), room = CAIRN_URL_SHOW - 4;
	/* Where a password begins and ends is hard to tell in what is perhaps no URL at all. */
	if (strchr(url, '@') != NULL) return strcpy(buf, "(with an @)");
	size_t shown = n < room ? n : room;
	for (size_t i = 0; i < shown; i++) buf[i] = url[i] > ' ' && url[i] <= '~' ? url[i] : '?';
	strcpy(buf + shown, shown < n ? "..." : "");
	return buf;
}
