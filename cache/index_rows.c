/* Rows of the index in and out. */
#include "cache/index.h"
#include "cache/index_db.h"
#include "cache/mem.h"

#define KEY_MAX (1 + CAIRN_DIGEST_MAX)

static size_t key_of(const struct cairn_digest *d, uint8_t key[static KEY_MAX])
{
	size_t n = cairn_alg_bytes(d->alg);
	key[0] = d->alg;
	memcpy(key + 1, d->bytes, n);
	return 1 + n;
}

struct cairn_digest index_digest_column(sqlite3_stmt *st, int col)
{
	struct cairn_digest d = {0};
	const uint8_t *key = sqlite3_column_blob(st, col);
	int n = sqlite3_column_bytes(st, col);
	if (key == NULL || n < 1) return d;
	size_t bytes = cairn_alg_bytes(key[0]);
	if (bytes == 0 || (size_t)n != bytes + 1) return d;
	d.alg = key[0];
	memcpy(d.bytes, key + 1, bytes);
	return d;
}

void index_bind_digest(sqlite3_stmt *st, int i, const struct cairn_digest *d)
{
	uint8_t key[KEY_MAX];
	if (d->alg == 0) {
		sqlite3_bind_null(st, i);
		return;
	}
	size_t n = key_of(d, key);
	sqlite3_bind_blob(st, i, key, (int)n, SQLITE_TRANSIENT);
}

void index_bind_bytes(sqlite3_stmt *st, int i, const void *data, size_t n)
{
	if (n == 0) {
		sqlite3_bind_null(st, i);
	} else {
		sqlite3_bind_blob64(st, i, data, n, SQLITE_STATIC);
	}
}

void index_step(struct index *x, enum index_stmt which)
{
	sqlite3_stmt *st = x->stmts[which];
	int rc = x->failed == SQLITE_OK ? sqlite3_step(st) : SQLITE_DONE;
	if (rc != SQLITE_DONE) x->failed = rc;
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
}

void index_begin(struct index *x)
{
	x->failed = SQLITE_OK;
	index_step(x, STMT_BEGIN);
}

enum cairn_code index_commit(struct index *x, struct cairn_err *err)
{
	index_step(x, STMT_COMMIT);
	if (x->failed == SQLITE_OK) return CAIRN_OK;
	int rc = x->failed;
	enum cairn_code code = index_error(x, rc, "write", err);
	x->failed = SQLITE_OK;
	if (!sqlite3_get_autocommit(x->db)) index_step(x, STMT_ROLLBACK);
	return code;
}

void index_put_blob(struct index *x, const struct blob_row *row)
{
	sqlite3_stmt *st = x->stmts[STMT_PUT_BLOB];
	index_bind_digest(st, 1, &row->digest);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)row->size);
	sqlite3_bind_int(st, 3, row->state);
	sqlite3_bind_int(st, 4, row->damaged);
	sqlite3_bind_int64(st, 5, row->created_ns);
	sqlite3_bind_int64(st, 6, row->updated_ns);
	sqlite3_bind_int64(st, 7, row->used_ns);
	index_bind_bytes(st, 8, row->labels, row->labels_len);
	index_bind_bytes(st, 9, row->owners, row->owners_len);
	sqlite3_bind_int(st, 10, row->known);
	index_step(x, STMT_PUT_BLOB);
}

void index_put_chain(struct index *x, const struct cairn_digest *digest, const void *states,
		     size_t len)
{
	sqlite3_stmt *st = x->stmts[STMT_PUT_CHAIN];
	index_bind_digest(st, 1, digest);
	index_bind_bytes(st, 2, states, len);
	index_step(x, STMT_PUT_CHAIN);
}

void index_del_blob_row(struct index *x, const struct cairn_digest *digest)
{
	index_bind_digest(x->stmts[STMT_DEL_BLOB], 1, digest);
	index_step(x, STMT_DEL_BLOB);
}

void index_del_blob(struct index *x, const struct cairn_digest *digest)
{
	index_del_blob_row(x, digest);
	index_bind_digest(x->stmts[STMT_DEL_CHAIN], 1, digest);
	index_step(x, STMT_DEL_CHAIN);
}

static void del_states(struct index *x, uint64_t id, size_t first)
{
	sqlite3_bind_int64(x->stmts[STMT_DEL_STATES], 1, (sqlite3_int64)id);
	sqlite3_bind_int64(x->stmts[STMT_DEL_STATES], 2, (sqlite3_int64)first);
	index_step(x, STMT_DEL_STATES);
}

void index_put_ingest(struct index *x, const struct ingest_row *row)
{
	sqlite3_stmt *st = x->stmts[STMT_PUT_INGEST];
	sqlite3_bind_int64(st, 1, (sqlite3_int64)row->id);
	sqlite3_bind_text(st, 2, row->ref, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, row->owner, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 4, (sqlite3_int64)row->total);
	sqlite3_bind_int64(st, 5, (sqlite3_int64)row->offset);
	sqlite3_bind_int(st, 6, row->alg);
	index_bind_digest(st, 7, &row->expected);
	index_bind_digest(st, 8, &row->want);
	index_bind_digest(st, 9, &row->published);
	sqlite3_bind_int64(st, 10, row->started_ns);
	sqlite3_bind_int64(st, 11, row->updated_ns);
	index_step(x, STMT_PUT_INGEST);
	if (row->states_len == 0) return;
	st = x->stmts[STMT_PUT_STATES];
	sqlite3_bind_int64(st, 1, (sqlite3_int64)row->id);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)row->states_first);
	index_bind_bytes(st, 3, row->states, row->states_len);
	index_step(x, STMT_PUT_STATES);
}

