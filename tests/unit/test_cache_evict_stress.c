/* Eviction beside everything else, from many threads that meet on few blobs. A prefilled ingest's
 * commit succeeds, a referenced blob stays, a view's bytes do not change. TSan and ASan say the
 * rest. */
#include "support/churn.h"
#include "support/rows.h"

#define SECONDS 4
#define VIEWS 6 /* kept by a reader after it closed the blob */

static void release_checked(struct churner *w, struct cairn_view *v, const uint8_t *want)
{
	if (v->len == 0) return;
	CHURN_CHECK(w, memcmp(v->data, want, v->len) == 0, "a view's bytes have changed");
	cairn_view_release(v);
	*v = (struct cairn_view){0};
}

/* Any blob, and views of it that outlive the handle. */
static void view_step(struct churner *w)
{
	struct cairn_err err;
	struct cairn_blob *b;
	struct cairn_view v[VIEWS] = {0};
	const uint8_t *want[VIEWS] = {NULL};
	for (size_t i = 0; i < VIEWS; i++) {
		const struct content *k = &churn_contents[next_random(&w->x) % CHURN_BLOBS];
		uint64_t at = next_random(&w->x) % k->n;
		if (cairn_blob_open(w->c, &k->digest, &b, &err) != CAIRN_OK) {
			CHURN_CHECK(w, err.code == CAIRN_NOT_FOUND, err.msg);
			continue;
		}
		if (cairn_blob_view(b, at, 100000, true, &v[i], &err) != CAIRN_VIEW_OK) {
			churn_wrong(w, __LINE__, err.msg);
			v[i] = (struct cairn_view){0};
		}
		want[i] = k->data + at;
		w->ch->reads++;
		cairn_blob_close(b);
	}
	struct timespec nap = {0, (long)(next_random(&w->x) % 3000000)};
	nanosleep(&nap, NULL);
	for (size_t i = 0; i < VIEWS; i++) release_checked(w, &v[i], want[i]);
}

/* The walks, and a verify: an eviction meanwhile is no damage. */
static void look_step(struct churner *w)
{
	struct cairn_err err;
	struct cairn_gc_blob list[5];
	struct cairn_gc_disk disk;
	struct cairn_cache_stats stats;
	struct cairn_digest pos = {0};
	size_t n;
	while ((n = cairn_cache_next_gc(w->c, &pos, list, CAIRN_LEN(list))) > 0) {
		for (size_t i = 0; i < n; i++) {
			CHURN_CHECK(w, cairn_digest_compare(&list[i].digest, &pos) > 0, "order");
			CHURN_CHECK(w, list[i].used_ns <= cairn_cache_now_ns(w->c), "used later");
			pos = list[i].digest;
		}
	}
	cairn_cache_disk(w->c, &disk);
	cairn_cache_stats(w->c, &stats);
	CHURN_CHECK(w, stats.damaged_blobs == 0, "damaged");
	CHURN_CHECK(w, stats.cached_blobs + stats.referenced_blobs <= CHURN_BLOBS, "stats");
	const struct content *k = &churn_contents[next_random(&w->x) % CHURN_BLOBS];
	if (cairn_cache_verify(w->c, &k->digest, NULL, NULL, &err) != CAIRN_OK) {
		CHURN_CHECK(w, err.code == CAIRN_NOT_FOUND, err.msg);
	}
	sched_yield();
}

static void check_after(struct store *s, struct churn *ch)
{
	struct cairn_err err;
	struct cairn_cache_stats stats;
	struct cairn_pin *pins;
	size_t here = 0, bytes = 0, pinned = 0;
	for (size_t i = 0; i < CHURN_BLOBS; i++) {
		int state = state_of(s, &churn_contents[i].digest);
		if (ch->kept[i]) assert_int_equal(state, CAIRN_BLOB_REFERENCED);
		if (ch->gone[i] == ch->pulls[i]) assert_int_equal(state, 0);
		if (state != 0) assert_ok(read_and_compare(s, &churn_contents[i], &err));
		here += state != 0;
		bytes += state != 0 ? churn_contents[i].n : 0;
	}
	cairn_cache_stats(s->cache, &stats);
	assert_int_equal(stats.cached_blobs + stats.referenced_blobs, here);
	assert_int_equal(stats.cached_bytes + stats.referenced_bytes, bytes);
	assert_int_equal(stats.damaged_blobs, 0);
	assert_int_equal(count_files(s, "blobs/sha256"), here);
	for (size_t i = 0; i < CHURN_PINS; i++) pinned += ch->pins[i] == PIN_SET;
	size_t n = cairn_cache_pins(s->cache, &pins);
	assert_int_equal(n, pinned);
	cairn_pins_free(pins, n);
}

static void evict__beside_everything_else(void **state)
{
	struct store *s = *state;
	static const struct {
		void (*step)(struct churner *w);
		size_t lane;
	} kinds[] = {{churn_runtime_step, 0}, {churn_runtime_step, 1}, {churn_evict_step, 0},
		     {churn_evict_step, 0},   {churn_history_step, 0}, {churn_history_step, 1},
		     {view_step, 0},	      {view_step, 0},	       {look_step, 0}};
	struct churner workers[CAIRN_LEN(kinds)];
	struct churn *ch = churn_new();
	uint64_t seed = test_seed();
	for (size_t i = 0; i < CAIRN_LEN(kinds); i++) {
		workers[i] = (struct churner){.ch = ch, .c = s->cache, .x = seed + i * 7919};
		workers[i].lane = kinds[i].lane;
		workers[i].step = kinds[i].step;
		assert_int_equal(
			pthread_create(&workers[i].thread, NULL, churn_thread, &workers[i]), 0);
	}
	struct timespec nap = {0, 10000000};
	for (int i = 0; i < SECONDS * 100 && ch->wrong == 0; i++) nanosleep(&nap, NULL);
	ch->stop = true;
	for (size_t i = 0; i < CAIRN_LEN(kinds); i++) pthread_join(workers[i].thread, NULL);
	if (ch->wrong != 0) fail_msg("line %d: %s", ch->wrong, ch->why);
	print_message("%lu commits (%lu of prefilled ingests), %lu evicted, %lu spared, %lu reads, "
		      "%lu ingests expired\n",
		      ch->commits, ch->prefills, ch->evicted, ch->spared, ch->reads, ch->expired);
	assert_true(ch->commits > 0 && ch->prefills > 0 && ch->evicted > 0);
	check_after(s, ch);
	store_reopen(s);
	check_after(s, ch);
	cairn_cache_expire_ingests(s->cache, 0);
	store_reopen(s);
	check_after(s, ch);
	assert_int_equal(count_files(s, "ingest"), 0);
	assert_int_equal(count_rows(s, ORPHAN_CHAINS), 0);
	churn_free(ch);
}

static int setup(void **state)
{
	if (store_setup(state) != 0) return -1;
	churn_make_contents();
	store_open(*state);
	return 0;
}

static int teardown(void **state)
{
	churn_free_contents();
	return store_teardown(state);
}

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(evict__beside_everything_else, setup, teardown),
	};
	return cmocka_run_group_tests_name("cache/evict_stress", tests, NULL, NULL);
}
