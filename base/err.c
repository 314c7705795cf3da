#include "base/err.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Where a text was cut, its last character may be half there: bytes of which no one is whole are
 * taken away, since messages go into protobuf strings, which must be UTF-8. */
static size_t cut_at_character(char *buf, size_t n)
{
	size_t at = n;
	while (at > 0 && n - at < 3 && ((unsigned char)buf[at - 1] & 0xc0) == 0x80) at--;
	unsigned char lead = at > 0 ? (unsigned char)buf[at - 1] : 0;
	size_t want = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
	if (want > n - at) n = at - 1;
	buf[n] = '\0';
	return n;
}

/* Appends at most what fits; snprintf's own truncation warning is why this is a helper. */
__attribute__((format(printf, 4, 0))) static size_t append(char *buf, size_t cap, size_t at,
							   const char *fmt, va_list ap)
{
	if (at + 1 >= cap) return at;
	int n = vsnprintf(buf + at, cap - at, fmt, ap);
	if (n < 0) return at;
	return (size_t)n >= cap - at ? cut_at_character(buf, cap - 1) : at + (size_t)n;
}

static size_t append_text(char *buf, size_t cap, size_t at, const char *text)
{
	size_t n = strlen(text);
	if (at + 1 >= cap) return at;
	bool cut = n > cap - 1 - at;
	if (cut) n = cap - 1 - at;
	memcpy(buf + at, text, n);
	buf[at + n] = '\0';
	return cut ? cut_at_character(buf, at + n) : at + n;
}

enum cairn_code cairn_err_set(struct cairn_err *err, enum cairn_code code, const char *fmt, ...)
{
	va_list ap;
	err->code = code;
	err->msg[0] = '\0';
	va_start(ap, fmt);
	append(err->msg, sizeof(err->msg), 0, fmt, ap);
	va_end(ap);
	return code;
}

enum cairn_code cairn_err_sys(struct cairn_err *err, int errnum, const char *fmt, ...)
{
	char text[128];
	va_list ap;
	err->msg[0] = '\0';
	va_start(ap, fmt);
	size_t at = append(err->msg, sizeof(err->msg), 0, fmt, ap);
	va_end(ap);
	at = append_text(err->msg, sizeof(err->msg), at, ": ");
	append_text(err->msg, sizeof(err->msg), at, strerror_r(errnum, text, sizeof(text)));
	bool full = errnum == ENOSPC || errnum == EDQUOT;
	err->code = full ? CAIRN_RESOURCE_EXHAUSTED : CAIRN_INTERNAL;
	return err->code;
}

enum cairn_code cairn_err_wrap(struct cairn_err *err, const char *fmt, ...)
{
	char inner[sizeof(err->msg)];
	va_list ap;
	memcpy(inner, err->msg, sizeof(inner));
	err->msg[0] = '\0';
	va_start(ap, fmt);
	size_t at = append(err->msg, sizeof(err->msg), 0, fmt, ap);
	va_end(ap);
	at = append_text(err->msg, sizeof(err->msg), at, ": ");
	append_text(err->msg, sizeof(err->msg), at, inner);
	return err->code;
}

const char *cairn_code_name(enum cairn_code code)
{
	static const char *const names[] = {
		"OK",
		"Canceled",
		"Unknown",
		"InvalidArgument",
		"DeadlineExceeded",
		"NotFound",
		"AlreadyExists",
		"PermissionDenied",
		"ResourceExhausted",
		"FailedPrecondition",
		"Aborted",
		"OutOfRange",
		"Unimplemented",
		"Internal",
		"Unavailable",
		"DataLoss",
		"Unauthenticated",
	};
	return (size_t)code < CAIRN_LEN(names) ? names[code] : "Unknown";
}
