/* What index.db has, seen from outside. */
#ifndef CAIRN_TESTS_SUPPORT_ROWS_H
#define CAIRN_TESTS_SUPPORT_ROWS_H

#include <sqlite3.h>

#include "support/store.h"

static UNUSED int64_t count_rows(struct store *s, const char *what)
{
	char path[512];
	sqlite3 *db;
	sqlite3_stmt *st;
	int64_t n = -1;
	snprintf(path, sizeof(path), "%s/index.db", s->dir);
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL); /* only look */
	assert_int_equal(sqlite3_prepare_v2(db, what, -1, &st, NULL), SQLITE_OK);
	if (sqlite3_step(st) == SQLITE_ROW) n = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	sqlite3_close(db);
	return n;
}

#define ORPHAN_CHAINS "SELECT count(*) FROM chain WHERE digest NOT IN (SELECT digest FROM blob)"

#endif
