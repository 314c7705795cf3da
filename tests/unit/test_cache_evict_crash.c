/* kill -9 and power loss at any moment while blobs are pulled, released, read and evicted, and
 * while pins are set and versions seen. A blob whose commit was answered stays; one that was told
 * to be evicted does not come back; a row never outlives its file; pins are as was answered;
 * nothing leaks. */
#include <signal.h>
#include <sys/wait.h>

#include "support/churn.h"
#include "support/rows.h"
#include "support/synced.h"

#define KILLS 200
#define SECONDS 22 /* after which it is enough, on a machine under load */
#define LIFE_MS 24 /* of a child, at most, once it has opened the store */

static int setup_contents(void **state)
{
	(void)state;
	churn_make_contents();
	return 0;
}

static int free_contents(void **state)
{
	(void)state;
	churn_free_contents();
	return 0;
}

/* ---- the child */

static void live(struct store *s, struct churn *ch, uint64_t seed)
{
	static void (*const steps[])(struct churner * w) = {churn_runtime_step, churn_runtime_step,
							    churn_evict_step, churn_history_step,
							    churn_history_step};
	static const size_t lanes[] = {0, 1, 0, 0, 1};
	struct churner workers[CAIRN_LEN(steps)];
	alarm(60); /* should the parent die first */
	store_open(s);
	ch->opened = true;
	for (size_t i = 0; i < CAIRN_LEN(steps); i++) {
		workers[i] = (struct churner){.ch = ch, .c = s->cache, .step = steps[i]};
		workers[i].x = seed + i * 7919;
		workers[i].lane = lanes[i];
		if (pthread_create(&workers[i].thread, NULL, churn_thread, &workers[i]) != 0) {
			_exit(3);
		}
	}
	for (;;) pause();
}

static void kill_one(struct store *s, struct churn *ch, uint64_t *x)
{
	struct timespec nap = {0, 200000};
	uint64_t seed = next_random(x);
	ch->opened = false;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) live(s, ch, seed);
	/* One in eight dies while it opens the store. */
	bool early = next_random(x) % 8 == 0;
	for (int left = 100000; !early && !ch->opened && left > 0; left--) nanosleep(&nap, NULL);
	nap.tv_nsec = (long)(next_random(x) % (LIFE_MS * 1000)) * 1000 / (early ? 4 : 1);
	nanosleep(&nap, NULL);
	kill(pid, SIGKILL);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (ch->wrong != 0) fail_msg("churn.h:%d: %s", ch->wrong, ch->why);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* ---- what must hold */

static size_t check_blobs(struct store *s, struct churn *ch)
{
	struct cairn_err err;
	struct cairn_digest pos = {0};
	struct cairn_blob_info info, told;
	size_t n = 0;
	struct churner w = {.ch = ch, .c = s->cache};
	while (cairn_cache_next(s->cache, &pos, 0, &info, 1) == 1) {
		pos = info.digest;
		assert_int_equal(info.state, CAIRN_BLOB_REFERENCED);
		assert_false(info.damaged);
		cairn_blob_info_fini(&info);
		assert_ok(cairn_cache_promise(s->cache, &pos, &told, &err));
		cairn_blob_info_fini(&told);
		churn_read(&w, churn_content_of(&w, &pos), true);
		if (ch->wrong != 0) fail_msg("churn.h:%d: %s", ch->wrong, ch->why);
		n++;
	}
	assert_int_equal(count_files(s, "blobs/sha256"), n);
	for (size_t i = 0; i < CHURN_BLOBS; i++) {
		int state = state_of(s, &churn_contents[i].digest);
		if (ch->kept[i] && state == 0) fail_msg("blob %zu was committed, and is gone", i);
		if (ch->gone[i] == ch->pulls[i] && state != 0) {
			fail_msg("blob %zu was evicted, and is back", i);
		}
		/* What the killed one had on its way is over. */
		if (ch->pulls[i] % 2 != 0) ch->pulls[i]++;
	}
	return n;
}

