/* From disk to memory, at open. Files say what is here, rows say what it means; where they
 * disagree, a file without a row is referenced, and a referenced row without a file is kept as
 * damaged, because somebody may have a record of either. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/load.h"
#include "cache/mem.h"
#include "cache/store.h"

/* The index is only as good as its disk: the store time of a row is some time until now. */
static int64_t past(const struct cairn_cache *c, int64_t ns)
{
	int64_t now = c->age_offset_ns + c->open_boot_ns;
	return ns < 0 ? 0 : ns < now ? ns : now;
}

static bool good_state(int state)
{
	return state == CAIRN_BLOB_CACHED || state == CAIRN_BLOB_REFERENCED;
}

static void add_row(void *arg, const struct blob_row *row) LOADING
{
	struct loading *l = arg;
	struct cairn_cache *c = l->cache;
	bool usable = row->digest.alg != 0 && row->size <= CAIRN_BLOB_SIZE_MAX;
	if (!usable || blob_find_locked(c, &row->digest) != NULL) return;
	struct blob *b = blob_new(&row->digest, row->size);
	b->state = CAIRN_BLOB_REFERENCED;
	if (!l->unclean && good_state(row->state)) b->state = (uint8_t)row->state;
	b->damaged = row->damaged;
	b->has_row = true;
	b->created_ns = row->created_ns;
	b->updated_ns = row->updated_ns;
	b->used_ns = b->saved_used_ns = past(c, row->used_ns) - c->age_offset_ns;
	b->known = row->known || b->state == CAIRN_BLOB_REFERENCED;
	b->referenced_ns = b->promised_ns = c->open_boot_ns;
	b->labels = labels_unpack(row->labels, row->labels_len);
	if (row->owners_len > 0 && ((const char *)row->owners)[row->owners_len - 1] == '\0') {
		b->owners = mem_copy(row->owners, row->owners_len);
		b->owners_len = row->owners_len;
	}
	blob_insert_locked(c, b);
}

/* ---- the folders of blobs */

static void add_file(struct loading *l, const struct cairn_digest *digest,
		     const struct stat *st) LOADING
{
	struct cairn_cache *c = l->cache;
	struct blob *b = blob_new(digest, (uint64_t)st->st_size);
	b->state = CAIRN_BLOB_REFERENCED;
	b->known = true;
	b->seen = true;
	b->has_row = true; /* a chain, perhaps, which is to go with it */
	b->created_ns = b->updated_ns =
		(int64_t)st->st_mtim.tv_sec * CAIRN_NS_PER_S + st->st_mtim.tv_nsec;
	b->used_ns = b->saved_used_ns = c->open_boot_ns;
	b->referenced_ns = b->promised_ns = c->open_boot_ns;
	blob_insert_locked(c, b);
	writer_add_blob_locked(c, b);
	l->found_files++;
}

static void log_blob(const char *event, const struct blob *b, const char *why)
{
	char text[CAIRN_DIGEST_STR];
	cairn_log(CAIRN_LOG_WARN, event, CAIRN_STR("digest", cairn_digest_format(&b->digest, text)),
		  CAIRN_STR("why", why));
}

/* The row's blob has this file. After an orderly end it is not even looked at. */
static void match_file(struct loading *l, struct blob *b, int dir, const char *name) LOADING
{
	struct stat st;
	b->seen = true;
	if (!l->unclean) return;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
		b->seen = false;
	} else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != b->size) {
		if (!b->damaged) log_blob("blob_damaged", b, "its file has another size");
		blob_set_damaged_locked(l->cache, b, true);
	}
}

