/* Bytes that somebody else keeps alive: how file memory travels from the cache to a socket
 * uncopied. */
#ifndef CAIRN_BASE_VIEW_H
#define CAIRN_BASE_VIEW_H

#include <stddef.h>
#include <stdint.h>

/* Borrowed bytes, valid as long as whoever lends them says. */
struct cairn_span {
	const uint8_t *data;
	size_t len;
};

/* Owned bytes: whoever holds the view calls cairn_view_release exactly once, on any thread. */
struct cairn_view {
	const uint8_t *data;
	size_t len;
	void (*release)(void *owner); /* NULL: nothing to release */
	void *owner;
};

static inline void cairn_view_release(struct cairn_view *view)
{
	if (view->release != NULL) view->release(view->owner);
	*view = (struct cairn_view){0};
}

#endif
