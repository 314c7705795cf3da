/* What containerd has recorded, read from its own database file (meta.db) without containerd: each
 * (namespace, digest) under v1/<namespace>/content/blob/<digest>.
 *
 * The file is somebody else's: it is opened for reading only, every offset and count in it is
 * checked, and work is bounded by its size. */
#ifndef CAIRN_PLUGIN_BOLTDB_H
#define CAIRN_PLUGIN_BOLTDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/own.h"

#define CAIRN_BOLTDB_RECORDS_MAX (1u << 22)
#define CAIRN_BOLTDB_NAMESPACES_MAX 65536u
#define CAIRN_BOLTDB_NAMESPACE_LEN_MAX 76 /* containerd's own limit */

struct cairn_record {
	uint32_t ns; /* index into namespaces */
	struct cairn_digest digest;
};

struct cairn_records {
	char **namespaces;
	size_t n_namespaces;
	struct cairn_record *list;
	size_t n;
	uint64_t foreign; /* records whose digests are of a kind that cairn cannot hold */
};

/* A containerd that runs holds a lock on its database. *ret_running tells; it is set once the file
 * is open, also when reading fails afterwards. While containerd runs, the file is read between two
 * of its transactions, which may take some tries; while it does not, a shared lock keeps it from
 * changing the file until this returns.
 * Errors: NOT_FOUND (no such file), PERMISSION_DENIED, DATA_LOSS (not a database, or damaged),
 * UNAVAILABLE (it kept changing), RESOURCE_EXHAUSTED (limits), INTERNAL. Blocks. */
CAIRN_CHECKED enum cairn_code cairn_boltdb_read(const char *path, struct cairn_records *ret,
						bool *ret_running, struct cairn_err *err);

void cairn_records_fini(struct cairn_records *records);

#endif
