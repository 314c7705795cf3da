/* A reader of bbolt files (go.etcd.io/bbolt, file format version 2), as far as containerd's
 * records need it.
 *
 * Layout, all numbers little-endian:
 *   page     u64 id, u16 flags, u16 count, u32 overflow; then elements; spans overflow+1 pages
 *   meta     (after the header of page 0 and of page 1) u32 magic, u32 version, u32 page size,
 *            u32 flags, bucket root, u64 freelist, u64 pages in use, u64 transaction, u64 FNV-1a
 *            of all before; the valid one of the higher transaction counts
 *   branch   count times: u32 pos, u32 key size, u64 page; the key lies pos bytes after the
 *            element's start
 *   leaf     count times: u32 flags (1: bucket), u32 pos, u32 key size, u32 value size; key and
 *            value lie pos bytes after the element's start
 *   bucket   (a leaf's value) u64 root page, u64 sequence; root 0: the page follows inline
 *
 * Bounds: each page and each element of a sound file is met at most once in a walk, so a walk may
 * meet as many as fit into the file; a file whose pages form a cycle runs into that. Pages are read
 * one at a time (pread), so memory is bounded by the depth.
 *
 * A running containerd writes the pages of transaction N+1 only where transaction N has none. So
 * what was read of N is consistent if N is still the newest when the walk is over. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "plugin/boltdb.h"

#define MAGIC 0xED0CDAEDu
#define VERSION 2u
#define HEADER 16u  /* of a page */
#define ELEMENT 16u /* of a branch or leaf */
#define META 64u    /* with its checksum */
#define FLAG_BRANCH 0x01u
#define FLAG_LEAF 0x02u
#define FLAG_META 0x04u
#define LEAF_BUCKET 0x01u
#define PAGE_SIZE_MIN 512u
#define PAGE_SIZE_MAX 65536u
#define PAGE_BYTES_MAX (16u << 20) /* of one page with its overflow */
#define DEPTH_MAX 40		   /* pages below one another, buckets included */
#define TRIES 25
#define TRY_PAUSE_MS 20

/* The way to a blob's record: "v1", then any namespace, then "content", "blob", then any digest. */
enum level { AT_ROOT, AT_NAMESPACES, AT_NAMESPACE, AT_CONTENT, AT_BLOBS };

struct meta {
	uint32_t page_size;
	uint64_t root, pages, txid;
};

struct db {
	int fd;
	const char *path;
	uint64_t size;
	struct meta meta;
	uint64_t pages_left, elements_left;
	unsigned depth;
	uint32_t ns;
	struct cairn_records *out;
	size_t cap, ns_cap;
};

struct node {
	const uint8_t *data; /* begins with the page header */
	size_t len;
	uint16_t flags, count;
};

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static enum cairn_code damaged(const struct db *db, const char *what, struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_DATA_LOSS, "%s: not a sound containerd database: %s",
			     db->path, what);
}

static enum cairn_code read_at(const struct db *db, uint64_t offset, uint8_t *buf, size_t n,
			       struct cairn_err *err)
{
	for (size_t got = 0; got < n;) {
		ssize_t r = pread(db->fd, buf + got, n - got, (off_t)(offset + got));
		if (r < 0 && errno == EINTR) continue;
		if (r < 0) return cairn_err_sys(err, errno, "read %s", db->path);
		if (r == 0) return damaged(db, "it ends early", err);
		got += (size_t)r;
	}
	return CAIRN_OK;
}

/* ---- choosing the newest state ---- */

