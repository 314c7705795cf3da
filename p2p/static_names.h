/* The peers of a list, looked up again and again. getaddrinfo blocks as long as it likes, so it has
 * a thread of its own, which is left behind at the end. What a name stood for is kept while it
 * cannot be looked up. Threads: internally locked; nothing here blocks. */
#ifndef CAIRN_P2P_STATIC_NAMES_H
#define CAIRN_P2P_STATIC_NAMES_H

#include "p2p/static.h"

#define NAMES_RESOLVE_MS 10000
#define NAMES_ADDRESSES_MAX 256 /* of one name */

struct names;

/* Errors: INVALID_ARGUMENT (no host:port), INTERNAL. */
CAIRN_CHECKED enum cairn_code names_start(const struct cairn_static_opts *opts, struct names **ret,
					  struct cairn_err *err);
void names_stop(struct names *names); /* NULL is fine */

/* What from has found for a name that names cannot look up is found there, too. */
void names_inherit(struct names *names, struct names *from);

/* All addresses, each once; at most max are filled in; returns how many there are. *ret_tried: each
 * name was looked up once, or is numbers. err: the first that cannot be looked up, and why; "". */
size_t names_get(struct names *names, struct cairn_node_id *ret, size_t max, bool *ret_tried,
		 char err[static 256]);

#endif
