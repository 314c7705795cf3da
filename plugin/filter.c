#include "plugin/filter.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/regex.h"

enum filter_op { PRESENT, EQUAL, NOT_EQUAL, MATCHES };

struct selector {
	char *name, *rest; /* of the field path */
	enum filter_op op;
	char *value;
	struct cairn_regex *re;
};

struct one {
	struct selector *list;
	size_t n;
};

struct cairn_filter {
	size_t n;
	struct one any[];
};

struct parser {
	const char *text, *at;
	struct cairn_err *err;
};

static enum cairn_code bad(struct parser *p, const char *what)
{
	return cairn_err_set(p->err, CAIRN_INVALID_ARGUMENT,
			     "filter \"%.200s\", at character %d: %s", p->text,
			     (int)(p->at - p->text) + 1, what);
}

static bool is_space(char c)
{
	return c != '\0' && strchr(" \t\n\v\f\r", c) != NULL;
}

static bool is_field_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '_';
}

static void skip_space(struct parser *p)
{
	while (is_space(*p->at)) p->at++;
}

/* ---- quoted text, with Go's escapes -----------------------------------------------------------*/

static int digit(char c, int base)
{
	int v = c >= '0' && c <= '9'   ? c - '0'
		: c >= 'a' && c <= 'f' ? c - 'a' + 10
		: c >= 'A' && c <= 'F' ? c - 'A' + 10
				       : 16;
	return v < base ? v : -1;
}

/* Exactly n digits; -1 if there are fewer. */
static int64_t digits(struct parser *p, int n, int base)
{
	int64_t v = 0;
	for (int i = 0; i < n; i++) {
		int d = digit(*p->at, base);
		if (d < 0) return -1;
		v = v * base + d;
		p->at++;
	}
	return v;
}

static size_t put_utf8(char *out, uint32_t r)
{
	if (r > 0x10ffff || (r >= 0xd800 && r <= 0xdfff)) r = 0xfffd; /* as Go does */
	if (r < 0x80) {
		out[0] = (char)r;
		return 1;
	}
	size_t n = r < 0x800 ? 2 : r < 0x10000 ? 3 : 4;
	static const uint8_t lead[] = {[2] = 0xc0, [3] = 0xe0, [4] = 0xf0};
	for (size_t i = n - 1; i > 0; i--, r >>= 6) out[i] = (char)(0x80 | (r & 0x3f));
	out[0] = (char)(lead[n] | r);
	return n;
}

/* After a backslash. No escape is shorter than what it stands for, so out never overtakes. */
static enum cairn_code escape(struct parser *p, char quote, char *out, size_t *n)
{
	static const char names[] = "abfnrtv\\", bytes[] = "\a\b\f\n\r\t\v\\";
	char c = *p->at;
	const char *name = c != '\0' ? strchr(names, c) : NULL;
	if (name != NULL || (c == quote && c != '\0')) {
		out[(*n)++] = name != NULL ? bytes[name - names] : c;
		p->at++;
		return CAIRN_OK;
	}
	int64_t v = -1;
	if (digit(c, 8) >= 0) {
		v = digits(p, 3, 8);
	} else if (c == 'x' || c == 'u' || c == 'U') {
		p->at++;
		v = digits(p, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16);
		if (v > 0x10ffff) v = -1;
	}
	if (v < 0 || (digit(c, 8) >= 0 && v > 255)) {
		return bad(p, "an escape that Go does not know");
	}
	if (v == 0) return bad(p, "a zero byte");
	if (c == 'u' || c == 'U') {
		*n += put_utf8(out + *n, (uint32_t)v);
	} else {
		out[(*n)++] = (char)v;
	}
	return CAIRN_OK;
}

static enum cairn_code parse_quoted(struct parser *p, char **ret)
{
	char quote = *p->at++;
	char *out = malloc(strlen(p->at) + 1);
	if (out == NULL) abort();
	size_t n = 0;
	enum cairn_code rc = CAIRN_OK;
	while (rc == CAIRN_OK && *p->at != quote) {
		if (*p->at == '\0' || *p->at == '\n') {
			rc = bad(p, "a quote that is not closed");
		} else if (*p->at == '\\') {
			p->at++;
			rc = escape(p, quote, out, &n);
		} else {
			out[n++] = *p->at++;
		}
	}
	if (rc) {
		free(out);
		return rc;
	}
	p->at++;
	out[n] = '\0';
	*ret = out;
	return CAIRN_OK;
}

/* ---- selectors --------------------------------------------------------------------------------*/

static char *take(const char *from, const char *to)
{
	char *s = strndup(from, (size_t)(to - from));
	if (s == NULL) abort();
	return s;
}

static enum cairn_code parse_field(struct parser *p, char **ret)
{
	skip_space(p);
	if (*p->at == '"') return parse_quoted(p, ret);
	const char *from = p->at;
	while (is_field_char(*p->at)) p->at++;
	if (p->at == from) return bad(p, "a field name or a quoted one is expected");
	*ret = take(from, p->at);
	return CAIRN_OK;
}

