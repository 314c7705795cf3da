/* Is what somebody else gets for us still worth waiting for? Pure: time is an argument. Used by
 * whoever waits: a pull (plugin/content_wait.h), a preheat, a repair.
 *
 * A wait is given up when nothing came for a while, or, once something has come, when it is slower
 * than a floor: judged over ten seconds, so that one pause of a busy link does not decide. */
#ifndef CAIRN_PLUGIN_PATIENCE_H
#define CAIRN_PLUGIN_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

#define CAIRN_PATIENCE_MS 60000 /* without any progress: the longest of all waits */
#define CAIRN_PATIENCE_RATE_MS                                                                     \
	15000 /* a rate is judged over so long: a slow node is replaced before */

struct cairn_patience {
	int64_t stall_ms;  /* without a byte */
	uint64_t min_rate; /* bytes a second */

	/* private */
	uint64_t done;		     /* bytes now */
	uint64_t mark, node_mark;    /* and when the present window of time began */
	int64_t changed_ms, mark_ms; /* when done changed last; when the window began */
	bool counting;		     /* something has come */
};

void cairn_patience_begin(struct cairn_patience *p, uint64_t done, int64_t now_ms);

/* done: bytes that are there; it may go back when somebody begins again. node: bytes that came to
 * this node since some time, of all that it gets in the same way: while they come fast enough
 * together, one of many is not held to the floor. */
bool cairn_patience_lasts(struct cairn_patience *p, uint64_t done, uint64_t node, int64_t now_ms);

/* When to look again, at the latest: this soon. */
#define CAIRN_PATIENCE_LOOK_MS 250

/* Milliseconds of boot time. */
int64_t cairn_patience_now(void);

#endif
