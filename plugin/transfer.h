/* Import and Export: blobs between the store and a containerd content directory
 * (DIR/blobs/<alg>/<hex>, DIR/ingest), and what containerd records but is absent afterwards.
 *
 * Both may be stopped and run again: what is there already is passed over. */
#ifndef CAIRN_PLUGIN_TRANSFER_H
#define CAIRN_PLUGIN_TRANSFER_H

#include "cache/cache.h"
#include "plugin/job.h"

#define CAIRN_TRANSFER_ABSENT_MAX 500 /* named in the report; the rest is counted */
#define CAIRN_TRANSFER_PATH_MAX 3840  /* of DIR: PATH_MAX less what is put after it */

struct cairn_absent {
	char *ns;
	struct cairn_digest digest;
};

/* What containerd's database says, compared with where the blobs should be now. */
struct cairn_records_report {
	char *path;   /* of the database */
	bool known;   /* it could be read */
	bool missing; /* there is none at path */
	bool running; /* containerd had it open */
	uint64_t recorded, absent_total;
	size_t n_absent;
	struct cairn_absent absent[CAIRN_TRANSFER_ABSENT_MAX];
	char error[512];
};

struct cairn_transfer {
	struct cairn_cache *cache;
	const char *state_dir; /* the store's own directory, which DIR must not be */
	const char *directory; /* DIR, absolute */
	const char *metadata;  /* containerd's meta.db, absolute; "": where it is beside DIR */
	struct cairn_records_report report;
	uint64_t bytes_done; /* of the blobs that are through */
};

/* Errors: INVALID_ARGUMENT (a path is not absolute, or too long). */
CAIRN_CHECKED enum cairn_code cairn_transfer_init(struct cairn_transfer *t, struct cairn_err *err);
void cairn_transfer_fini(struct cairn_transfer *t);

/* Job functions; arg is the struct cairn_transfer. A blob that fails is a finding, and the others
 * go on. Errors: NOT_FOUND (DIR is no content directory), FAILED_PRECONDITION (DIR is the store's
 * own), RESOURCE_EXHAUSTED (disk full; run again when there is room), CANCELLED, INTERNAL. */
enum cairn_code cairn_transfer_import(struct cairn_job *job, void *arg, struct cairn_err *err);
enum cairn_code cairn_transfer_export(struct cairn_job *job, void *arg, struct cairn_err *err);

#endif
