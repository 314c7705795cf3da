#include "cache/index.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/index_db.h"
#include "cache/mem.h"

/* migrations[v] takes a database from schema v to v + 1. */
static const char *const migrations[INDEX_SCHEMA] = {
	"CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE blob(digest BLOB PRIMARY KEY, size INTEGER NOT NULL, state INTEGER NOT NULL,"
	" damaged INTEGER NOT NULL, created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL,"
	" used_ns INTEGER NOT NULL, labels BLOB, owners BLOB) WITHOUT ROWID;"
	"CREATE TABLE chain(digest BLOB PRIMARY KEY, states BLOB NOT NULL);"
	"CREATE TABLE ingest(id INTEGER PRIMARY KEY, ref TEXT NOT NULL, owner TEXT,"
	" total INTEGER NOT NULL, offset INTEGER NOT NULL, alg INTEGER NOT NULL, expected BLOB,"
	" want BLOB, published BLOB, started_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL);"
	"CREATE TABLE ingest_chain(id INTEGER NOT NULL, first INTEGER NOT NULL,"
	" states BLOB NOT NULL, PRIMARY KEY(id, first)) WITHOUT ROWID;"
	"INSERT INTO meta VALUES('clean', 0);",
	"ALTER TABLE blob ADD COLUMN known INTEGER NOT NULL DEFAULT 1;"
	"CREATE TABLE version(name TEXT NOT NULL, root BLOB NOT NULL, first_ns INTEGER NOT NULL,"
	" last_ns INTEGER NOT NULL, first_real_ns INTEGER NOT NULL, last_real_ns INTEGER NOT NULL,"
	" complete INTEGER NOT NULL, needs BLOB, PRIMARY KEY(name, "
	"root));"
	"CREATE TABLE pin(target TEXT PRIMARY KEY, since_ns INTEGER NOT NULL,"
	" until_ns INTEGER NOT NULL) WITHOUT ROWID;"
	"INSERT INTO meta VALUES('age', 0);",
};

static const char *const statements[INDEX_STMTS] = {
	[STMT_BEGIN] = "BEGIN IMMEDIATE",
	[STMT_COMMIT] = "COMMIT",
	[STMT_ROLLBACK] = "ROLLBACK",
	[STMT_PUT_BLOB] = "INSERT OR REPLACE INTO blob VALUES(?,?,?,?,?,?,?,?,?,?)",
	[STMT_DEL_BLOB] = "DELETE FROM blob WHERE digest=?",
	[STMT_PUT_CHAIN] = "INSERT OR REPLACE INTO chain VALUES(?,?)",
	[STMT_DEL_CHAIN] = "DELETE FROM chain WHERE digest=?",
	[STMT_PUT_INGEST] = "INSERT OR REPLACE INTO ingest VALUES(?,?,?,?,?,?,?,?,?,?,?)",
	[STMT_DEL_INGEST] = "DELETE FROM ingest WHERE id=?",
	[STMT_PUT_STATES] = "INSERT OR REPLACE INTO ingest_chain VALUES(?,?,?)",
	[STMT_DEL_STATES] = "DELETE FROM ingest_chain WHERE id=? AND first>=?",
	[STMT_REFERENCE_ALL] = "UPDATE blob SET state=2 WHERE state<>2",
	[STMT_DROP_CHAINS] = "DELETE FROM chain WHERE digest NOT IN (SELECT digest FROM blob)",
	[STMT_PUT_VERSION] = "INSERT OR REPLACE INTO version VALUES(?,?,?,?,?,?,?,?)",
	[STMT_DEL_VERSION] = "DELETE FROM version WHERE name=? AND root=?",
	[STMT_PUT_PIN] = "INSERT OR REPLACE INTO pin VALUES(?,?,?)",
	[STMT_DEL_PIN] = "DELETE FROM pin WHERE target=?",
	[STMT_PUT_AGE] = "UPDATE meta SET value=? WHERE key='age'",
};

static bool is_damage(int rc)
{
	return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB;
}

enum cairn_code index_error(struct index *x, int rc, const char *what, struct cairn_err *err)
{
	const char *text = x->db != NULL ? sqlite3_errmsg(x->db) : sqlite3_errstr(rc);
	enum cairn_code code = CAIRN_INTERNAL;
	if (is_damage(rc)) code = CAIRN_DATA_LOSS;
	int sys = x->db != NULL ? sqlite3_system_errno(x->db) : 0;
	if ((rc & 0xff) == SQLITE_FULL || sys == ENOSPC || sys == EDQUOT) {
		code = CAIRN_RESOURCE_EXHAUSTED;
	}
	return cairn_err_set(err, code, "index %s: %s: %s", x->path, what, text);
}

static int run(struct index *x, const char *sql)
{
	return sqlite3_exec(x->db, sql, NULL, NULL, NULL);
}

