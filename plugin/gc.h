/* Garbage collection, for the services: passes on request, and what a pass would decide. */
#ifndef CAIRN_PLUGIN_GC_H
#define CAIRN_PLUGIN_GC_H

#include "plugin/gc_pass.h"

struct cairn_gc_request {
	bool dry_run;
	const char *prune; /* NULL, or an image's name */
	int64_t prune_keep;
	uint64_t make_room;	  /* bytes that are to be freed, whatever the marks say; 0: none */
	bool (*go_on)(void *arg); /* NULL: always on */
	void *arg;
};

/* Ask containerd and run a pass now; waits for one that runs already. Blocks for as long as that
 * takes. Errors: CANCELLED (go_on said no before it began, or the daemon stops). Where either comes
 * later, the pass ends early. */
CAIRN_CHECKED enum cairn_code cairn_gc_run(struct cairn_gc *gc,
					   const struct cairn_gc_request *request,
					   struct cairn_gc_pass *ret, struct cairn_err *err);

/* How many bytes may be written by others than pulls: min_free stays free. Asks the disk. */
uint64_t cairn_gc_room(struct cairn_gc *gc);

/* What a pass would decide by the last listing of containerd: immutable, and counted, since those
 * who ask at the same time share one. */
struct cairn_gc_look {
	_Atomic unsigned refs;
	struct cairn_gc_pass pass;
};

/* Decided after the call began. Changes nothing and waits for no pass, but walks all blobs, one
 * look at a time. Blocks. To free the last reference takes its time, too: on no polling thread. */
struct cairn_gc_look *cairn_gc_look(struct cairn_gc *gc);
void cairn_gc_look_unref(struct cairn_gc_look *look); /* NULL is fine */

#endif
