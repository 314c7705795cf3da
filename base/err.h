/* The error value: a gRPC status code and a message that a stranger can act on.
 *
 * It lives on the caller's stack; there is nothing to free. A fallible function returns its code,
 * sets outputs only on success and *err only on failure; err is never NULL.
 * Codes NOT_FOUND and ALREADY_EXISTS are protocol towards containerd: they are set deliberately,
 * never derived from ENOENT or EEXIST. */
#ifndef CAIRN_BASE_ERR_H
#define CAIRN_BASE_ERR_H

#include <stdarg.h>

#include "base/own.h"

/* The 17 gRPC status codes, with the numbers of the gRPC specification (statuscodes.md). */
enum cairn_code {
	CAIRN_OK = 0,
	CAIRN_CANCELLED = 1,
	CAIRN_UNKNOWN = 2,
	CAIRN_INVALID_ARGUMENT = 3,
	CAIRN_DEADLINE_EXCEEDED = 4,
	CAIRN_NOT_FOUND = 5,
	CAIRN_ALREADY_EXISTS = 6,
	CAIRN_PERMISSION_DENIED = 7,
	CAIRN_RESOURCE_EXHAUSTED = 8,
	CAIRN_FAILED_PRECONDITION = 9,
	CAIRN_ABORTED = 10,
	CAIRN_OUT_OF_RANGE = 11,
	CAIRN_UNIMPLEMENTED = 12,
	CAIRN_INTERNAL = 13,
	CAIRN_UNAVAILABLE = 14,
	CAIRN_DATA_LOSS = 15,
	CAIRN_UNAUTHENTICATED = 16,
};

struct cairn_err {
	enum cairn_code code;
	char msg[508]; /* always terminated; a longer message is cut */
};

/* Set the error; returns code, so that `return cairn_err_set(err, …)` reads well. */
enum cairn_code cairn_err_set(struct cairn_err *err, enum cairn_code code, const char *fmt, ...)
	CAIRN_PRINTF(3, 4);

/* Set the error from an errno value and append its text. ENOSPC and EDQUOT become
 * RESOURCE_EXHAUSTED, every other number INTERNAL. */
enum cairn_code cairn_err_sys(struct cairn_err *err, int errnum, const char *fmt, ...)
	CAIRN_PRINTF(3, 4);

/* Put a fact in front of the message: "import /x: open y: Permission denied". Keeps the code. */
enum cairn_code cairn_err_wrap(struct cairn_err *err, const char *fmt, ...) CAIRN_PRINTF(2, 3);

/* "NotFound" for CAIRN_NOT_FOUND, as people write the codes; "Unknown" for anything else. */
const char *cairn_code_name(enum cairn_code code);

#endif
