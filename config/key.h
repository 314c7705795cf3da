/* The table of keys: one row says all that is known of a key. config.c has it, compare.c reads it.
 */
#ifndef CAIRN_CONFIG_KEY_H
#define CAIRN_CONFIG_KEY_H

#include "config/config.h"

enum type {
	TYPE_BOOL,
	TYPE_INT,
	TYPE_DURATION,
	TYPE_SIZE,
	TYPE_AMOUNT,
	TYPE_STRING,
	TYPE_PATH,	   /* absolute */
	TYPE_PATH_OR_NONE, /* absolute, or "" */
	TYPE_HOST_OR_NONE, /* host:port, or "" */
	TYPE_CHOICE,
	TYPE_LEVEL,
	TYPE_LIST,
	TYPE_MAP,
	TYPE_REGISTRIES,
};

/* When another value acts. 0 is left out, so that a row that does not say it is found. */
enum acts {
	RESTART = 1, /* when the daemon is started again */
	RELOAD,	     /* when the file is read again (SIGHUP) */
};

/* In the order in which the table reads best.
 * NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding) */
struct key {
	const char *path;
	enum type type;
	const char *def;     /* its text; of a list, the only item */
	const char *allowed; /* for messages; for a choice: the first is false, the second true */
	uint64_t min, max;   /* of numbers, in their unit */
	size_t at;	     /* in struct cairn_config */
	enum acts acts;
};

extern const struct key cairn_config_keys[];
extern const size_t cairn_config_n_keys;

/* Do both have the same value for it? */
bool cairn_config_same(const struct key *key, const struct cairn_config *a,
		       const struct cairn_config *b);

#endif
