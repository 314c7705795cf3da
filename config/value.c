#include "config/value.h"

#include <string.h>

/* The number at *at, which moves behind it. */
static bool take_number(const char **at, uint64_t *ret)
{
	const char *s = *at;
	uint64_t v = 0;
	for (; *s >= '0' && *s <= '9'; s++) {
		uint64_t digit = (uint64_t)(*s - '0');
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v)) {
			return false;
		}
	}
	if (s == *at) return false;
	*at = s;
	*ret = v;
	return true;
}

bool cairn_value_int(const char *text, uint64_t *ret)
{
	uint64_t v;
	if (!take_number(&text, &v) || *text != '\0') return false;
	*ret = v;
	return true;
}

static bool take_time_unit(const char **at, uint64_t *ret_ms)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}};
	for (size_t i = 0; i < CAIRN_LEN(units); i++) { /* "ms" before "m" */
		size_t n = strlen(units[i].name);
		if (strncmp(*at, units[i].name, n) != 0) continue;
		*at += n;
		*ret_ms = units[i].ms;
		return true;
	}
	return false;
}

bool cairn_value_duration(const char *text, int64_t *ret_ms)
{
	uint64_t sum = 0;
	if (strcmp(text, "0") == 0) {
		*ret_ms = 0;
		return true;
	}
	do {
		uint64_t n, unit;
		if (!take_number(&text, &n) || !take_time_unit(&text, &unit)) return false;
		if (__builtin_mul_overflow(n, unit, &n)) return false;
		if (__builtin_add_overflow(sum, n, &sum) || sum > INT64_MAX / 1000000) return false;
	} while (*text != '\0');
	*ret_ms = (int64_t)sum;
	return true;
}

bool cairn_value_size(const char *text, uint64_t *ret)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} units[] = {
		{"", 1},
		{"B", 1},
		{"KiB", UINT64_C(1) << 10},
		{"MiB", UINT64_C(1) << 20},
		{"GiB", UINT64_C(1) << 30},
		{"TiB", UINT64_C(1) << 40},
		{"KB", UINT64_C(1000)},
		{"MB", UINT64_C(1000000)},
		{"GB", UINT64_C(1000000000)},
		{"TB", UINT64_C(1000000000000)},
	};
	uint64_t n;
	if (!take_number(&text, &n)) return false;
	for (size_t i = 0; i < CAIRN_LEN(units); i++) {
		if (strcmp(text, units[i].name) == 0) {
			return !__builtin_mul_overflow(n, units[i].bytes, ret);
		}
	}
	return false;
}

bool cairn_value_amount(const char *text, struct cairn_config_amount *ret)
{
	const char *at = text;
	uint64_t n;
	if (take_number(&at, &n) && strcmp(at, "%") == 0) {
		if (n > 100) return false;
		*ret = (struct cairn_config_amount){true, n};
		return true;
	}
	if (!cairn_value_size(text, &n)) return false;
	*ret = (struct cairn_config_amount){false, n};
	return true;
}

bool cairn_value_is_host_port(const char *text)
{
	const char *colon = strrchr(text, ':');
	uint64_t port;
	if (colon == NULL || !cairn_value_int(colon + 1, &port) || port > 65535) return false;
	size_t n = (size_t)(colon - text);
	if (n > 0 && text[0] == '[') return text[n - 1] == ']';
	return memchr(text, ':', n) == NULL && strcspn(text, " \t/") == strlen(text);
}
