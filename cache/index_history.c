/* Rows of versions and pins. */
#include "cache/index.h"
#include "cache/index_db.h"

void index_put_version(struct index *x, const struct version_row *row)
{
	sqlite3_stmt *st = x->stmts[STMT_PUT_VERSION];
	sqlite3_bind_text(st, 1, row->name, -1, SQLITE_STATIC);
	index_bind_digest(st, 2, &row->root);
	sqlite3_bind_int64(st, 3, row->first_ns);
	sqlite3_bind_int64(st, 4, row->last_ns);
	sqlite3_bind_int64(st, 5, row->first_real_ns);
	sqlite3_bind_int64(st, 6, row->last_real_ns);
	sqlite3_bind_int(st, 7, row->complete);
	index_bind_bytes(st, 8, row->needs, row->needs_len);
	index_step(x, STMT_PUT_VERSION);
}

void index_del_version(struct index *x, const char *name, const struct cairn_digest *root)
{
	sqlite3_bind_text(x->stmts[STMT_DEL_VERSION], 1, name, -1, SQLITE_STATIC);
	index_bind_digest(x->stmts[STMT_DEL_VERSION], 2, root);
	index_step(x, STMT_DEL_VERSION);
}

void index_put_pin(struct index *x, const struct pin_row *row)
{
	sqlite3_stmt *st = x->stmts[STMT_PUT_PIN];
	sqlite3_bind_text(st, 1, row->target, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, row->since_ns);
	sqlite3_bind_int64(st, 3, row->until_ns);
	index_step(x, STMT_PUT_PIN);
}

void index_del_pin(struct index *x, const char *target)
{
	sqlite3_bind_text(x->stmts[STMT_DEL_PIN], 1, target, -1, SQLITE_STATIC);
	index_step(x, STMT_DEL_PIN);
}

enum cairn_code index_load_versions(struct index *x,
				    void (*fn)(void *arg, const struct version_row *row), void *arg,
				    struct cairn_err *err)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(x->db,
				    "SELECT name,root,first_ns,last_ns,first_real_ns,last_real_ns,"
				    "complete,needs FROM version"
				    " ORDER BY name,root", /* as they are in memory */
				    -1, &st, NULL);
	while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct version_row row = {
			.name = (const char *)sqlite3_column_text(st, 0),
			.root = index_digest_column(st, 1),
			.first_ns = sqlite3_column_int64(st, 2),
			.last_ns = sqlite3_column_int64(st, 3),
			.first_real_ns = sqlite3_column_int64(st, 4),
			.last_real_ns = sqlite3_column_int64(st, 5),
			.complete = sqlite3_column_int(st, 6) != 0,
			.needs = sqlite3_column_blob(st, 7),
			.needs_len = (size_t)sqlite3_column_bytes(st, 7),
		};
		if (row.name != NULL && row.root.alg != 0) fn(arg, &row);
		rc = SQLITE_OK;
	}
	if (rc != SQLITE_DONE) index_error(x, rc, "load versions", err);
	sqlite3_finalize(st);
	return rc == SQLITE_DONE ? CAIRN_OK : err->code;
}

enum cairn_code index_load_pins(struct index *x, void (*fn)(void *arg, const struct pin_row *row),
				void *arg, struct cairn_err *err)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(x->db, "SELECT target,since_ns,until_ns FROM pin", -1, &st,
				    NULL);
	while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct pin_row row = {
			.target = (const char *)sqlite3_column_text(st, 0),
			.since_ns = sqlite3_column_int64(st, 1),
			.until_ns = sqlite3_column_int64(st, 2),
		};
		if (row.target != NULL) fn(arg, &row);
		rc = SQLITE_OK;
	}
	if (rc != SQLITE_DONE) index_error(x, rc, "load pins", err);
	sqlite3_finalize(st);
	return rc == SQLITE_DONE ? CAIRN_OK : err->code;
}
