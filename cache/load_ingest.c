/* Unfinished ingests, at open: each goes on at its last checkpoint. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/load.h"
#include "cache/mem.h"
#include "cache/store.h"

struct kept_ingest {
	struct ingest_row row; /* strings and states are owned */
	bool taken;
};

void load_keep_ingest(void *arg, const struct ingest_row *row)
{
	struct loading *l = arg;
	if (l->ingests_n == l->ingests_cap) {
		l->ingests_cap = l->ingests_cap > 0 ? 2 * l->ingests_cap : 16;
		l->ingests = mem_grow(l->ingests, l->ingests_cap * sizeof(struct kept_ingest *));
	}
	struct kept_ingest *k = mem_zero(sizeof(*k));
	k->row = *row;
	k->row.ref = mem_dup(row->ref);
	k->row.owner = row->owner != NULL ? mem_dup(row->owner) : NULL;
	k->row.states = mem_copy(row->states, row->states_len);
	l->ingests[l->ingests_n++] = k;
}

void load_forget_ingests(struct loading *l)
{
	for (size_t i = 0; i < l->ingests_n; i++) {
		struct ingest_row *row = &l->ingests[i]->row;
		free((void *)(uintptr_t)row->ref);
		free((void *)(uintptr_t)row->owner);
		free((void *)(uintptr_t)row->states);
		free(l->ingests[i]);
	}
	free(l->ingests);
	l->ingests = NULL;
	l->ingests_n = l->ingests_cap = 0;
}

void load_drop_rows(struct loading *l)
{
	for (size_t i = 0; i < l->ingests_n; i++) {
		if (!l->ingests[i]->taken) index_del_ingest(l->cache->index, l->ingests[i]->row.id);
	}
}

/* The hasher as it was at the checkpoint: the last state, and at most one piece hashed again. */
static bool resume_hasher(struct ingest *ing, struct ingest_data *d)
{
	uint8_t alg = ing->hasher.alg, state[CAIRN_CHAIN_STATE] = {0};
	size_t width = d->chain.width;
	uint64_t from = d->chain.n * PIECE;
	if (d->chain.n > 0) {
		memcpy(state, d->chain.states + (d->chain.n - 1) * width, width);
		cairn_hasher_resume(&ing->hasher, (enum cairn_alg)alg, from, state);
	}
	size_t tail = (size_t)(ing->offset - from);
	uint8_t *buf = mem_zero(tail);
	bool good = tail == 0 || read_exactly(d->fd, buf, tail, from) == 0;
	if (good) cairn_hasher_update(&ing->hasher, buf, tail);
	free(buf);
	cairn_hasher_digest(&ing->hasher, &ing->running);
	return good;
}

static bool open_data(struct cairn_cache *c, struct ingest *ing, struct ingest_data *d)
{
	struct stat st;
	struct cairn_err ignored;
	char name[32];
	if (ing->offset == 0) {
		(void)unlinkat(c->ingest_fd, data_name(d, name), 0);
		return true;
	}
	d->file = true;
	d->resumed = true;
	if (data_open(c, d, &ignored) != CAIRN_OK) return false;
	if (fstat(d->fd, &st) != 0 || !S_ISREG(st.st_mode)) return false;
	if ((uint64_t)st.st_size < ing->offset) return false;
	if (ftruncate(d->fd, (off_t)ing->offset) != 0) return false;
	d->high = d->written_back = ing->offset;
	return true;
}

/* The chain must reach the last boundary before the offset, or the offset goes back to it. */
static void take_chain(struct ingest *ing, struct ingest_data *d, const struct ingest_row *row)
{
	size_t have = row->states_len / d->chain.width, need = (size_t)(row->offset / PIECE);
	struct chain states = {.n = have < need ? have : need, .width = d->chain.width};
	states.states = (uint8_t *)(uintptr_t)row->states;
	chain_append(&d->chain, &states);
	ing->offset = have < need ? have * PIECE : row->offset;
}

