/* Windows: counted read-only mappings of a few MiB, shared by the readers of a file. */
#ifndef CAIRN_CACHE_WINDOW_H
#define CAIRN_CACHE_WINDOW_H

#include "cache/store.h"

/* The window number `index` of the file with one more user, or NULL if there is none yet. */
struct window *window_get_locked(struct cairn_cache *c, struct blob_file *f, uint64_t index)
	CAIRN_REQUIRES(&c->read_mu);

/* Somebody has a view of the file. */
bool windows_in_use_locked(struct cairn_cache *c, const struct blob_file *f)
	CAIRN_REQUIRES(&c->read_mu);

/* A view of [offset, offset + len), which lies in one window and is proved. w is from
 * window_get_locked, may be NULL, and is taken over. */
enum cairn_view_outcome window_view(struct cairn_cache *c, struct blob_file *f, struct window *w,
				    uint64_t offset, uint64_t len, bool may_block,
				    struct cairn_view *ret, struct cairn_err *err);

/* The file goes: idle windows too, the others when their last view is released. */
void windows_orphan(struct cairn_cache *c, struct blob_file *f);

/* Unmap what has been idle since before then_boot_ns. */
void windows_trim(struct cairn_cache *c, int64_t then_boot_ns);

#endif