static void scan_entry(struct loading *l, uint8_t alg, int dir, const struct dirent *e) LOADING
{
	char text[CAIRN_DIGEST_STR + NAME_MAX];
	struct cairn_digest digest;
	struct cairn_err ignored;
	struct stat st;
	int n = snprintf(text, sizeof(text), "%s:%s", cairn_alg_name(alg), e->d_name);
	if (cairn_digest_parse(text, (size_t)n, &digest, &ignored) != CAIRN_OK) return;
	struct blob *b = blob_find_locked(l->cache, &digest);
	if (b != NULL) {
		match_file(l, b, dir, e->d_name);
	} else if (fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
		   (uint64_t)st.st_size <= CAIRN_BLOB_SIZE_MAX) {
		add_file(l, &digest, &st);
	}
}

static DIR *open_dir(int fd, struct cairn_err *err)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
	if (d == NULL) {
		cairn_err_sys(err, errno, "read a folder of the store");
		if (copy >= 0) close(copy);
	}
	return d;
}

static enum cairn_code scan_blobs(struct loading *l, uint8_t alg, struct cairn_err *err)
{
	int dir = l->cache->blob_fds[alg];
	DIR *d = open_dir(dir, err);
	if (d == NULL) return err->code;
	struct dirent *e;
	errno = 0;
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] != '.') scan_entry(l, alg, dir, e);
		errno = 0;
	}
	enum cairn_code code = errno == 0 ? CAIRN_OK
					  : cairn_err_sys(err, errno, "read the folder %s/blobs/%s",
							  l->cache->dir, cairn_alg_name(alg));
	closedir(d);
	return code;
}

/* Cached blobs without a file, or damaged ones, need no record. */
static void judge(struct loading *l, struct blob *b) LOADING
{
	struct cairn_cache *c = l->cache;
	if (b->seen) {
		blob_drop_if_useless_locked(c, b);
		return;
	}
	if (b->state == CAIRN_BLOB_CACHED) {
		log_blob("blob_dropped", b, "its file is gone");
	} else if (!b->damaged) {
		log_blob("blob_damaged", b, "its file is gone");
	}
	blob_set_damaged_locked(c, b, true);
	blob_drop_if_useless_locked(c, b);
}

static void judge_all(struct loading *l)
{
	for (uint8_t alg = CAIRN_SHA256; alg <= CAIRN_SHA512; alg++) {
		struct table *t = &l->cache->tables[alg];
		struct cairn_digest pos;
		for (struct blob *b = table_after(t, NULL); b != NULL; b = table_after(t, &pos)) {
			pos = b->digest;
			judge(l, b);
		}
	}
}

/* ---- all of it */

static void forget_all(struct cairn_cache *c)
{
	for (uint8_t alg = CAIRN_SHA256; alg <= CAIRN_SHA512; alg++) {
		struct blob *b;
		while ((b = table_after(&c->tables[alg], NULL)) != NULL) {
			table_remove(&c->tables[alg], b);
			blob_unref(b);
		}
	}
	c->stats = (struct cairn_cache_stats){0};
	versions_free(c);
	pins_free(c);
}

static void add_version(void *arg, const struct version_row *row)
{
	struct cairn_cache *c = ((struct loading *)arg)->cache;
	struct version_row bounded = *row;
	bounded.last_ns = past(c, row->last_ns);
	bounded.first_ns =
		row->first_ns < bounded.last_ns ? past(c, row->first_ns) : bounded.last_ns;
	versions_take_row(c, &bounded);
}

static void add_pin(void *arg, const struct pin_row *row)
{
	pins_take_row(((struct loading *)arg)->cache, row);
}

/* Where the store's time goes on: where the last write left it. A new store begins at real time. */
static enum cairn_code load_age(struct loading *l, struct cairn_err *err)
{
	struct cairn_cache *c = l->cache;
	int64_t age = 0;
	enum cairn_code code = index_load_age(c->index, &age, err);
	if (code == CAIRN_OK) {
		bool sane = age > 0 && age < INT64_MAX / 2; /* the year 2116 */
		c->age_offset_ns = (sane ? age : l->real_ns) - c->open_boot_ns;
	}
	return code;
}

