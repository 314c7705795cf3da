/* The inside of struct index, for index.c and index_rows.c alone. */
#ifndef CAIRN_CACHE_INDEX_DB_H
#define CAIRN_CACHE_INDEX_DB_H

#include <limits.h>
#include <pthread.h>
#include <sqlite3.h>

#include "cache/index.h"

enum index_stmt {
	STMT_BEGIN,
	STMT_COMMIT,
	STMT_ROLLBACK,
	STMT_PUT_BLOB,
	STMT_DEL_BLOB,
	STMT_PUT_CHAIN,
	STMT_DEL_CHAIN,
	STMT_PUT_INGEST,
	STMT_DEL_INGEST,
	STMT_PUT_STATES,
	STMT_DEL_STATES,
	STMT_REFERENCE_ALL,
	STMT_DROP_CHAINS,
	STMT_PUT_VERSION,
	STMT_DEL_VERSION,
	STMT_PUT_PIN,
	STMT_DEL_PIN,
	STMT_PUT_AGE,
	INDEX_STMTS
};

struct index {
	char path[PATH_MAX];
	sqlite3 *db;
	sqlite3_stmt *stmts[INDEX_STMTS];
	int failed; /* first failure of the transaction; SQLITE_OK: none */
	pthread_mutex_t reader_mu;
	sqlite3 *reader;	 /* guarded by reader_mu */
	sqlite3_stmt *get_chain; /* guarded by reader_mu */
};

enum cairn_code index_error(struct index *x, int rc, const char *what, struct cairn_err *err);

/* index_rows.c, for index_history.c too */
struct cairn_digest index_digest_column(sqlite3_stmt *st, int col); /* alg 0: it holds none */
void index_bind_digest(sqlite3_stmt *st, int i, const struct cairn_digest *d);
void index_bind_bytes(sqlite3_stmt *st, int i, const void *data, size_t n);
void index_step(struct index *x, enum index_stmt which);

#endif
