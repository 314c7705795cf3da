/* All calls at once, from many threads, with few digests and refs so that they meet. What is read
 * is always right, what is committed and not damaged stays; TSan and ASan say the rest. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "support/store.h"

#define CONTENTS 10
#define REFS 5
#define STEPS 150 /* of each writer; the others go on until the writers are done */

static struct content contents[CONTENTS];

struct worker {
	struct store *s;
	pthread_t thread;
	uint64_t x;
	void (*step)(struct worker *w);
	const char *wrong; /* what was found; cmocka's asserts are for its own thread only */
};

static atomic_int commits, reads, damages, writers;

static struct content *pick(struct worker *w)
{
	return &contents[next_random(&w->x) % CONTENTS];
}

static const char *pick_ref(struct worker *w, char ref[16])
{
	snprintf(ref, 16, "ref-%d", (int)(next_random(&w->x) % REFS));
	return ref;
}

static bool expected_failure(const struct cairn_err *err)
{
	return err->code == CAIRN_ABORTED || err->code == CAIRN_DATA_LOSS;
}

static void write_step(struct worker *w)
{
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct cairn_ingest *ing;
	char ref[16];
	struct content *c = pick(w);
	struct cairn_ingest_spec spec = {.ref = pick_ref(w, ref), .owner = "ns"};
	spec.prefill = next_random(&w->x) % 2;
	if (next_random(&w->x) % 4 != 0) {
		spec.total = c->n;
		spec.want = c->digest;
	}
	if (cairn_ingest_open(w->s->cache, &spec, &ing, &err) != CAIRN_OK) {
		if (err.code != CAIRN_UNAVAILABLE) w->wrong = "open";
		return;
	}
	if (cairn_ingest_get_status(ing, &st, &err) == CAIRN_OK && st.offset != c->n) {
		uint64_t at = 0; /* the ref may hold other bytes */
		while (at < c->n) {
			size_t n = 1 + next_random(&w->x) % 300000;
			if (n > c->n - at) n = c->n - (size_t)at;
			if (next_random(&w->x) % 12 == 0) break;
			if (put(ing, at, c->data + at, n, &err) != CAIRN_OK) {
				if (!expected_failure(&err)) w->wrong = "write";
				break;
			}
			at += n;
		}
	}
	if (next_random(&w->x) % 3 != 0 && cairn_ingest_get_status(ing, &st, &err) == CAIRN_OK) {
		enum cairn_code code =
			cairn_ingest_commit(ing, st.offset, c->n, &c->digest, &st, &err);
		commits += code == CAIRN_OK || code == CAIRN_ALREADY_EXISTS;
		if (code != CAIRN_OK && code != CAIRN_ALREADY_EXISTS && !expected_failure(&err) &&
		    code != CAIRN_FAILED_PRECONDITION && code != CAIRN_OUT_OF_RANGE) {
			w->wrong = "commit";
		}
	}
	cairn_ingest_close(ing);
}

/* A session that is closed while another thread writes to it. */
static void *write_all(void *arg)
{
	struct cairn_err err;
	struct cairn_ingest *ing = arg;
	enum cairn_code code = put(ing, 0, contents[0].data, contents[0].n, &err);
	cairn_ingest_unref(ing);
	return code == CAIRN_OK || expected_failure(&err) || code == CAIRN_OUT_OF_RANGE
		       ? NULL
		       : (void *)"write beside close";
}

static void cancel_step(struct worker *w)
{
	struct cairn_err err;
	struct cairn_ingest *ing;
	char ref[16];
	pthread_t thread;
	void *wrong;
	struct cairn_ingest_spec spec = {.ref = pick_ref(w, ref), .want = contents[0].digest};
	spec.total = contents[0].n;
	if (next_random(&w->x) % 4 != 0) return;
	if (cairn_ingest_open(w->s->cache, &spec, &ing, &err) != CAIRN_OK) return;
	if (pthread_create(&thread, NULL, write_all, cairn_ingest_ref(ing)) != 0) abort();
	cairn_ingest_close(ing);
	pthread_join(thread, &wrong);
	if (wrong != NULL) w->wrong = wrong;
}

static void read_step(struct worker *w)
{
	struct cairn_err err;
	struct cairn_blob *b;
	struct cairn_view v[3] = {0};
	struct content *c = pick(w);
	if (cairn_blob_open(w->s->cache, &c->digest, &b, &err) != CAIRN_OK) {
		if (err.code != CAIRN_NOT_FOUND && !expected_failure(&err)) w->wrong = "blob open";
		return;
	}
	for (int i = 0; i < 3; i++) {
		uint64_t at = next_random(&w->x) % c->n, len = 1 + next_random(&w->x) % 100000;
		enum cairn_view_outcome out =
			cairn_blob_view(b, at, len, next_random(&w->x) % 2, &v[i], &err);
		if (out == CAIRN_VIEW_FAILED && !expected_failure(&err)) w->wrong = "view";
		if (out == CAIRN_VIEW_OK && memcmp(v[i].data, c->data + at, v[i].len) != 0) {
			w->wrong = "wrong bytes";
		}
		reads += out == CAIRN_VIEW_OK;
		if (out != CAIRN_VIEW_OK) v[i] = (struct cairn_view){0};
	}
	cairn_blob_close(b);
	for (int i = 0; i < 3; i++) cairn_view_release(&v[i]);
}