/* The path's first part, and the others joined with dots, as containerd looks labels up. */
static enum cairn_code parse_path(struct parser *p, struct selector *s)
{
	enum cairn_code rc = parse_field(p, &s->name);
	if (rc) return rc;
	s->rest = strdup("");
	if (s->rest == NULL) abort();
	for (;;) {
		skip_space(p);
		if (*p->at != '.') return CAIRN_OK;
		p->at++;
		char *part = NULL;
		rc = parse_field(p, &part);
		if (rc) return rc;
		if (part == NULL) abort();
		size_t n = strlen(s->rest);
		char *joined = realloc(s->rest, n + strlen(part) + 2);
		if (joined == NULL) abort();
		if (n > 0) joined[n++] = '.';
		memcpy(joined + n, part, strlen(part) + 1);
		s->rest = joined;
		free(part);
	}
}

static enum cairn_code parse_value(struct parser *p, struct selector *s)
{
	skip_space(p);
	char c = *p->at;
	if (c == '"' || c == '/' || c == '|') {
		if (c != '"' && s->op != MATCHES) return bad(p, "only ~= takes / and | as quotes");
		return parse_quoted(p, &s->value);
	}
	const char *from = p->at;
	while (*p->at != '\0' && *p->at != ',' && !is_space(*p->at)) p->at++;
	if (p->at == from) return bad(p, "a value is expected");
	s->value = take(from, p->at);
	return CAIRN_OK;
}

static enum cairn_code parse_selector(struct parser *p, struct selector *s)
{
	enum cairn_code rc = parse_path(p, s);
	if (rc) return rc;
	if (*p->at == '\0' || *p->at == ',') return CAIRN_OK;
	static const struct {
		const char *text;
		enum filter_op op;
	} ops[] = {{"==", EQUAL}, {"!=", NOT_EQUAL}, {"~=", MATCHES}};
	size_t n = strspn(p->at, "=!~");
	for (size_t i = 0; i < CAIRN_LEN(ops); i++) {
		if (n == 2 && strncmp(p->at, ops[i].text, 2) == 0) s->op = ops[i].op;
	}
	if (s->op == PRESENT) return bad(p, "an operator (== != ~=) is expected");
	p->at += n;
	rc = parse_value(p, s);
	if (rc) return rc;
	if (s->op == MATCHES) return cairn_regex_compile(s->value, &s->re, p->err);
	return CAIRN_OK;
}

static enum cairn_code parse_one(const char *text, struct one *ret, struct cairn_err *err)
{
	struct parser p = {.text = text, .at = text, .err = err};
	if (*text == '\0') return CAIRN_OK; /* no selector: holds always */
	if (strlen(text) > CAIRN_FILTER_BYTES_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a filter of %zu bytes; at most %d are allowed", strlen(text),
				     CAIRN_FILTER_BYTES_MAX);
	}
	ret->list = calloc(CAIRN_FILTER_SELECTORS_MAX, sizeof(ret->list[0]));
	if (ret->list == NULL) abort();
	for (;;) {
		if (ret->n == CAIRN_FILTER_SELECTORS_MAX) return bad(&p, "too many selectors");
		enum cairn_code rc = parse_selector(&p, &ret->list[ret->n++]);
		if (rc) return rc;
		skip_space(&p);
		if (*p.at == '\0') return CAIRN_OK;
		if (*p.at != ',') return bad(&p, "a comma or the end is expected");
		p.at++;
	}
}

enum cairn_code cairn_filter_parse(char *const *texts, size_t n, struct cairn_filter **ret,
				   struct cairn_err *err)
{
	if (n == 0) {
		*ret = NULL;
		return CAIRN_OK;
	}
	if (n > CAIRN_FILTERS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%zu filters; at most %d are allowed", n, CAIRN_FILTERS_MAX);
	}
	struct cairn_filter *filter = calloc(1, sizeof(*filter) + n * sizeof(filter->any[0]));
	if (filter == NULL) abort();
	filter->n = n;
	for (size_t i = 0; i < n; i++) {
		enum cairn_code rc = parse_one(texts[i], &filter->any[i], err);
		if (rc == CAIRN_OK) continue;
		cairn_filter_free(filter);
		return rc;
	}
	*ret = filter;
	return CAIRN_OK;
}

void cairn_filter_free(struct cairn_filter *filter)
{
	if (filter == NULL) return;
	for (size_t i = 0; i < filter->n; i++) {
		struct one *one = &filter->any[i];
		for (size_t k = 0; k < one->n; k++) {
			free(one->list[k].name);
			free(one->list[k].rest);
			free(one->list[k].value);
			cairn_regex_free(one->list[k].re);
		}
		free(one->list);
	}
	free(filter);
}

/* ---- matching ---------------------------------------------------------------------------------*/

static bool selector_holds(const struct selector *s, cairn_filter_field_fn *field, const void *obj)
{
	const char *value = field(obj, s->name, s->rest);
	const char *text = value != NULL ? value : "";
	switch (s->op) {
	case PRESENT:
		return value != NULL;
	case EQUAL:
		return value != NULL && strcmp(value, s->value) == 0;
	case NOT_EQUAL:
		return strcmp(text, s->value) != 0;
	case MATCHES:
	default:
		return cairn_regex_match(s->re, text);
	}
}

bool cairn_filter_match(const struct cairn_filter *filter, cairn_filter_field_fn *field,
			const void *obj)
{
	if (filter == NULL) return true;
	for (size_t i = 0; i < filter->n; i++) {
		const struct one *one = &filter->any[i];
		size_t k = 0;
		while (k < one->n && selector_holds(&one->list[k], field, obj)) k++;
		if (k == one->n) return true;
	}
	return false;
}
