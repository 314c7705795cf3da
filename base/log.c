#include "base/log.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048 /* a longer line is cut, and still ends in a newline */

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static _Atomic int min_level = CAIRN_LOG_INFO;

struct line {
	char buf[LINE_MAX_BYTES];
	size_t len;
};

static void put(struct line *l, const char *s, size_t n)
{
	size_t room = sizeof(l->buf) - 1 - l->len;
	if (n > room) n = room;
	memcpy(l->buf + l->len, s, n);
	l->len += n;
}

static void put_value(struct line *l, const char *v)
{
	bool plain = v[0] != '\0';
	for (const char *p = v; *p != '\0'; p++) {
		unsigned char c = (unsigned char)*p;
		if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= 0x7f) plain = false;
	}
	if (plain) {
		put(l, v, strlen(v));
		return;
	}
	put(l, "\"", 1);
	for (const char *p = v; *p != '\0'; p++) {
		unsigned char c = (unsigned char)*p;
		char esc[8];
		if (c == '"' || c == '\\') {
			snprintf(esc, sizeof(esc), "\\%c", c);
			put(l, esc, 2);
		} else if (c < ' ' || c >= 0x7f) {
			snprintf(esc, sizeof(esc), "\\x%02x", c);
			put(l, esc, 4);
		} else {
			put(l, p, 1);
		}
	}
	put(l, "\"", 1);
}

void cairn_log_set_level(enum cairn_log_level level)
{
	atomic_store_explicit(&min_level, (int)level, memory_order_relaxed);
}

enum cairn_log_level cairn_log_level(void)
{
	return (enum cairn_log_level)atomic_load_explicit(&min_level, memory_order_relaxed);
}

bool cairn_log_parse_level(const char *name, enum cairn_log_level *ret)
{
	for (size_t i = 0; i < CAIRN_LEN(level_names); i++) {
		if (strcmp(name, level_names[i]) != 0) continue;
		*ret = (enum cairn_log_level)i;
		return true;
	}
	return false;
}

bool cairn_log_emit_to(int fd, enum cairn_log_level level, const char *event,
		       const struct cairn_field *fields, size_t n)
{
	struct line l = {.len = 0};
	put(&l, "lvl=", 4);
	put(&l, level_names[level], strlen(level_names[level]));
	put(&l, " ev=", 4);
	put_value(&l, event);
	for (size_t i = 0; i < n; i++) {
		char num[24];
		put(&l, " ", 1);
		put(&l, fields[i].key, strlen(fields[i].key));
		put(&l, "=", 1);
		if (fields[i].str != NULL) {
			put_value(&l, fields[i].str);
		} else {
			int k = snprintf(num, sizeof(num), "%" PRId64, fields[i].num);
			put(&l, num, (size_t)k);
		}
	}
	l.buf[l.len++] = '\n'; /* put() keeps one byte free */
	return write(fd, l.buf, l.len) == (ssize_t)l.len;
}

void cairn_log_emit(enum cairn_log_level level, const char *event, const struct cairn_field *fields,
		    size_t n)
{
	if (level < cairn_log_level()) return;
	(void)!cairn_log_emit_to(STDERR_FILENO, level, event, fields, n); /* nobody left to tell */
}