static int query_int(struct index *x, const char *sql, int64_t *ret)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(x->db, sql, -1, &st, NULL);
	if (rc == SQLITE_OK) rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) *ret = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? SQLITE_OK : rc == SQLITE_DONE ? SQLITE_CORRUPT : rc;
}

static int quick_check(struct index *x)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(x->db, "PRAGMA quick_check(1)", -1, &st, NULL);
	if (rc == SQLITE_OK) rc = sqlite3_step(st);
	bool good = rc == SQLITE_ROW && sqlite3_column_text(st, 0) != NULL &&
		    strcmp((const char *)sqlite3_column_text(st, 0), "ok") == 0;
	sqlite3_finalize(st);
	if (good) return SQLITE_OK;
	return rc == SQLITE_ROW ? SQLITE_CORRUPT : rc;
}

static void close_db(struct index *x)
{
	for (size_t i = 0; i < INDEX_STMTS; i++) {
		sqlite3_finalize(x->stmts[i]);
		x->stmts[i] = NULL;
	}
	sqlite3_finalize(x->get_chain);
	x->get_chain = NULL;
	if (x->reader != NULL) sqlite3_close(x->reader);
	if (x->db != NULL) sqlite3_close(x->db);
	x->reader = x->db = NULL;
}

/* Each step of the schema is its own transaction, so that a crash leaves one version or the next.
 */
static int migrate(struct index *x, int64_t from)
{
	for (int64_t v = from; v < INDEX_SCHEMA; v++) {
		char version[64];
		snprintf(version, sizeof(version), "PRAGMA user_version=%d; COMMIT", (int)v + 1);
		int rc = run(x, "BEGIN IMMEDIATE");
		if (rc == SQLITE_OK) rc = run(x, migrations[v]);
		if (rc == SQLITE_OK) rc = run(x, version);
		if (rc != SQLITE_OK) return rc;
	}
	return SQLITE_OK;
}

/* Refuse a newer schema before anything is written, the log's checkpoint at close included. */
static int check_schema(struct index *x, int64_t *version)
{
	int rc = query_int(x, "PRAGMA user_version", version);
	if (rc != SQLITE_OK || *version <= INDEX_SCHEMA) return rc;
	sqlite3_db_config(x->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	return SQLITE_OK;
}

static int prepare(struct index *x)
{
	int rc = SQLITE_OK;
	for (size_t i = 0; i < INDEX_STMTS && rc == SQLITE_OK; i++) {
		rc = sqlite3_prepare_v3(x->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
					&x->stmts[i], NULL);
	}
	if (rc == SQLITE_OK) rc = sqlite3_open_v2(x->path, &x->reader, SQLITE_OPEN_READWRITE, NULL);
	if (rc == SQLITE_OK) {
		rc = sqlite3_prepare_v3(x->reader, "SELECT states FROM chain WHERE digest=?", -1,
					SQLITE_PREPARE_PERSISTENT, &x->get_chain, NULL);
	}
	return rc;
}

/* Sets *what to the step that failed. */
static int open_db(struct index *x, bool *clean, int64_t *version, const char **what)
{
	int64_t value = 0;
	*what = "open";
	int rc = sqlite3_open_v2(x->path, &x->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
	if (rc != SQLITE_OK) return rc;
	sqlite3_extended_result_codes(x->db, 1);
	sqlite3_busy_timeout(x->db, 2000);
	*what = "read its schema version";
	rc = check_schema(x, version);
	if (rc != SQLITE_OK || *version > INDEX_SCHEMA) return rc;
	*what = "set up";
	rc = run(x, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-2048;"
		    "PRAGMA journal_size_limit=4194304");
	if (rc != SQLITE_OK) return rc;
	*what = "migrate";
	rc = migrate(x, *version);
	if (rc != SQLITE_OK) return rc;
	*what = "read meta";
	rc = query_int(x, "SELECT value FROM meta WHERE key='clean'", &value);
	if (rc != SQLITE_OK) return rc;
	*clean = value != 0;
	*what = "check";
	if (!*clean && *version != 0) rc = quick_check(x);
	if (rc != SQLITE_OK) return rc;
	*what = "prepare";
	return prepare(x);
}

static void move_aside(const char *from, const char *to)
{
	if (rename(from, to) != 0 && errno != ENOENT) (void)unlink(from);
}

/* The log and its index are part of the database: they go with it. */
static void set_aside(struct index *x, int64_t now_ns)
{
	static const char *const parts[] = {"", "-wal", "-shm"};
	char from[sizeof(x->path) + 8], to[sizeof(x->path) + 48];
	close_db(x);
	for (size_t i = 0; i < CAIRN_LEN(parts); i++) {
		snprintf(from, sizeof(from), "%s%s", x->path, parts[i]);
		snprintf(to, sizeof(to), "%s.damaged-%lld%s", x->path,
			 (long long)(now_ns / 1000000000), parts[i]);
		move_aside(from, to);
	}
}

static void drop_orphans(struct index *x)
{
	char path[sizeof(x->path) + 8];
	snprintf(path, sizeof(path), "%s-wal", x->path);
	(void)unlink(path);
	snprintf(path, sizeof(path), "%s-shm", x->path);
	(void)unlink(path);
}

enum cairn_code index_rebuild(struct index *x, int64_t now_ns, struct cairn_err *err)
{
	bool clean;
	int64_t version;
	const char *what;
	set_aside(x, now_ns);
	int rc = open_db(x, &clean, &version, &what);
	return rc == SQLITE_OK ? CAIRN_OK : index_error(x, rc, what, err);
}

static enum cairn_code open_or_rebuild(struct index *x, int64_t now_ns, enum index_found *found,
				       struct cairn_err *err)
{
	bool clean = false;
	int64_t version = 0;
	const char *what;
	int rc = open_db(x, &clean, &version, &what);
	if (rc == SQLITE_OK && version > INDEX_SCHEMA) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "index %s has schema %lld, this program knows up to %d: "
				     "run the release that wrote it, or a newer one",
				     x->path, (long long)version, INDEX_SCHEMA);
	}
	if (rc == SQLITE_OK) {
		*found = version == 0 ? INDEX_NEW : clean ? INDEX_CLEAN : INDEX_UNCLEAN;
		return CAIRN_OK;
	}
	enum cairn_code code = index_error(x, rc, what, err);
	/* A missing table is damage as well: nobody but us makes this file. */
	if (code != CAIRN_DATA_LOSS && rc != SQLITE_ERROR) return code;
	cairn_log(CAIRN_LOG_WARN, "index_damaged", CAIRN_STR("path", x->path), CAIRN_ERRF(err));
	*found = INDEX_DAMAGED;
	return index_rebuild(x, now_ns, err);
}