void index_del_ingest(struct index *x, uint64_t id)
{
	sqlite3_bind_int64(x->stmts[STMT_DEL_INGEST], 1, (sqlite3_int64)id);
	index_step(x, STMT_DEL_INGEST);
	del_states(x, id, 0);
}

void index_drop_orphan_chains(struct index *x)
{
	index_step(x, STMT_DROP_CHAINS);
}

void index_put_age(struct index *x, int64_t age_ns)
{
	sqlite3_bind_int64(x->stmts[STMT_PUT_AGE], 1, age_ns);
	index_step(x, STMT_PUT_AGE);
}

void index_reference_all(struct index *x)
{
	index_step(x, STMT_REFERENCE_ALL);
}

enum cairn_code index_load_blobs(struct index *x, void (*fn)(void *arg, const struct blob_row *row),
				 void *arg, struct cairn_err *err)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(x->db,
				    "SELECT digest,size,state,damaged,created_ns,updated_ns,"
				    "used_ns,labels,owners,known FROM blob",
				    -1, &st, NULL);
	while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct blob_row row = {
			.digest = index_digest_column(st, 0),
			.size = (uint64_t)sqlite3_column_int64(st, 1),
			.state = sqlite3_column_int(st, 2),
			.damaged = sqlite3_column_int(st, 3) != 0,
			.created_ns = sqlite3_column_int64(st, 4),
			.updated_ns = sqlite3_column_int64(st, 5),
			.used_ns = sqlite3_column_int64(st, 6),
			.labels = sqlite3_column_blob(st, 7),
			.labels_len = (size_t)sqlite3_column_bytes(st, 7),
			.owners = sqlite3_column_blob(st, 8),
			.owners_len = (size_t)sqlite3_column_bytes(st, 8),
			.known = sqlite3_column_int(st, 9) != 0,
		};
		fn(arg, &row);
		rc = SQLITE_OK;
	}
	if (rc != SQLITE_DONE) index_error(x, rc, "load blobs", err);
	sqlite3_finalize(st);
	return rc == SQLITE_DONE ? CAIRN_OK : err->code;
}

/* Segments in order; a gap ends the chain, which then covers less than the offset. */
static int load_states(struct index *x, struct ingest_row *row, uint8_t **buf)
{
	sqlite3_stmt *st = NULL;
	size_t width = cairn_alg_bytes(row->alg), len = 0;
	int rc = sqlite3_prepare_v2(
		x->db, "SELECT first,states FROM ingest_chain WHERE id=? ORDER BY first", -1, &st,
		NULL);
	if (rc == SQLITE_OK) sqlite3_bind_int64(st, 1, (sqlite3_int64)row->id);
	while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		rc = SQLITE_OK;
		size_t first = (size_t)sqlite3_column_int64(st, 0);
		const void *part = sqlite3_column_blob(st, 1);
		size_t n = (size_t)sqlite3_column_bytes(st, 1);
		if (width == 0 || first != len / width || n % width != 0) break;
		*buf = mem_grow(*buf, len + n);
		if (n > 0) memcpy(*buf + len, part, n);
		len += n;
	}
	sqlite3_finalize(st);
	row->states = *buf;
	row->states_len = len;
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

enum cairn_code index_load_ingests(struct index *x,
				   void (*fn)(void *arg, const struct ingest_row *row), void *arg,
				   struct cairn_err *err)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(x->db,
				    "SELECT id,ref,owner,total,offset,alg,expected,want,published,"
				    "started_ns,updated_ns FROM ingest",
				    -1, &st, NULL);
	while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		uint8_t *states = NULL;
		struct ingest_row row = {
			.id = (uint64_t)sqlite3_column_int64(st, 0),
			.ref = (const char *)sqlite3_column_text(st, 1),
			.owner = (const char *)sqlite3_column_text(st, 2),
			.total = (uint64_t)sqlite3_column_int64(st, 3),
			.offset = (uint64_t)sqlite3_column_int64(st, 4),
			.alg = (uint8_t)sqlite3_column_int(st, 5),
			.expected = index_digest_column(st, 6),
			.want = index_digest_column(st, 7),
			.published = index_digest_column(st, 8),
			.started_ns = sqlite3_column_int64(st, 9),
			.updated_ns = sqlite3_column_int64(st, 10),
		};
		rc = load_states(x, &row, &states);
		if (rc == SQLITE_OK && row.ref != NULL) fn(arg, &row);
		free(states);
	}
	if (rc != SQLITE_DONE) index_error(x, rc, "load ingests", err);
	sqlite3_finalize(st);
	return rc == SQLITE_DONE ? CAIRN_OK : err->code;
}

void index_load_chain(struct index *x, const struct cairn_digest *digest, uint8_t **ret,
		      size_t *len)
{
	*ret = NULL;
	*len = 0;
	pthread_mutex_lock(&x->reader_mu);
	sqlite3_stmt *st = x->get_chain;
	index_bind_digest(st, 1, digest);
	if (sqlite3_step(st) == SQLITE_ROW) {
		*len = (size_t)sqlite3_column_bytes(st, 0);
		*ret = *len > 0 ? mem_copy(sqlite3_column_blob(st, 0), *len) : NULL;
	}
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	pthread_mutex_unlock(&x->reader_mu);
}
