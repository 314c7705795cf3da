/* logfmt on stderr, one event a line: lvl=warn ev=blob_damaged digest=sha256:… err="…".
 *
 * Values are quoted as needed, so text from outside is safe to pass. Never pass secrets.
 * Threads: any; one line is one write(2). */
#ifndef CAIRN_BASE_LOG_H
#define CAIRN_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/own.h"

enum cairn_log_level { CAIRN_LOG_DEBUG, CAIRN_LOG_INFO, CAIRN_LOG_WARN, CAIRN_LOG_ERROR };

struct cairn_field {
	const char *key;
	const char *str; /* NULL: the value is num */
	int64_t num;
};

#define CAIRN_STR(k, v) ((struct cairn_field){(k), (v), 0})
#define CAIRN_NUM(k, v) ((struct cairn_field){(k), NULL, (int64_t)(v)})
#define CAIRN_ERRF(e) ((struct cairn_field){"err", (e)->msg, 0})

/* Lines below this level are dropped. Default: info. */
void cairn_log_set_level(enum cairn_log_level level);
enum cairn_log_level cairn_log_level(void);

/* "debug", "info", "warn", "error"; false if the name is none of them. */
CAIRN_CHECKED bool cairn_log_parse_level(const char *name, enum cairn_log_level *ret);

void cairn_log_emit(enum cairn_log_level level, const char *event, const struct cairn_field *fields,
		    size_t n);

/* The same line into another file, whatever the level. Returns false if it could not be written. */
bool cairn_log_emit_to(int fd, enum cairn_log_level level, const char *event,
		       const struct cairn_field *fields, size_t n);

/* cairn_log(CAIRN_LOG_INFO, "ready", CAIRN_STR("listen", path), CAIRN_NUM("blobs", n)) */
#define cairn_log(level, event, ...)                                                               \
	cairn_log_emit((level), (event), (const struct cairn_field[]){__VA_ARGS__},                \
		       sizeof((const struct cairn_field[]){__VA_ARGS__}) /                         \
			       sizeof(struct cairn_field))

#endif
