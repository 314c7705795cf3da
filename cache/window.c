#include "cache/window.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/mem.h"

#define PAGE_BYTES UINT64_C(4096)
#define READAHEAD_BYTES WINDOW_BYTES /* asked for ahead of a reader that had to wait */

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

struct window {
	struct cairn_cache *cache;
	uint8_t *addr;
	size_t len;
	uint64_t index;
	/* guarded by read_mu */
	struct blob_file *file; /* NULL: orphaned */
	struct window *next;	/* of the file */
	unsigned users;
	struct window *lru_prev, *lru_next; /* while users is 0 */
	int64_t idle_since_ns;
};

static void idle_remove_locked(struct cairn_cache *c, struct window *w) CAIRN_REQUIRES(&c->read_mu)
{
	*(w->lru_prev != NULL ? &w->lru_prev->lru_next : &c->windows_head) = w->lru_next;
	*(w->lru_next != NULL ? &w->lru_next->lru_prev : &c->windows_tail) = w->lru_prev;
	w->lru_prev = w->lru_next = NULL;
}

static void idle_add_locked(struct cairn_cache *c, struct window *w) CAIRN_REQUIRES(&c->read_mu)
{
	w->lru_prev = c->windows_tail;
	w->lru_next = NULL;
	*(c->windows_tail != NULL ? &c->windows_tail->lru_next : &c->windows_head) = w;
	c->windows_tail = w;
}

static void unlink_from_file_locked(struct window *w)
{
	struct window **at = &w->file->windows;
	while (*at != w) at = &(*at)->next;
	*at = w->next;
	w->file = NULL;
}

static void window_free(struct window *w)
{
	munmap(w->addr, w->len);
	free(w);
}

/* Take the oldest idle window out, if there is a reason to; the caller frees it unlocked. */
static struct window *take_idle_locked(struct cairn_cache *c, int64_t then_boot_ns)
	CAIRN_REQUIRES(&c->read_mu)
{
	struct window *w = c->windows_head;
	if (w == NULL) return NULL;
	if (c->windows_bytes <= WINDOWS_BYTES_MAX && w->idle_since_ns >= then_boot_ns) return NULL;
	idle_remove_locked(c, w);
	unlink_from_file_locked(w);
	c->windows_bytes -= w->len;
	return w;
}

void windows_trim(struct cairn_cache *c, int64_t then_boot_ns)
{
	for (;;) {
		lock(&c->read_mu);
		struct window *w = take_idle_locked(c, then_boot_ns);
		unlock(&c->read_mu);
		if (w == NULL) return;
		window_free(w);
	}
}

void windows_orphan(struct cairn_cache *c, struct blob_file *f)
{
	for (;;) {
		lock(&c->read_mu);
		struct window *w = f->windows;
		if (w == NULL) {
			unlock(&c->read_mu);
			return;
		}
		bool idle = w->users == 0;
		f->windows = w->next;
		w->file = NULL;
		if (idle) {
			idle_remove_locked(c, w);
			c->windows_bytes -= w->len;
		}
		unlock(&c->read_mu);
		if (idle) window_free(w);
	}
}

struct window *window_get_locked(struct cairn_cache *c, struct blob_file *f, uint64_t index)
{
	for (struct window *w = f->windows; w != NULL; w = w->next) {
		if (w->index != index) continue;
		if (w->users++ == 0) idle_remove_locked(c, w);
		return w;
	}
	return NULL;
}

bool windows_in_use_locked(struct cairn_cache *c, const struct blob_file *f)
{
	(void)c;
	for (const struct window *w = f->windows; w != NULL; w = w->next) {
		if (w->users > 0) return true;
	}
	return false;
}

static void window_put(struct window *w)
{
	struct cairn_cache *c = w->cache;
	int64_t now = cairn_boot_ns(c->clock);
	struct window *drop = NULL;
	lock(&c->read_mu);
	if (--w->users == 0) {
		if (w->file == NULL) {
			c->windows_bytes -= w->len;
			drop = w;
		} else {
			w->idle_since_ns = now;
			idle_add_locked(c, w);
			drop = take_idle_locked(c, INT64_MIN);
		}
	}
	unlock(&c->read_mu);
	if (drop != NULL) window_free(drop);
}

static void release_window(void *owner)
{
	window_put(owner);
}

