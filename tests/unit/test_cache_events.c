/* What the observer is told of, and when it is told nothing any more. */
#include <pthread.h>

#include "cache/evict.h"
#include "cache/store.h"
#include "support/pieces.h"

#define MIB (1u << 20)
#define MANY 4096

struct seen {
	pthread_mutex_t mu;
	struct cairn_cache *cache; /* asked from the callback: it holds no lock */
	size_t n;
	enum cairn_cache_event events[MANY];
	struct cairn_digest digests[MANY];
	uint64_t values[MANY];
};

static struct seen seen = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void see(void *arg, enum cairn_cache_event event, const struct cairn_digest *digest,
		uint64_t value)
{
	struct seen *s = arg;
	bool damaged;
	(void)cairn_cache_state(s->cache, digest, &damaged);
	pthread_mutex_lock(&s->mu);
	if (s->n < MANY) {
		s->events[s->n] = event;
		s->digests[s->n] = *digest;
		s->values[s->n++] = value;
	}
	pthread_mutex_unlock(&s->mu);
}

/* How often it was said of that digest; *value (may be NULL) is what was said last. */
static size_t times(enum cairn_cache_event event, const struct cairn_digest *d, uint64_t *value)
{
	size_t n = 0;
	pthread_mutex_lock(&seen.mu);
	for (size_t i = 0; i < seen.n; i++) {
		if (seen.events[i] != event || !cairn_digest_equal(&seen.digests[i], d)) continue;
		if (value != NULL) *value = seen.values[i];
		n++;
	}
	pthread_mutex_unlock(&seen.mu);
	return n;
}

static size_t seen_n(void)
{
	pthread_mutex_lock(&seen.mu);
	size_t n = seen.n;
	pthread_mutex_unlock(&seen.mu);
	return n;
}

static void forget_seen(void)
{
	pthread_mutex_lock(&seen.mu);
	seen.n = 0;
	pthread_mutex_unlock(&seen.mu);
}

static int setup(void **state)
{
	if (store_setup_open(state) != 0) return -1;
	struct store *s = *state;
	seen.cache = s->cache;
	forget_seen();
	cairn_cache_observe(s->cache, see, &seen);
	return 0;
}

/* ---- blobs */

static void publish__is_told_with_its_size(void **state)
{
	struct store *s = *state;
	struct content c = content_new(MIB + 5, 1);
	uint64_t value = 0;
	add_cached(s, &c);
	wait_for(times(CAIRN_EVENT_ADDED, &c.digest, &value) == 1);
	assert_int_equal(value, c.n);
	assert_int_equal(times(CAIRN_EVENT_ENDED, &c.digest, NULL), 0);
	/* A commit of what is here is nothing new. */
	add_referenced(s, &c);
	struct content other = content_new(10, 2);
	add_cached(s, &other);
	wait_for(times(CAIRN_EVENT_ADDED, &other.digest, NULL) == 1);
	assert_int_equal(times(CAIRN_EVENT_ADDED, &c.digest, NULL), 1);
	content_free(&c);
	content_free(&other);
}

static void pieces__are_told_of_when_they_are_published(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(2 * MIB + 5, 14);
	uint8_t *list = list_of(&c);
	uint64_t value = 0;
	struct cairn_pieces *p = pieces_open(s, &c);
	put_all(p, &c, list);
	assert_int_equal(seen_n(), 0);
	assert_ok(cairn_pieces_publish(p, &err));
	wait_for(times(CAIRN_EVENT_ADDED, &c.digest, &value) == 1);
	assert_int_equal(value, c.n);
	assert_int_equal(seen_n(), 1);
	cairn_pieces_close(p, false);
	free(list);
	content_free(&c);
}

static void evict__is_told(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(5000, 3);
	add_cached(s, &c);
	wait_for(times(CAIRN_EVENT_ADDED, &c.digest, NULL) == 1);
	struct cairn_eviction e = {.digest = c.digest, .used_ns = INT64_MAX};
	assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
	assert_int_equal(e.outcome, CAIRN_EVICT_DONE);
	wait_for(times(CAIRN_EVENT_GONE, &c.digest, NULL) == 1);
	content_free(&c);
}

static void spoil(struct store *s, const struct content *c)
{
	char path[512];
	assert_int_equal(chmod(blob_path(s, &c->digest, path), 0600), 0);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "x", 1, 17), 1);
	close(fd);
}

