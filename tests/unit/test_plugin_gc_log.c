/* What a pass writes to its log. */
#include "plugin/gc_log.h"
#include "support/gc_fixture.h"

static char *log_path(char buf[static 300], const char *name)
{
	snprintf(buf, 300, "%s/%s", fx.s->dir, name);
	return buf;
}

/* How many lines of the file have all of the given texts (NULL: any). */
static size_t lines(const char *path, const char *a, const char *b)
{
	char *line = NULL;
	size_t cap = 0, n = 0;
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	while (getline(&line, &cap, f) > 0) {
		n += (a == NULL || strstr(line, a) != NULL) &&
		     (b == NULL || strstr(line, b) != NULL);
	}
	free(line);
	fclose(f);
	return n;
}

static void log_evicted(void *log, const struct cairn_gc_pass *pass, size_t i)
{
	cairn_gc_log_evicted(log, pass, i);
}

/* Which version was given up is told beside the reason, and last. */
static void log__names_the_version_that_was_given_up(void **state)
{
	(void)state;
	struct cairn_gc_log log;
	char path[300];
	put_old_image(&fx.a);
	see(fx.s, APP, &fx.a.manifest.digest);
	fx.rules.keep_versions = 1;
	fx.rules.keep_versions_ns = HOUR;
	fx.rules.marks.high = fx.rules.marks.low = bytes(0);
	fx.opts.evicted = log_evicted;
	fx.opts.evicted_arg = &log;
	assert_ok(cairn_gc_log_open(&log, log_path(path, "gc.log"), &err));
	run();
	assert_int_equal(lines(path, " why=pressure idle=100 what=" APP "\n", NULL), 4);
	cairn_gc_log_close(&log);
}

static void log__tells_what_went_and_what_its_age_did_not_take(void **state)
{
	(void)state;
	struct cairn_gc_log log;
	char path[300], text[CAIRN_DIGEST_STR + 8];
	struct content young = content_new(10, 3), used = content_new(10, 4);
	put_old_image(&fx.a);
	put_released(fx.s, &fx.b.layers[0]);
	add_referenced(fx.s, &used);
	clock_move(fx.s, KEEP);
	put_released(fx.s, &young);
	put_released(fx.s, &fx.b.layers[1]);
	list_lease(fx.l, "ns", "l", true, 0, &fx.b.layers[0].digest, 1); /* old, and leased */
	list_lease(fx.l, "ns", "m", true, 0, &fx.b.layers[1].digest, 1); /* young, and leased */
	assert_ok(cairn_gc_log_open(&log, log_path(path, "gc.log"), &err));
	fx.opts.evicted = log_evicted;
	fx.opts.evicted_arg = &log;
	run();
	assert_int_equal(lines(path, "ev=gc_evict", "why=ttl"), 4); /* before the pass is told */
	cairn_gc_log_pass(&log, &fx.pass, KEEP);
	memcpy(text, "digest=", 7);
	cairn_digest_format(&fx.a.config.digest, text + 7);
	assert_int_equal(lines(path, "ev=gc_evict", text), 1);
	assert_int_equal(lines(path, "idle=200", text), 1);
	assert_int_equal(lines(path, "ev=gc_keep", "why=lease:ns/l"), 1);
	assert_int_equal(lines(path, "ev=gc_keep", NULL), 1);
	assert_int_equal(lines(path, "ev=gc_pass", "evicted=4"), 1);
	assert_int_equal(lines(path, "ev=gc_pass", "leased=2"), 1);
	assert_int_equal(lines(path, NULL, NULL), 6);
	fx.opts.dry_run = true;
	run();
	cairn_gc_log_pass(&log, &fx.pass, KEEP);
	assert_int_equal(lines(path, NULL, NULL), 6);
	cairn_gc_log_close(&log);
	content_free(&young);
	content_free(&used);
}

static void log__is_opened_anew(void **state)
{
	(void)state;
	struct cairn_gc_log log;
	char path[300], moved[300];
	assert_ok(cairn_gc_log_open(&log, log_path(path, "gc.log"), &err));
	run();
	cairn_gc_log_pass(&log, &fx.pass, KEEP);
	assert_int_equal(rename(path, log_path(moved, "gc.log.1")), 0);
	cairn_gc_log_pass(&log, &fx.pass, KEEP); /* still the old file */
	assert_int_equal(lines(moved, "ev=gc_pass", NULL), 2);
	cairn_gc_log_reopen(&log);
	cairn_gc_log_pass(&log, &fx.pass, KEEP);
	assert_int_equal(lines(moved, "ev=gc_pass", NULL), 2);
	assert_int_equal(lines(path, "ev=gc_pass", NULL), 1);
	cairn_gc_log_close(&log);
	assert_ok(cairn_gc_log_open(&log, path, &err)); /* goes on at its end */
	cairn_gc_log_pass(&log, &fx.pass, KEEP);
	assert_int_equal(lines(path, "ev=gc_pass", NULL), 2);
	/* The path is no more: better the old file than none. */
	free(log.path);
	log.path = strdup("/no/such/folder/gc.log");
	cairn_gc_log_reopen(&log);
	cairn_gc_log_pass(&log, &fx.pass, KEEP);
	assert_int_equal(lines(path, "ev=gc_pass", NULL), 3);
	cairn_gc_log_close(&log);
}

static void log__that_cannot_be_opened(void **state)
{
	(void)state;
	struct cairn_gc_log log;
	char path[300];
	assert_code(cairn_gc_log_open(&log, log_path(path, "none/gc.log"), &err), CAIRN_INTERNAL);
	assert_non_null(strstr(err.msg, "gc.log: open "));
	assert_non_null(strstr(err.msg, path));
	cairn_gc_log_close(&log);
	assert_ok(cairn_gc_log_open(&log, "", &err)); /* none */
	run();
	cairn_gc_log_pass(&log, &fx.pass, KEEP);
	cairn_gc_log_reopen(&log);
	cairn_gc_log_close(&log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(log__tells_what_went_and_what_its_age_did_not_take),
		CASE(log__names_the_version_that_was_given_up),
		CASE(log__is_opened_anew),
		CASE(log__that_cannot_be_opened),
	};
	return cmocka_run_group_tests_name("plugin/gc_log", tests, NULL, NULL);
}