/* The meta page at offset, if it is sound. */
static bool parse_meta(const struct db *db, uint64_t offset, struct meta *ret)
{
	uint8_t buf[HEADER + META];
	struct cairn_err ignored;
	if (offset > db->size || db->size - offset < sizeof(buf)) return false;
	if (read_at(db, offset, buf, sizeof(buf), &ignored) != CAIRN_OK) return false;
	const uint8_t *m = buf + HEADER;
	if ((get16(buf + 8) & FLAG_META) == 0) return false;
	if (get32(m) != MAGIC || get32(m + 4) != VERSION) return false;
	uint64_t sum = UINT64_C(14695981039346656037);
	for (size_t i = 0; i < META - 8; i++) sum = (sum ^ m[i]) * UINT64_C(1099511628211);
	if (sum != get64(m + META - 8)) return false;
	uint32_t page_size = get32(m + 8);
	if (page_size < PAGE_SIZE_MIN || page_size > PAGE_SIZE_MAX ||
	    (page_size & (page_size - 1)) != 0) {
		return false;
	}
	*ret = (struct meta){page_size, get64(m + 16), get64(m + 40), get64(m + 48)};
	return true;
}

static enum cairn_code choose_meta(const struct db *db, struct meta *ret, struct cairn_err *err)
{
	struct meta first, second = {0};
	bool have_first = parse_meta(db, 0, &first), have_second = false;
	if (have_first) {
		have_second = parse_meta(db, first.page_size, &second) &&
			      second.page_size == first.page_size;
	} else { /* its copy is one page on; how long a page is, only the copy itself can tell */
		for (uint32_t s = PAGE_SIZE_MIN; s <= PAGE_SIZE_MAX && !have_second; s *= 2) {
			have_second = parse_meta(db, s, &second) && second.page_size == s;
		}
	}
	if (!have_first && !have_second) {
		return damaged(db, "neither of its two meta pages is valid", err);
	}
	*ret = have_second && (!have_first || second.txid > first.txid) ? second : first;
	return CAIRN_OK;
}

/* ---- pages and elements ---- */

static enum cairn_code check_node(const struct db *db, struct node *node, struct cairn_err *err)
{
	if (node->len < HEADER) return damaged(db, "a page is too short", err);
	node->flags = get16(node->data + 8);
	node->count = get16(node->data + 10);
	if (node->flags != FLAG_BRANCH && node->flags != FLAG_LEAF) {
		return damaged(db, "a page is of the wrong kind", err);
	}
	if ((node->len - HEADER) / ELEMENT < node->count) {
		return damaged(db, "a page has more elements than room", err);
	}
	return CAIRN_OK;
}

/* Read page id with its overflow into memory that *ret_buf owns. */
static enum cairn_code read_page(struct db *db, uint64_t id, uint8_t **ret_buf, struct node *ret,
				 struct cairn_err *err)
{
	uint8_t head[HEADER];
	const uint64_t page_size = db->meta.page_size;
	if (id < 2 || id >= db->meta.pages) return damaged(db, "a page lies outside", err);
	enum cairn_code rc = read_at(db, id * page_size, head, sizeof(head), err);
	if (rc) return rc;
	uint64_t span = (uint64_t)get32(head + 12) + 1;
	if (get64(head) != id) return damaged(db, "a page does not bear its number", err);
	if (span > db->meta.pages - id || span * page_size > PAGE_BYTES_MAX) {
		return damaged(db, "a page is too long", err);
	}
	if (span > db->pages_left) return damaged(db, "its pages form a cycle", err);
	db->pages_left -= span;
	size_t len = (size_t)(span * page_size);
	uint8_t *buf = malloc(len);
	if (buf == NULL) return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "out of memory");
	struct node node = {.data = buf, .len = len};
	rc = read_at(db, id * page_size, buf, len, err);
	if (rc == CAIRN_OK) rc = check_node(db, &node, err);
	if (rc != CAIRN_OK) {
		free(buf);
		return rc;
	}
	*ret_buf = buf;
	*ret = node;
	return CAIRN_OK;
}

static bool inside(const struct node *node, uint64_t offset, uint64_t len)
{
	return offset <= node->len && len <= node->len - offset;
}

/* ---- what is found ---- */