static void damage__is_told_once_and_so_is_its_repair(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(5000, 4);
	add_referenced(s, &c);
	spoil(s, &c);
	assert_code(read_and_compare(s, &c, &err), CAIRN_DATA_LOSS);
	wait_for(times(CAIRN_EVENT_GONE, &c.digest, NULL) == 1);
	add_cached(s, &c);
	wait_for(times(CAIRN_EVENT_ADDED, &c.digest, NULL) == 2);
	assert_ok(read_and_compare(s, &c, &err));
	/* A cached one goes altogether: told once, too. */
	cairn_cache_release(s->cache, &c.digest);
	spoil(s, &c);
	assert_code(read_and_compare(s, &c, &err), CAIRN_DATA_LOSS);
	wait_for(times(CAIRN_EVENT_GONE, &c.digest, NULL) == 2);
	struct content other = content_new(10, 5);
	add_cached(s, &other);
	wait_for(times(CAIRN_EVENT_ADDED, &other.digest, NULL) == 1);
	assert_int_equal(times(CAIRN_EVENT_GONE, &c.digest, NULL), 2);
	content_free(&c);
	content_free(&other);
}

/* ---- ingests */

static void growth__is_told_at_each_mib_and_at_the_end(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3 * MIB + 9, 6);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	uint64_t value = 0;
	assert_ok(put(ing, 0, c.data, MIB - 1, &err));
	assert_ok(put(ing, MIB - 1, c.data + MIB - 1, 1, &err));
	wait_for(times(CAIRN_EVENT_GREW, &c.digest, &value) == 1);
	assert_int_equal(value, MIB);
	assert_ok(put(ing, MIB, c.data + MIB, MIB + 7, &err));
	wait_for(times(CAIRN_EVENT_GREW, &c.digest, &value) == 2);
	assert_int_equal(value, 2 * MIB + 7);
	cairn_ingest_close(ing);
	wait_for(times(CAIRN_EVENT_ENDED, &c.digest, NULL) == 1);
	/* Opened again, it is something to look at again. */
	ing = open_ref(s, "a", &c, true, false);
	wait_for(times(CAIRN_EVENT_GREW, &c.digest, &value) == 3);
	assert_int_equal(value, 2 * MIB + 7);
	uint64_t at = status_of(ing).offset;
	assert_ok(put(ing, at, c.data + at, c.n - at, &err));
	wait_for(times(CAIRN_EVENT_ADDED, &c.digest, NULL) == 1);
	assert_int_equal(times(CAIRN_EVENT_GREW, &c.digest, &value), 4);
	assert_int_equal(value, c.n);
	cairn_ingest_close(ing);
	cairn_cache_abort(s->cache, "a");
	add_cached(s, &c); /* told after whatever the close would have told */
	assert_int_equal(times(CAIRN_EVENT_ENDED, &c.digest, NULL), 1);
	content_free(&c);
}

static void end__is_told_of_abort_and_restart(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(2 * MIB, 7);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(put(ing, 0, c.data, 1000, &err));
	assert_ok(put(ing, 0, c.data, 1000, &err));
	wait_for(times(CAIRN_EVENT_ENDED, &c.digest, NULL) == 1);
	cairn_cache_abort(s->cache, "a");
	wait_for(times(CAIRN_EVENT_ENDED, &c.digest, NULL) == 2);
	cairn_ingest_close(ing);
	ing = open_ref(s, "a", &c, true, false);
	assert_ok(put(ing, 0, c.data, 1000, &err));
	cairn_ingest_abort(ing);
	cairn_ingest_close(ing);
	wait_for(times(CAIRN_EVENT_ENDED, &c.digest, NULL) == 3);
	/* Bytes that stand for no digest are nobody's business. */
	size_t n = seen_n();
	ing = open_ref(s, "b", NULL, false, false);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	cairn_ingest_abort(ing);
	cairn_ingest_close(ing);
	struct content other = content_new(10, 8);
	add_cached(s, &other);
	wait_for(times(CAIRN_EVENT_ADDED, &other.digest, NULL) == 1);
	assert_int_equal(seen_n(), n + 2); /* and that it was complete */
	content_free(&c);
	content_free(&other);
}