static size_t check_pins(struct store *s, struct churn *ch)
{
	struct cairn_pin *list;
	char target[32];
	size_t n = cairn_cache_pins(s->cache, &list);
	for (size_t i = 0; i < CHURN_PINS; i++) {
		bool found = false;
		snprintf(target, sizeof(target), "pin-%zu", i);
		for (size_t k = 0; k < n; k++) found |= strcmp(list[k].target, target) == 0;
		if (ch->pins[i] == PIN_SET && !found) fail_msg("%s was set, and is gone", target);
		if (ch->pins[i] == PIN_NOT_SET && found) fail_msg("%s is back", target);
		ch->pins[i] = found ? PIN_SET : PIN_NOT_SET;
	}
	cairn_pins_free(list, n);
	return n;
}

static size_t check_versions(struct store *s, struct churn *ch)
{
	struct cairn_version *list;
	struct churner w = {.ch = ch};
	size_t n = cairn_cache_versions(s->cache, NULL, &list);
	for (size_t i = 0; i < n; i++) {
		(void)churn_content_of(&w, &list[i].root);
		assert_true(list[i].first_ns <= list[i].last_ns);
		assert_true(list[i].last_ns <= cairn_cache_now_ns(s->cache));
		assert_non_null(list[i].needs);
		for (size_t k = 0; k < list[i].needs->n; k++) {
			size_t at = churn_content_of(&w, &list[i].needs->list[k].digest);
			assert_int_equal(list[i].needs->list[k].size, churn_contents[at].n);
		}
	}
	cairn_versions_free(list, n);
	if (ch->wrong != 0) fail_msg("churn.h:%d: %s", ch->wrong, ch->why);
	return n;
}

/* No file in ingest/ but those of the ingests that are there; then none at all. */
static void check_ingests(struct store *s)
{
	struct cairn_err err;
	struct cairn_ingest_status st = {0};
	char last[CAIRN_REF_MAX + 1] = "";
	size_t files = 0;
	while (cairn_cache_next_ingest(s->cache, last, &st, 1) == 1) {
		memcpy(last, st.ref, strlen(st.ref) + 1);
		struct cairn_ingest_spec spec = {.ref = last};
		struct cairn_ingest *ing;
		assert_ok(cairn_ingest_open(s->cache, &spec, &ing, &err));
		st = status_of(ing);
		files += st.offset > 0 && !cairn_ingest_is_published(ing);
		cairn_ingest_close(ing);
	}
	assert_int_equal(count_files(s, "ingest"), files);
}

static void check_all(struct store *s, struct churn *ch, bool keep_ingests)
{
	store_open(s);
	size_t blobs = check_blobs(s, ch), pins = check_pins(s, ch);
	size_t versions = check_versions(s, ch);
	check_ingests(s);
	if (!keep_ingests) cairn_cache_expire_ingests(s->cache, 0);
	store_close(s);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM blob"), blobs);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM pin"), pins);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM version"), versions);
	if (keep_ingests) return;
	assert_int_equal(count_files(s, "ingest"), 0);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM ingest"), 0);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM ingest_chain"), 0);
}

/* An unclean end after which no file lacks its row. */
static void check_no_orphan_chains(struct store *s)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		store_open(s);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	store_open(s);
	store_close(s);
	assert_int_equal(count_rows(s, ORPHAN_CHAINS), 0);
}

static void kill__at_any_moment_around_evictions_harms_nothing(void **state)
{
	struct store *s = *state;
	uint64_t x = test_seed();
	struct churn *ch = churn_new();
	unsigned losses = 0;
	int kills = 0;
	for (time_t began = time(NULL); kills < KILLS && time(NULL) - began < SECONDS; kills++) {
		kill_one(s, ch, &x);
		bool loss = next_random(&x) % 3 == 0;
		if (loss) lose_power(s);
		losses += loss;
		check_all(s, ch, next_random(&x) % 2);
		if (kills % 30 == 29) check_no_orphan_chains(s);
	}
	print_message(
		"%d kills, %u of them with power loss: %lu commits (%lu of prefilled ingests), "
		"%lu evicted, %lu spared, %lu ingests expired\n",
		kills, losses, ch->commits, ch->prefills, ch->evicted, ch->spared, ch->expired);
	assert_true(ch->commits > 0 && ch->evicted > 0 && ch->spared > 0);
	churn_free(ch);
}

#define crash_test(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	/* Flushes cost nothing there, and it is process death that is tried. */
	if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
	const struct CMUnitTest tests[] = {
		crash_test(kill__at_any_moment_around_evictions_harms_nothing),
	};
	return cmocka_run_group_tests_name("cache/evict_crash", tests, setup_contents,
					   free_contents);
}