static void look_step(struct worker *w)
{
	struct cairn_err err;
	struct cairn_blob_info info[4];
	struct cairn_ingest_status st;
	struct cairn_cache_stats stats;
	struct cairn_digest pos = {0};
	char ref[16];
	size_t n;
	while ((n = cairn_cache_next(w->s->cache, &pos, 0, info, 4)) > 0) {
		for (size_t i = 0; i < n; i++) {
			if (cairn_digest_compare(&info[i].digest, &pos) <= 0) w->wrong = "order";
			pos = info[i].digest;
			cairn_blob_info_fini(&info[i]);
		}
	}
	(void)cairn_cache_next_ingest(w->s->cache, NULL, &st, 1);
	if (cairn_cache_ingest_status(w->s->cache, pick_ref(w, ref), &st, &err) != CAIRN_OK &&
	    err.code != CAIRN_NOT_FOUND) {
		w->wrong = "status";
	}
	if (cairn_cache_promise(w->s->cache, &pick(w)->digest, &info[0], &err) == CAIRN_OK) {
		cairn_blob_info_fini(&info[0]);
	}
	cairn_cache_stats(w->s->cache, &stats);
	if (stats.cached_blobs + stats.referenced_blobs > CONTENTS) w->wrong = "stats";
}

static void change_step(struct worker *w)
{
	struct cairn_err err;
	char ref[16];
	struct cairn_label label = {"k", next_random(&w->x) % 2 ? "v" : ""};
	switch (next_random(&w->x) % 8) {
	case 0:
		cairn_cache_abort(w->s->cache, pick_ref(w, ref));
		break;
	case 1:
	case 2:
		cairn_cache_release(w->s->cache, &pick(w)->digest);
		break;
	case 3:
		(void)cairn_cache_reference(w->s->cache, &pick(w)->digest);
		break;
	case 4:
		(void)cairn_cache_release_unrecorded(w->s->cache, &pick(w)->digest, INT64_MAX);
		break;
	case 5:
		if (cairn_cache_set_labels(w->s->cache, &pick(w)->digest, &label, 1,
					   next_random(&w->x) % 2, &err) != CAIRN_OK &&
		    err.code != CAIRN_NOT_FOUND) {
			w->wrong = "labels";
		}
		break;
	default:
		if (cairn_cache_verify(w->s->cache, &pick(w)->digest, NULL, NULL, &err) !=
			    CAIRN_OK &&
		    err.code != CAIRN_NOT_FOUND && err.code != CAIRN_DATA_LOSS) {
			w->wrong = "verify";
		}
	}
}

/* Somebody outside touches files, deletes them, or links to them. */
static void harm_step(struct worker *w)
{
	char path[512];
	blob_path(w->s, &pick(w)->digest, path);
	struct timespec pause = {0, 2000000};
	nanosleep(&pause, NULL); /* not so often that nothing else happens */
	if (next_random(&w->x) % 4 == 0) {
		damages += unlink(path) == 0;
	} else {
		(void)chmod(path, 0444); /* a new ctime: must be checked again */
	}
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	bool writer = w->step == write_step;
	for (int i = 0; (writer ? i < STEPS : writers > 0) && w->wrong == NULL; i++) {
		w->step(w);
		sched_yield();
	}
	if (writer) writers--;
	return NULL;
}

static void everything__at_once(void **state)
{
	struct store *s = *state;
	uint64_t seed = test_seed();
	static void (*const steps[])(struct worker * w) = {write_step,	write_step,  write_step,
							   cancel_step, read_step,   read_step,
							   look_step,	change_step, harm_step};
	struct worker workers[CAIRN_LEN(steps)] = {0};
	for (size_t i = 0; i < CAIRN_LEN(steps); i++) writers += steps[i] == write_step;
	for (size_t i = 0; i < CONTENTS; i++) {
		contents[i] = content_new(1 + i * i * 25000 + i % 3, 900 + i);
	}
	for (size_t i = 0; i < CAIRN_LEN(steps); i++) {
		workers[i] = (struct worker){.s = s, .x = seed + i * 7919, .step = steps[i]};
		assert_int_equal(
			pthread_create(&workers[i].thread, NULL, worker_thread, &workers[i]), 0);
	}
	for (size_t i = 0; i < CAIRN_LEN(steps); i++) pthread_join(workers[i].thread, NULL);
	for (size_t i = 0; i < CAIRN_LEN(steps); i++) {
		if (workers[i].wrong != NULL) fail_msg("worker %zu: %s", i, workers[i].wrong);
	}
	print_message("%d commits, %d reads, %d files deleted\n", commits, reads, damages);
	/* Afterwards: everything is either whole or known to be damaged, here and after a restart.
	 */
	for (int restart = 0; restart < 2; restart++) {
		struct cairn_err err;
		for (size_t i = 0; i < CONTENTS; i++) {
			if (state_of(s, &contents[i].digest) == 0) continue;
			if (cairn_cache_verify(s->cache, &contents[i].digest, NULL, NULL, &err) !=
			    CAIRN_OK) {
				assert_int_equal(err.code, CAIRN_DATA_LOSS);
			} else {
				assert_ok(read_and_compare(s, &contents[i], &err));
			}
		}
		store_reopen(s);
	}
	for (size_t i = 0; i < CONTENTS; i++) content_free(&contents[i]);
}

static int setup(void **state)
{
	if (store_setup(state) != 0) return -1;
	struct store *s = *state;
	s->checkpoint_bytes = 200000;
	store_open(s);
	return 0;
}

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(everything__at_once, setup, store_teardown),
	};
	return cmocka_run_group_tests_name("cache/stress", tests, NULL, NULL);
}