static void wrong_bytes__are_told_at_the_total(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(MIB + 1, 9), junk = content_new(MIB + 2, 10);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(put(ing, 0, junk.data, c.n, &err));
	wait_for(times(CAIRN_EVENT_WRONG, &c.digest, NULL) == 1);
	assert_ok(put(ing, 0, c.data, 5, &err));
	assert_ok(put(ing, 5, c.data + 5, c.n - 4, &err)); /* one too many */
	wait_for(times(CAIRN_EVENT_WRONG, &c.digest, NULL) == 2);
	assert_int_equal(state_of(s, &c.digest), 0);
	cairn_ingest_close(ing);
	content_free(&c);
	content_free(&junk);
}

/* ---- the observer */

static void nobody__is_told_after_the_end(void **state)
{
	struct store *s = *state;
	struct content a = content_new(10, 11), b = content_new(10, 12);
	add_cached(s, &a);
	cairn_cache_observe(s->cache, NULL, NULL);
	size_t n = seen_n();
	add_cached(s, &b);
	store_reopen(s);
	assert_int_equal(seen_n(), n);
	assert_int_equal(times(CAIRN_EVENT_ADDED, &b.digest, NULL), 0);
	content_free(&a);
	content_free(&b);
}

/* A call that runs is waited for: afterwards what it uses may be freed. */
static _Atomic bool in_call, let_go, left;

static void linger(void *arg, enum cairn_cache_event event, const struct cairn_digest *digest,
		   uint64_t value)
{
	(void)arg, (void)event, (void)digest, (void)value;
	in_call = true;
	wait_for(let_go);
	left = true;
}

static void *let_it_go(void *arg)
{
	struct timespec nap = {0, 20000000};
	nanosleep(&nap, NULL); /* only so that the wait is likely to be one */
	let_go = true;
	return arg;
}

static void end__waits_for_the_call_that_runs(void **state)
{
	struct store *s = *state;
	struct content c = content_new(10, 13);
	pthread_t thread;
	cairn_cache_observe(s->cache, NULL, NULL);
	cairn_cache_observe(s->cache, linger, NULL);
	add_cached(s, &c); /* and does not wait itself */
	wait_for(in_call);
	assert_int_equal(pthread_create(&thread, NULL, let_it_go, NULL), 0);
	cairn_cache_observe(s->cache, NULL, NULL);
	assert_true(left);
	pthread_join(thread, NULL);
	content_free(&c);
}

/* An observer who stalls costs a bounded amount of memory, and is told that he missed something. */
static void stall__is_told_that_events_were_lost(void **state)
{
	static const struct cairn_digest nothing;
	struct store *s = *state;
	struct content c = content_new(10, 15);
	const size_t before = seen_n();
	lock(&s->cache->mu);
	for (size_t i = 0; i < CAIRN_EVENTS_MAX + 5; i++) {
		event_add_locked(s->cache, CAIRN_EVENT_ADDED, &c.digest, c.n);
	}
	size_t waiting = s->cache->events.n;
	unlock(&s->cache->mu);
	assert_in_range(waiting, 1, CAIRN_EVENTS_MAX);
	/* That something was lost, and what came after it. */
	wait_for(seen_n() == before + 6);
	assert_int_equal(times(CAIRN_EVENT_LOST, &nothing, NULL), 1);
	assert_int_equal(times(CAIRN_EVENT_ADDED, &c.digest, NULL), 5);
	content_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(publish__is_told_with_its_size, setup,
						store_teardown),
		cmocka_unit_test_setup_teardown(pieces__are_told_of_when_they_are_published, setup,
						store_teardown),
		cmocka_unit_test_setup_teardown(evict__is_told, setup, store_teardown),
		cmocka_unit_test_setup_teardown(damage__is_told_once_and_so_is_its_repair, setup,
						store_teardown),
		cmocka_unit_test_setup_teardown(growth__is_told_at_each_mib_and_at_the_end, setup,
						store_teardown),
		cmocka_unit_test_setup_teardown(end__is_told_of_abort_and_restart, setup,
						store_teardown),
		cmocka_unit_test_setup_teardown(wrong_bytes__are_told_at_the_total, setup,
						store_teardown),
		cmocka_unit_test_setup_teardown(nobody__is_told_after_the_end, setup,
						store_teardown),
		cmocka_unit_test_setup_teardown(end__waits_for_the_call_that_runs, setup,
						store_teardown),
		cmocka_unit_test_setup_teardown(stall__is_told_that_events_were_lost, setup,
						store_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