static enum cairn_code add_namespace(struct db *db, const uint8_t *key, size_t len,
				     struct cairn_err *err)
{
	struct cairn_records *out = db->out;
	if (len == 0 || len > CAIRN_BOLTDB_NAMESPACE_LEN_MAX || memchr(key, '\0', len) != NULL) {
		return damaged(db, "a namespace has no valid name", err);
	}
	if (out->n_namespaces == CAIRN_BOLTDB_NAMESPACES_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "%s: more than %u namespaces",
				     db->path, CAIRN_BOLTDB_NAMESPACES_MAX);
	}
	if (out->n_namespaces == db->ns_cap) {
		size_t cap = db->ns_cap ? db->ns_cap * 2 : 8;
		char **grown = reallocarray(out->namespaces, cap, sizeof(*grown));
		if (grown == NULL) {
			return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "out of memory");
		}
		out->namespaces = grown;
		db->ns_cap = cap;
	}
	char *name = strndup((const char *)key, len);
	if (name == NULL) return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "out of memory");
	db->ns = (uint32_t)out->n_namespaces;
	out->namespaces[out->n_namespaces++] = name;
	return CAIRN_OK;
}

static enum cairn_code add_record(struct db *db, const uint8_t *key, size_t len,
				  struct cairn_err *err)
{
	struct cairn_records *out = db->out;
	struct cairn_digest digest;
	struct cairn_err ignored;
	if (cairn_digest_parse((const char *)key, len, &digest, &ignored) != CAIRN_OK) {
		out->foreign++;
		return CAIRN_OK;
	}
	if (out->n == CAIRN_BOLTDB_RECORDS_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "%s: more than %u records",
				     db->path, CAIRN_BOLTDB_RECORDS_MAX);
	}
	if (out->n == db->cap) {
		size_t cap = db->cap ? db->cap * 2 : 256;
		struct cairn_record *grown = reallocarray(out->list, cap, sizeof(*grown));
		if (grown == NULL) {
			return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "out of memory");
		}
		out->list = grown;
		db->cap = cap;
	}
	out->list[out->n++] = (struct cairn_record){db->ns, digest};
	return CAIRN_OK;
}

/* ---- the walk ---- */

static enum cairn_code walk_bucket(struct db *db, const uint8_t *value, size_t len,
				   enum level level, struct cairn_err *err);

static bool key_is(const uint8_t *key, size_t len, const char *name)
{
	return len == strlen(name) && memcmp(key, name, len) == 0;
}

/* A bucket named key inside a bucket at level: go into it if it is on the way. */
static enum cairn_code enter(struct db *db, enum level level, const uint8_t *key, size_t klen,
			     const uint8_t *value, size_t vlen, struct cairn_err *err)
{
	enum cairn_code rc;
	switch (level) {
	case AT_ROOT:
		if (!key_is(key, klen, "v1")) return CAIRN_OK;
		return walk_bucket(db, value, vlen, AT_NAMESPACES, err);
	case AT_NAMESPACES:
		rc = add_namespace(db, key, klen, err);
		return rc ? rc : walk_bucket(db, value, vlen, AT_NAMESPACE, err);
	case AT_NAMESPACE:
		if (!key_is(key, klen, "content")) return CAIRN_OK;
		return walk_bucket(db, value, vlen, AT_CONTENT, err);
	case AT_CONTENT:
		if (!key_is(key, klen, "blob")) return CAIRN_OK;
		return walk_bucket(db, value, vlen, AT_BLOBS, err);
	case AT_BLOBS:
		return add_record(db, key, klen, err);
	}
	return CAIRN_OK;
}