static enum cairn_code load_rows(struct loading *l, struct cairn_err *err)
{
	struct cairn_cache *c = l->cache;
	enum cairn_code code = load_age(l, err);
	if (code == CAIRN_OK) code = index_load_blobs(c->index, add_row, l, err);
	if (code == CAIRN_OK) code = index_load_ingests(c->index, load_keep_ingest, l, err);
	if (code == CAIRN_OK) code = index_load_versions(c->index, add_version, l, err);
	if (code == CAIRN_OK) code = index_load_pins(c->index, add_pin, l, err);
	if (code != CAIRN_DATA_LOSS) return code;
	cairn_log(CAIRN_LOG_WARN, "index_damaged", CAIRN_ERRF(err));
	forget_all(c);
	load_forget_ingests(l);
	l->unclean = l->damaged = true;
	code = index_rebuild(c->index, l->real_ns, err);
	return code == CAIRN_OK ? load_age(l, err) : code;
}

/* A name that is seen after a crash may not be durable yet; who is told of the blob records it. */
static enum cairn_code flush_names(struct cairn_cache *c, struct cairn_err *err)
{
	for (uint8_t alg = CAIRN_SHA256; alg <= CAIRN_SHA512; alg++) {
		if (fsync(c->blob_fds[alg]) != 0) {
			return cairn_err_sys(err, errno, "flush the folder %s/blobs/%s", c->dir,
					     cairn_alg_name(alg));
		}
	}
	return CAIRN_OK;
}

/* The durable mark of doubt, before anybody is served. */
static enum cairn_code mark_open(struct loading *l, struct cairn_err *err)
{
	struct cairn_cache *c = l->cache;
	struct index *x = c->index;
	index_begin(x);
	if (l->unclean) index_reference_all(x);
	/* A file that was found without its row may still be proved by its chain. */
	if (l->unclean && l->found_files == 0) index_drop_orphan_chains(x);
	index_put_age(x, c->age_offset_ns + c->open_boot_ns);
	load_drop_rows(l);
	enum cairn_code code = index_commit(x, err);
	return code == CAIRN_OK ? index_mark(x, false, err) : code;
}

enum cairn_code load_store(struct cairn_cache *c, struct cairn_err *err)
{
	struct loading l = {.cache = c, .real_ns = cairn_real_ns(c->clock)};
	enum index_found found;
	enum cairn_code code = index_open(c->dir, l.real_ns, &c->index, &found, err);
	if (code != CAIRN_OK) return code;
	l.unclean = found != INDEX_CLEAN;
	l.damaged = found == INDEX_DAMAGED;
	code = load_rows(&l, err);
	for (uint8_t alg = CAIRN_SHA256; alg <= CAIRN_SHA512 && code == CAIRN_OK; alg++) {
		code = scan_blobs(&l, alg, err);
	}
	if (code == CAIRN_OK && l.unclean) code = flush_names(c, err);
	if (code == CAIRN_OK) judge_all(&l);
	if (code == CAIRN_OK) code = load_ingests(&l, err);
	if (code == CAIRN_OK) code = mark_open(&l, err);
	load_forget_ingests(&l);
	c->stats.rebuilt = l.damaged || (found == INDEX_NEW && l.found_files > 0);
	c->stats.recovered = found == INDEX_UNCLEAN || c->stats.rebuilt;
	if (code != CAIRN_OK) return code;
	if (c->stats.recovered || l.found_files > 0) {
		cairn_log(CAIRN_LOG_WARN, "store_recovered",
			  CAIRN_STR("why", c->stats.rebuilt ? "no index"
					   : l.unclean	    ? "unclean end"
							    : "new files"),
			  CAIRN_NUM("referenced", c->stats.referenced_blobs),
			  CAIRN_NUM("files_without_row", l.found_files),
			  CAIRN_NUM("damaged", c->stats.damaged_blobs));
	}
	return CAIRN_OK;
}