/* Map it, unless somebody else was faster. */
static struct window *window_map(struct cairn_cache *c, struct blob_file *f, uint64_t index,
				 struct cairn_err *err)
{
	uint64_t from = index * WINDOW_BYTES, left = f->blob->size - from;
	size_t len = (size_t)(left < WINDOW_BYTES ? left : WINDOW_BYTES);
	void *addr = mmap(NULL, len, PROT_READ, MAP_SHARED, f->fd, (off_t)from);
	if (addr == MAP_FAILED) {
		cairn_err_sys(err, errno, "map a blob's file");
		return NULL;
	}
	struct window *w = mem_zero(sizeof(*w));
	*w = (struct window){
		.cache = c, .addr = addr, .len = len, .index = index, .file = f, .users = 1};
	lock(&c->read_mu);
	struct window *other = window_get_locked(c, f, index);
	if (other == NULL) {
		w->next = f->windows;
		f->windows = w;
		c->windows_bytes += len;
	}
	bool over = c->windows_bytes > WINDOWS_BYTES_MAX;
	unlock(&c->read_mu);
	if (other != NULL) window_free(w);
	if (over) windows_trim(c, INT64_MIN);
	return other != NULL ? other : w;
}

static bool is_resident(const uint8_t *from, size_t len)
{
	unsigned char vec[WINDOW_BYTES / PAGE_BYTES];
	size_t pages = (len + PAGE_BYTES - 1) / PAGE_BYTES;
	if (mincore((void *)(uintptr_t)from, len, vec) != 0) return false;
	for (size_t i = 0; i < pages; i++) {
		if ((vec[i] & 1) == 0) return false;
	}
	return true;
}

/* The bytes by read(2): for kernels that cannot populate (before 5.14), and when populating failed,
 * since this tells why. */
static enum cairn_view_outcome copy_view(struct cairn_cache *c, struct blob_file *f,
					 uint64_t offset, uint64_t len, struct cairn_view *ret,
					 struct cairn_err *err)
{
	char why[128];
	uint8_t *buf = mem_zero((size_t)len);
	int rc = read_exactly(f->fd, buf, (size_t)len, offset);
	if (rc != 0) {
		free(buf);
		if (blob_damaged(c, f->blob, strerror_r(rc, why, sizeof(why)), err) != CAIRN_OK) {
			return CAIRN_VIEW_FAILED;
		}
	}
	*ret = (struct cairn_view){buf, (size_t)len, free, buf};
	return CAIRN_VIEW_OK;
}

/* Have the pages there, so that an I/O error is an error here and no signal later. WOULD_BLOCK:
 * *ret is a copy instead. */
static enum cairn_view_outcome populate(struct cairn_cache *c, struct blob_file *f,
					struct window *w, uint64_t offset, uint64_t len,
					struct cairn_view *ret, struct cairn_err *err)
{
	uint64_t at = offset % WINDOW_BYTES, from = at / PAGE_BYTES * PAGE_BYTES;
	(void)posix_fadvise(f->fd, (off_t)offset, (off_t)(len + READAHEAD_BYTES),
			    POSIX_FADV_WILLNEED);
	if (madvise(w->addr + from, (size_t)(at + len - from), MADV_POPULATE_READ) == 0) {
		return CAIRN_VIEW_OK;
	}
	enum cairn_view_outcome out = copy_view(c, f, offset, len, ret, err);
	return out == CAIRN_VIEW_OK ? CAIRN_VIEW_WOULD_BLOCK : out;
}

enum cairn_view_outcome window_view(struct cairn_cache *c, struct blob_file *f, struct window *w,
				    uint64_t offset, uint64_t len, bool may_block,
				    struct cairn_view *ret, struct cairn_err *err)
{
	uint64_t at = offset % WINDOW_BYTES, from = at / PAGE_BYTES * PAGE_BYTES;
	enum cairn_view_outcome out = CAIRN_VIEW_OK;
	if (w == NULL) w = window_map(c, f, offset / WINDOW_BYTES, err);
	if (w == NULL) return CAIRN_VIEW_FAILED;
	bool copied = false;
	if (!is_resident(w->addr + from, (size_t)(at + len - from))) {
		out = CAIRN_VIEW_WOULD_BLOCK;
		if (may_block) {
			out = populate(c, f, w, offset, len, ret, err);
			copied = out == CAIRN_VIEW_WOULD_BLOCK; /* *ret is a copy */
			if (copied) out = CAIRN_VIEW_OK;
		}
	}
	if (out == CAIRN_VIEW_OK && !copied) {
		*ret = (struct cairn_view){w->addr + at, (size_t)len, release_window, w};
	}
	if (out == CAIRN_VIEW_OK) atomic_fetch_add(&c->read_bytes, len);
	if (out != CAIRN_VIEW_OK || copied) window_put(w);
	return out;
}
