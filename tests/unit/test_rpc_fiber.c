#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rpc/fiber.h"

struct job {
	struct cairn_fiber_pool *pool;
	struct cairn_fiber *fiber;
	int steps, parked, done;
	pthread_t ran_on[3];
	size_t depth;
};

static bool note_parked(void *arg)
{
	struct job *job = arg;
	assert_null(cairn_fiber_current());
	job->parked++;
	return false;
}

static void three_steps(void *arg)
{
	struct job *job = arg;
	for (int i = 0; i < 3; i++) {
		assert_ptr_equal(cairn_fiber_current(), job->fiber);
		assert_ptr_equal(cairn_fiber_arg(job->fiber), job);
		job->ran_on[i] = pthread_self();
		job->steps++;
		if (i < 2) cairn_fiber_park(note_parked, job);
	}
}

static void note_done(void *arg)
{
	struct job *job = arg;
	assert_null(cairn_fiber_current());
	job->done++;
}

static int setup(void **state)
{
	struct job *job = calloc(1, sizeof(*job));
	if (job == NULL) return -1;
	job->pool = cairn_fiber_pool_new();
	*state = job;
	return 0;
}

static int teardown(void **state)
{
	struct job *job = *state;
	cairn_fiber_pool_free(job->pool);
	free(job);
	return 0;
}

static void fiber__runs_parks_and_ends(void **state)
{
	struct job *job = *state;
	job->fiber = cairn_fiber_new(job->pool, three_steps, note_done, job);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(job->done, 0);
		cairn_fiber_run(job->fiber);
		assert_int_equal(job->steps, i);
		assert_int_equal(job->parked, i < 3 ? i : 2);
	}
	assert_int_equal(job->done, 1);
}

static void *run_fiber(void *arg)
{
	struct job *job = arg;
	cairn_fiber_run(job->fiber);
	return NULL;
}

static void fiber__goes_on_on_another_thread(void **state)
{
	struct job *job = *state;
	pthread_t thread;
	job->fiber = cairn_fiber_new(job->pool, three_steps, note_done, job);
	cairn_fiber_run(job->fiber);
	assert_int_equal(pthread_create(&thread, NULL, run_fiber, job), 0);
	pthread_join(thread, NULL);
	cairn_fiber_run(job->fiber);
	assert_int_equal(job->done, 1);
	assert_true(pthread_equal(job->ran_on[0], pthread_self()));
	assert_false(pthread_equal(job->ran_on[1], pthread_self()));
	assert_true(pthread_equal(job->ran_on[2], pthread_self()));
}

static bool go_on(void *arg)
{
	struct job *job = arg;
	job->parked++;
	return true;
}

static void park_often(void *arg)
{
	struct job *job = arg;
	double x = 1.5; /* floating-point state survives, too */
	for (int i = 0; i < 10000; i++) {
		cairn_fiber_park(go_on, job);
		x += 0.5;
	}
	assert_true(x == 5001.5);
}

static void park__may_go_on_at_once(void **state)
{
	struct job *job = *state;
	cairn_fiber_run(cairn_fiber_new(job->pool, park_often, note_done, job));
	assert_int_equal(job->parked, 10000);
	assert_int_equal(job->done, 1);
}

static void fibers__interleave_beyond_the_pool(void **state)
{
	struct job *job = *state;
	enum { N = 300 };
	struct job jobs[N];
	memset(jobs, 0, sizeof(jobs));
	for (int round = 0; round < 2; round++) { /* the second takes used stacks, too */
		for (int i = 0; i < N; i++) {
			jobs[i] = (struct job){0};
			jobs[i].fiber =
				cairn_fiber_new(job->pool, three_steps, note_done, &jobs[i]);
			assert_non_null(jobs[i].fiber);
		}
		for (int step = 0; step < 3; step++) {
			for (int i = 0; i < N; i++) cairn_fiber_run(jobs[i].fiber);
		}
		for (int i = 0; i < N; i++) {
			assert_int_equal(jobs[i].steps, 3);
			assert_int_equal(jobs[i].done, 1);
		}
	}
}

/* ---- handed from thread to thread ------------------------------------------------------------ */

enum { THREADS = 3, ROUNDS = 2000 };

struct relay {
	pthread_mutex_t mu;
	pthread_cond_t cond;
	struct cairn_fiber *ready[64]; /* guarded by mu */
	size_t n, ended;	       /* guarded by mu */
	_Atomic int laps;
};

struct runner {
	struct relay *relay;
	struct cairn_fiber *fiber;
	int laps;
};

static bool pass_on(void *arg)
{
	struct runner *r = arg;
	struct relay *relay = r->relay;
	pthread_mutex_lock(&relay->mu);
	relay->ready[relay->n++] = r->fiber; /* may run elsewhere before we are out of here */
	pthread_cond_signal(&relay->cond);
	pthread_mutex_unlock(&relay->mu);
	return false;
}

static void run_laps(void *arg)
{
	struct runner *r = arg;
	for (r->laps = 0; r->laps < ROUNDS; r->laps++) {
		r->relay->laps++;
		cairn_fiber_park(pass_on, r);
	}
}

static void count_end(void *arg)
{
	struct runner *r = arg;
	pthread_mutex_lock(&r->relay->mu);
	r->relay->ended++;
	pthread_cond_broadcast(&r->relay->cond);
	pthread_mutex_unlock(&r->relay->mu);
}

static void *work(void *arg)
{
	struct relay *relay = arg;
	pthread_mutex_lock(&relay->mu);
	while (relay->ended < 10) {
		if (relay->n == 0) {
			pthread_cond_wait(&relay->cond, &relay->mu);
			continue;
		}
		struct cairn_fiber *f = relay->ready[--relay->n];
		pthread_mutex_unlock(&relay->mu);
		cairn_fiber_run(f);
		pthread_mutex_lock(&relay->mu);
	}
	pthread_mutex_unlock(&relay->mu);
	return NULL;
}

static void fibers__are_handed_between_threads(void **state)
{
	struct job *job = *state;
	struct relay relay = {.mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
	struct runner runners[10];
	pthread_t threads[THREADS];
	for (int i = 0; i < 10; i++) {
		runners[i] = (struct runner){.relay = &relay};
		runners[i].fiber = cairn_fiber_new(job->pool, run_laps, count_end, &runners[i]);
		relay.ready[relay.n++] = runners[i].fiber;
	}
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_create(&threads[i], NULL, work, &relay), 0);
	}
	for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
	assert_int_equal(relay.laps, 10 * ROUNDS);
}

/* ---- the guard page -------------------------------------------------------------------------- */

static __attribute__((noinline)) size_t recurse(struct job *job, size_t n)
{
	volatile char frame[512];
	frame[0] = (char)n;
	job->depth = n;
	size_t below = n == 0 ? 0 : recurse(job, n - 1);
	return below + (size_t)frame[0];
}

static void overflow(void *arg)
{
	(void)recurse(arg, 100000);
}

static void overflow__hits_the_guard_page(void **state)
{
	struct job *job = *state;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		close(STDERR_FILENO); /* a sanitizer would tell of it */
		cairn_fiber_run(cairn_fiber_new(job->pool, overflow, note_done, job));
		_exit(0); /* somebody else's memory was written to */
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(fiber__runs_parks_and_ends),
		TEST(fiber__goes_on_on_another_thread),
		TEST(park__may_go_on_at_once),
		TEST(fibers__interleave_beyond_the_pool),
		TEST(fibers__are_handed_between_threads),
		TEST(overflow__hits_the_guard_page),
	};
	return cmocka_run_group_tests_name("rpc/fiber", tests, NULL, NULL);
}
