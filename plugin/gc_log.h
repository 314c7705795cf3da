/* What garbage collection did, a line each: what went, what stays beyond its time and why, and a
 * summary of the pass. The daemon's log has it at its levels, and the file, where one is
 * configured, has all of it. */
#ifndef CAIRN_PLUGIN_GC_LOG_H
#define CAIRN_PLUGIN_GC_LOG_H

#include <pthread.h>

#include "plugin/gc_pass.h"

/* Threads: internally locked. */
struct cairn_gc_log {
	pthread_mutex_t mu;
	char *path;   /* guarded by mu, but for the one who changes it; "": none */
	int fd;	      /* guarded by mu; -1: none */
	bool failing; /* guarded by mu: the last line could not be written, which was said once */
};

/* Errors: INTERNAL, RESOURCE_EXHAUSTED (the file cannot be opened). */
CAIRN_CHECKED enum cairn_code cairn_gc_log_open(struct cairn_gc_log *log, const char *path,
						struct cairn_err *err);
/* The same path anew, after it was moved away. Logs what comes of it; the old one stays if it
 * cannot be opened. */
void cairn_gc_log_reopen(struct cairn_gc_log *log);
/* Another file. Errors: as for open; then the old one stays. Threads: this and reopen one at a
 * time. */
CAIRN_CHECKED enum cairn_code cairn_gc_log_set(struct cairn_gc_log *log, const char *path,
					       struct cairn_err *err);
void cairn_gc_log_close(struct cairn_gc_log *log);

/* blobs[i] of the pass is gone. */
void cairn_gc_log_evicted(struct cairn_gc_log *log, const struct cairn_gc_pass *pass, size_t i);

/* The rest, at its end. keep_ns: only blobs that were not used for so long are worth a line that
 * says why they stay. */
void cairn_gc_log_pass(struct cairn_gc_log *log, const struct cairn_gc_pass *pass, int64_t keep_ns);

#endif