enum cairn_code index_open(const char *dir, int64_t now_ns, struct index **ret,
			   enum index_found *found, struct cairn_err *err)
{
	struct index *x = mem_zero(sizeof(*x));
	enum index_found how = INDEX_UNCLEAN;
	int n = snprintf(x->path, sizeof(x->path), "%s/index.db", dir);
	if (n < 0 || (size_t)n >= sizeof(x->path)) {
		free(x);
		return cairn_err_set(err, CAIRN_INTERNAL, "state_dir: the path is too long");
	}
	pthread_mutex_init(&x->reader_mu, NULL);
	if (access(x->path, F_OK) != 0 && errno == ENOENT) {
		how = INDEX_NEW;
		drop_orphans(x); /* a log without its database says nothing */
	}
	enum cairn_code code = open_or_rebuild(x, now_ns, &how, err);
	if (code != CAIRN_OK) {
		index_close(x);
		return code;
	}
	*ret = x;
	*found = how;
	return CAIRN_OK;
}

void index_close(struct index *x)
{
	if (x == NULL) return;
	close_db(x);
	pthread_mutex_destroy(&x->reader_mu);
	free(x);
}

enum cairn_code index_load_age(struct index *x, int64_t *ret, struct cairn_err *err)
{
	int rc = query_int(x, "SELECT value FROM meta WHERE key='age'", ret);
	return rc == SQLITE_OK ? CAIRN_OK : index_error(x, rc, "read meta", err);
}

/* In WAL mode FULL flushes the log at each commit, NORMAL only before a checkpoint. */
enum cairn_code index_set_durable(struct index *x, bool durable, struct cairn_err *err)
{
	/* Only outside of a transaction. One whose rollback failed is still open. */
	if (!sqlite3_get_autocommit(x->db)) (void)run(x, "ROLLBACK");
	int rc = run(x, durable ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
	return rc == SQLITE_OK ? CAIRN_OK : index_error(x, rc, "set durability", err);
}

void index_reuse_log(struct index *x)
{
	if (!sqlite3_get_autocommit(x->db)) (void)run(x, "ROLLBACK");
	(void)sqlite3_wal_checkpoint_v2(x->db, NULL, SQLITE_CHECKPOINT_RESTART, NULL, NULL);
}

enum cairn_code index_mark(struct index *x, bool clean, struct cairn_err *err)
{
	char sql[128];
	snprintf(sql, sizeof(sql),
		 "PRAGMA synchronous=FULL; UPDATE meta SET value=%d WHERE key='clean'", clean);
	int rc = run(x, sql);
	if (rc == SQLITE_OK) {
		rc = sqlite3_wal_checkpoint_v2(x->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
		/* Somebody (a backup) reads the file: the mark is durable in the log. */
		if ((rc & 0xff) == SQLITE_BUSY) rc = SQLITE_OK;
	}
	if (rc == SQLITE_OK) rc = run(x, "PRAGMA synchronous=NORMAL");
	return rc == SQLITE_OK ? CAIRN_OK : index_error(x, rc, "mark and flush", err);
}