static enum cairn_code walk_leaf(struct db *db, const struct node *node, enum level level,
				 struct cairn_err *err)
{
	for (size_t i = 0; i < node->count; i++) {
		const uint64_t at = HEADER + i * ELEMENT;
		const uint8_t *e = node->data + at;
		const uint64_t key = at + get32(e + 4);
		const uint32_t klen = get32(e + 8), vlen = get32(e + 12);
		if (db->elements_left == 0) return damaged(db, "it has more keys than room", err);
		db->elements_left--;
		if (!inside(node, key, (uint64_t)klen + vlen)) {
			return damaged(db, "a key lies outside its page", err);
		}
		if ((get32(e) & LEAF_BUCKET) == 0) continue;
		enum cairn_code rc = enter(db, level, node->data + key, klen,
					   node->data + key + klen, vlen, err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

static enum cairn_code walk_page(struct db *db, uint64_t id, enum level level,
				 struct cairn_err *err)
{
	uint8_t *buf = NULL;
	struct node node = {0};
	if (db->depth == DEPTH_MAX) return damaged(db, "it is too deep", err);
	enum cairn_code rc = read_page(db, id, &buf, &node, err);
	if (rc) return rc;
	db->depth++;
	if (node.flags == FLAG_LEAF) {
		rc = walk_leaf(db, &node, level, err);
	} else {
		for (size_t i = 0; i < node.count && rc == CAIRN_OK; i++) {
			rc = walk_page(db, get64(buf + HEADER + i * ELEMENT + 8), level, err);
		}
	}
	db->depth--;
	free(buf);
	return rc;
}

static enum cairn_code walk_bucket(struct db *db, const uint8_t *value, size_t len,
				   enum level level, struct cairn_err *err)
{
	if (len < HEADER) return damaged(db, "a bucket is too short", err);
	uint64_t root = get64(value);
	if (root != 0) return walk_page(db, root, level, err);
	struct node node = {.data = value + HEADER, .len = len - HEADER};
	enum cairn_code rc = check_node(db, &node, err);
	if (rc) return rc;
	if (node.flags != FLAG_LEAF) return damaged(db, "an inline bucket has branches", err);
	return walk_leaf(db, &node, level, err);
}

static enum cairn_code walk_once(struct db *db, struct cairn_err *err)
{
	struct stat st;
	if (fstat(db->fd, &st) != 0) return cairn_err_sys(err, errno, "stat %s", db->path);
	db->size = (uint64_t)st.st_size;
	enum cairn_code rc = choose_meta(db, &db->meta, err);
	if (rc) return rc;
	if (db->meta.page_size == 0 || db->meta.pages > db->size / db->meta.page_size) {
		return damaged(db, "it is shorter than it says", err);
	}
	db->pages_left = db->meta.pages;
	db->elements_left = db->size / ELEMENT;
	db->depth = 0;
	rc = walk_page(db, db->meta.root, AT_ROOT, err);
	if (rc) return rc;
	struct meta now;
	rc = choose_meta(db, &now, err);
	if (rc) return rc;
	if (now.txid != db->meta.txid) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE,
				     "%s changed while it was read; try again when containerd has "
				     "less to do, or is stopped",
				     db->path);
	}
	return CAIRN_OK;
}

static enum cairn_code open_file(const char *path, int *ret, struct cairn_err *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "%s: no such file", path);
	}
	if (fd < 0 && (errno == EACCES || errno == EPERM)) {
		return cairn_err_set(err, CAIRN_PERMISSION_DENIED, "open %s: permission denied",
				     path);
	}
	if (fd < 0) return cairn_err_sys(err, errno, "open %s", path);
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return cairn_err_set(err, CAIRN_DATA_LOSS, "%s: not a regular file", path);
	}
	*ret = fd;
	return CAIRN_OK;
}

enum cairn_code cairn_boltdb_read(const char *path, struct cairn_records *ret, bool *ret_running,
				  struct cairn_err *err)
{
	struct db db = {.path = path, .fd = -1};
	struct cairn_records records = {0};
	enum cairn_code rc = open_file(path, &db.fd, err);
	if (rc) return rc;
	/* Some file systems have no locks; then it is taken for stopped, and read all the same. */
	bool running = flock(db.fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
	*ret_running = running;
	for (int i = 0; i < TRIES; i++) {
		db.out = &records;
		db.cap = db.ns_cap = 0;
		rc = walk_once(&db, err);
		if (rc == CAIRN_OK || !running) break;
		cairn_records_fini(&records);
		nanosleep(&(struct timespec){0, TRY_PAUSE_MS * 1000000L}, NULL);
	}
	close(db.fd);
	if (rc) {
		cairn_records_fini(&records);
		return rc;
	}
	*ret = records;
	return CAIRN_OK;
}

void cairn_records_fini(struct cairn_records *records)
{
	for (size_t i = 0; i < records->n_namespaces; i++) free(records->namespaces[i]);
	free(records->namespaces);
	free(records->list);
	*records = (struct cairn_records){0};
}