static bool take_published(struct cairn_cache *c, struct ingest *ing,
			   const struct ingest_row *row) LOADING
{
	struct blob *b = blob_find_locked(c, &row->published);
	if (b == NULL || b->damaged) return false;
	ing->blob = blob_ref(b);
	ing->offset = b->size;
	ing->running = b->digest;
	return true;
}

static struct ingest *make(struct cairn_cache *c, const struct ingest_row *row) LOADING
{
	struct ingest *ing = ingest_new(row->ref);
	ing->owner = row->owner != NULL ? mem_dup(row->owner) : NULL;
	ing->total = row->total;
	ing->expected = row->expected;
	ing->want = row->want;
	ing->started_ns = row->started_ns;
	ing->updated_ns = row->updated_ns;
	ing->touched_ns = c->open_boot_ns;
	cairn_hasher_init(&ing->hasher, (enum cairn_alg)row->alg);
	cairn_hasher_digest(&ing->hasher, &ing->running);
	ing->data = data_new_locked(c, ing);
	ing->data->id = row->id;
	ing->data->has_row = true;
	return ing;
}

static bool is_usable(const struct ingest_row *row)
{
	size_t ref = strlen(row->ref);
	return ref > 0 && ref <= CAIRN_REF_MAX && cairn_alg_bytes(row->alg) > 0 &&
	       row->offset <= CAIRN_BLOB_SIZE_MAX && row->total <= CAIRN_BLOB_SIZE_MAX;
}

static void take(struct loading *l, struct kept_ingest *k) LOADING
{
	struct cairn_cache *c = l->cache;
	const struct ingest_row *row = &k->row;
	bool found;
	size_t at = ingest_search_locked(c, row->ref, &found);
	if (row->id >= c->next_id) c->next_id = row->id + 1;
	if (found || c->ingests_n >= CAIRN_INGESTS_MAX || !is_usable(row)) return;
	struct ingest *ing = make(c, row);
	struct ingest_data *d = ing->data;
	bool good;
	if (row->published.alg != 0) {
		good = take_published(c, ing, row);
	} else {
		take_chain(ing, d, row);
		good = open_data(c, ing, d) && resume_hasher(ing, d);
	}
	data_close(d);
	if (good) {
		k->taken = true;
		d->saved_offset = d->save_mark = ing->offset;
		d->saved_states = d->row_states = d->chain.n;
		ingest_insert_locked(c, at, ing);
		return;
	}
	cairn_log(CAIRN_LOG_INFO, "ingest_dropped", CAIRN_STR("ref", row->ref),
		  CAIRN_STR("why", "its data is gone"));
	ing->data = NULL;
	data_unref(d);
	ingest_unref(ing);
}

static bool is_ours(const struct loading *l, const char *name)
{
	for (size_t i = 0; i < l->ingests_n; i++) {
		const struct kept_ingest *k = l->ingests[i];
		if (k->taken && k->row.published.alg == 0 &&
		    k->row.id == strtoull(name, NULL, 10)) {
			return true;
		}
	}
	return false;
}

/* What no checkpoint covers. Files of pieces need none; names that are not ours are let alone. */
static enum cairn_code sweep(struct loading *l, struct cairn_err *err)
{
	struct cairn_cache *c = l->cache;
	int copy = openat(c->ingest_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
	if (d == NULL) {
		if (copy >= 0) close(copy);
		return cairn_err_sys(err, errno, "read the folder %s/ingest", c->dir);
	}
	struct dirent *e;
	while ((e = readdir(d)) != NULL) {
		piece_files_found(c, e->d_name);
		size_t digits = strspn(e->d_name, "0123456789");
		if (digits == 0 || e->d_name[digits] != '\0' || digits > 19) continue;
		uint64_t id = strtoull(e->d_name, NULL, 10);
		if (id >= c->next_id) c->next_id = id + 1;
		if (!is_ours(l, e->d_name)) (void)unlinkat(c->ingest_fd, e->d_name, 0);
	}
	closedir(d);
	return CAIRN_OK;
}

enum cairn_code load_ingests(struct loading *l, struct cairn_err *err)
{
	for (size_t i = 0; i < l->ingests_n; i++) take(l, l->ingests[i]);
	return sweep(l, err);
}
