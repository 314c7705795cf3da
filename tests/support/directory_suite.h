/* What every implementation of p2p/directory.h passes. After cmocka.h.
 *
 * The test program defines a world of several nodes (struct suite_world), gives it to suite_use and
 * runs the cases of DIRECTORY_SUITE. Each case opens a world of its own; one that needs more nodes
 * than it may have, or what it cannot do, is passed over. */
#ifndef CAIRN_TESTS_DIRECTORY_SUITE_H
#define CAIRN_TESTS_DIRECTORY_SUITE_H

#include "support/directory_world.h"

/* ---- finding ---- */

static void ask__of_an_unknown_blob_finds_nobody(void **state)
{
	(void)state;
	suite_open(2);
	struct cairn_digest d = suite_digest();
	for (int round = 0; round < 2; round++) {
		struct cairn_answer answer = suite_ask(0, &d, 0);
		assert_int_equal(answer.n, 0);
		assert_free(&answer.grant);
	}
}

static void announce__is_found_by_others_never_by_oneself(void **state)
{
	(void)state;
	suite_open(3);
	struct cairn_digest d = suite_digest(), other = suite_digest();
	suite_announce(0, &d, 1);
	assert_int_equal(finds(1, &d, 0), 2);
	assert_int_equal(finds(2, &d, 0), 2);
	assert_int_equal(finds_n(0, &d), 0);
	assert_int_equal(finds_n(1, &other), 0);
	suite_announce(1, &d, 1);
	suite_announce(1, &d, 1); /* twice is once */
	assert_int_equal(finds(0, &d, 1), 2);
	assert_int_equal(finds_n(0, &d), 1);
	assert_int_equal(finds_n(2, &d), 2);
}

static void announce__tells_algorithms_apart(void **state)
{
	(void)state;
	suite_open(2);
	struct cairn_digest d = suite_digest(), longer = d;
	longer.alg = CAIRN_SHA512;
	suite_announce(0, &longer, 1);
	assert_int_equal(finds_n(1, &d), 0);
	assert_int_equal(finds(1, &longer, 0), 2);
}

static void announce__takes_many_at_once(void **state)
{
	(void)state;
	enum { MANY = 2500 };
	suite_open(3);
	struct cairn_digest *d = calloc(MANY, sizeof(*d));
	assert_non_null(d);
	for (size_t k = 0; k < MANY; k++) d[k] = suite_digest();
	suite_announce(0, d, MANY);
	for (size_t k = 0; k < MANY; k += 97) assert_int_equal(finds(1, &d[k], 0), 2);
	suite_withdraw(0, d, MANY - 1);
	for (size_t k = 0; k < MANY - 1; k += 97) assert_int_equal(finds_n(1, &d[k]), 0);
	assert_int_equal(finds(1, &d[MANY - 1], 0), 2);
	free(d);
}

static void withdraw__ends_being_found(void **state)
{
	(void)state;
	suite_open(3);
	struct cairn_digest d = suite_digest(), unknown = suite_digest();
	suite_announce(0, &d, 1);
	suite_announce(1, &d, 1);
	suite_withdraw(0, &d, 1);
	suite_withdraw(0, &unknown, 1);
	assert_int_equal(finds_n(2, &d), 1);
	assert_int_equal(finds(2, &d, 1), 2);
	suite_announce(0, &d, 1);
	assert_int_equal(finds(2, &d, 0), 2);
}

static void join__is_found_as_getting_it(void **state)
{
	(void)state;
	suite_open(3);
	struct cairn_digest d = suite_digest();
	assert_int_equal(suite_ask(0, &d, 0).n, 0);
	assert_int_equal(finds_n(1, &d), 0); /* who only asks is not found */
	assert_int_equal(suite_ask(0, &d, JOIN).n, 0);
	assert_int_equal(finds(1, &d, 0), 1);
	assert_int_equal(suite_ask(0, &d, JOIN).n, 0);
	assert_int_equal(finds_n(1, &d), 1);
	suite_leave(0, &d);
	assert_int_equal(finds_n(1, &d), 0);
}

static void join__comes_after_holders_and_ends_with_announce(void **state)
{
	(void)state;
	suite_open(4);
	struct cairn_digest d = suite_digest();
	suite_ask(0, &d, JOIN);
	suite_ask(1, &d, JOIN);
	suite_announce(2, &d, 1);
	for (int round = 0; round < 20; round++) {
		struct cairn_answer answer = suite_ask(3, &d, 0);
		assert_int_equal(answer.n, 3);
		assert_true(answer.found[0].whole && is_node(&answer.found[0].node, 2));
		assert_false(answer.found[1].whole || answer.found[2].whole);
	}
	suite_announce(0, &d, 1);
	assert_int_equal(finds(3, &d, 0), 2); /* and only once */
	assert_int_equal(finds(3, &d, 1), 1);
	suite_leave(0, &d); /* it holds it all the same */
	assert_int_equal(finds(3, &d, 0), 2);
}

/* Which nodes does it find in so many asks? Returns how many; counts[i]: how often it was first. */
static size_t all_found(size_t by, const struct cairn_digest *d, int rounds, int *first)
{
	bool seen[SUITE_NODES] = {false};
	size_t n = 0;
	memset(first, 0, SUITE_NODES * sizeof(*first));
	for (int round = 0; round < rounds; round++) {
		struct cairn_answer answer = suite_ask(by, d, 0);
		for (size_t i = 0; i < suite_n; i++) {
			if (found_as(&answer, i) == 0) continue;
			assert_true(i != by);
			if (!seen[i]) n++;
			seen[i] = true;
			if (is_node(&answer.found[0].node, i)) first[i]++;
		}
	}
	return n;
}

static void ask__spreads_its_answers(void **state)
{
	(void)state;
	suite_open(5);
	struct cairn_digest d = suite_digest(), e = suite_digest();
	int first[SUITE_NODES];
	for (size_t i = 1; i < 5; i++) {
		suite_announce(i, &d, 1);
		suite_ask(i, &e, JOIN);
	}
	/* Of 200, 50 are expected; below 15 comes once in 10^10. */
	assert_int_equal(all_found(0, &d, 200, first), 4);
	for (size_t i = 1; i < 5; i++) assert_true(first[i] >= 15);
	assert_int_equal(all_found(0, &e, 200, first), 4);
	for (size_t i = 1; i < 5; i++) assert_true(first[i] >= 15);
}

static void ask__answers_with_some_of_many(void **state)
{
	(void)state;
	if (suite_ops->nodes_max < 24) return; /* too many nodes for that world */
	suite_open(24);
	struct cairn_digest d = suite_digest();
	int first[SUITE_NODES];
	for (size_t i = 1; i < 22; i++) suite_announce(i, &d, 1);
	suite_ask(22, &d, JOIN);
	struct cairn_answer answer = suite_ask(0, &d, 0);
	assert_int_equal(answer.n, CAIRN_FIND_MAX);
	assert_int_equal(found_as(&answer, 22), 0); /* holders first */
	assert_int_equal(all_found(0, &d, 200, first), 21);
}

static void holders__are_bounded_in_number(void **state)
{
	(void)state;
	if (suite_ops->nodes_max < CAIRN_HOLDERS_MAX + 6) return;
	suite_open(CAIRN_HOLDERS_MAX + 6);
	struct cairn_digest d = suite_digest(), e = suite_digest();
	int first[SUITE_NODES];
	for (size_t i = 1; i < suite_n; i++) {
		suite_announce(i, &d, 1);
		suite_ask(i, &e, JOIN);
	}
	assert_int_equal(all_found(0, &d, 200, first), CAIRN_HOLDERS_MAX);
	assert_int_equal(all_found(0, &e, 200, first), CAIRN_HOLDERS_MAX);
	/* There is room again. */
	for (size_t i = 1; i < suite_n - 1; i++) {
		suite_withdraw(i, &d, 1);
		suite_leave(i, &e);
	}
	suite_announce(1, &d, 1);
	suite_ask(1, &e, JOIN);
	assert_int_equal(finds(0, &d, 1), 2);
	assert_int_equal(finds(0, &e, 1), 1);
}

/* ---- grants ---- */

static void grant__is_one_nodes(void **state)
{
	(void)state;
	suite_open(3);
	struct cairn_digest d = suite_digest();
	struct cairn_answer answer = suite_ask(0, &d, 0);
	assert_free(&answer.grant); /* not asked for */
	struct cairn_grant grant = granted(0, &d);
	answer = suite_ask(1, &d, MAY_GRANT | JOIN);
	assert_grant(&answer.grant, CAIRN_GRANT_QUEUED, 0, 1);
	assert_int_equal(answer.grant.version, grant.version);
	answer = suite_ask(0, &d, MAY_GRANT); /* asked again it is the same */
	assert_grant(&answer.grant, CAIRN_GRANT_QUEUED, 0, 0);
	assert_int_equal(answer.grant.version, grant.version);
	assert_int_equal(found_as(&answer, 1), 1);
}

static void grant__is_not_given_while_somebody_holds_it(void **state)
{
	(void)state;
	suite_open(3);
	struct cairn_digest d = suite_digest(), e = suite_digest();
	suite_announce(0, &d, 1);
	struct cairn_answer answer = suite_ask(1, &d, MAY_GRANT);
	assert_free(&answer.grant);
	assert_int_equal(found_as(&answer, 0), 2);
	suite_withdraw(0, &d, 1);
	granted(1, &d);
	suite_ask(0, &e, JOIN); /* one who is getting it is no reason */
	granted(1, &e);
}

static void keep__makes_it_run(void **state)
{
	(void)state;
	suite_open(2);
	struct cairn_digest d = suite_digest();
	struct cairn_grant grant = granted(0, &d);
	struct cairn_grant kept = suite_keep(0, &d, grant.version, 0);
	assert_grant(&kept, CAIRN_GRANT_QUEUED, 0, 0);
	struct cairn_grant now = suite_keep(0, &d, kept.version, 1);
	assert_grant(&now, CAIRN_GRANT_RUNNING, 0, 0);
	assert_int_equal(now.bytes, 1);
	assert_true(now.version != grant.version && now.version != kept.version);
	struct cairn_grant seen = grant_seen(1, &d);
	assert_grant(&seen, CAIRN_GRANT_RUNNING, 0, 1);
	assert_int_equal(seen.version, now.version);
	assert_int_equal(seen.bytes, 1);
	struct cairn_grant more = suite_keep(0, &d, now.version, 1000000);
	assert_grant(&more, CAIRN_GRANT_RUNNING, 0, 0);
	assert_true(more.version != now.version);
	seen = grant_seen(1, &d);
	assert_int_equal(seen.bytes, 1000000);
	assert_int_equal(seen.version, more.version);
}

static void take__is_by_version(void **state)
{
	(void)state;
	suite_open(3);
	struct cairn_digest d = suite_digest();
	struct cairn_grant old = granted(0, &d);
	struct cairn_grant running = suite_keep(0, &d, old.version, 77);
	struct cairn_grant lost = suite_take(1, &d, old.version); /* stale */
	assert_grant(&lost, CAIRN_GRANT_RUNNING, 0, 1);
	assert_int_equal(lost.version, running.version);
	lost = suite_take(1, &d, 0); /* nor is it free */
	assert_grant(&lost, CAIRN_GRANT_RUNNING, 0, 1);
	struct cairn_grant won = suite_take(1, &d, running.version);
	assert_grant(&won, CAIRN_GRANT_QUEUED, 1, 1); /* nothing came to the new one */
	assert_int_equal(won.bytes, 0);
	assert_true(won.version != running.version && won.version != old.version);
	lost = suite_take(2, &d, running.version); /* of two takers one wins */
	assert_grant(&lost, CAIRN_GRANT_QUEUED, 1, 2);
	assert_int_equal(lost.version, won.version);
	lost = suite_keep(0, &d, running.version, 100); /* it was taken from us */
	assert_grant(&lost, CAIRN_GRANT_QUEUED, 1, 0);
	assert_int_equal(lost.version, won.version);
	suite_leave(0, &d); /* which is not ours to end */
	lost = grant_seen(2, &d);
	assert_grant(&lost, CAIRN_GRANT_QUEUED, 1, 2);
	assert_int_equal(lost.version, won.version);
}

static void take__of_a_free_one(void **state)
{
	(void)state;
	suite_open(2);
	struct cairn_digest d = suite_digest();
	struct cairn_grant won = suite_take(0, &d, 0);
	assert_grant(&won, CAIRN_GRANT_QUEUED, 0, 0);
	suite_leave(0, &d);
	struct cairn_grant lost = suite_take(1, &d, won.version); /* it is over */
	assert_free(&lost);
	struct cairn_grant again = suite_take(1, &d, 0);
	assert_grant(&again, CAIRN_GRANT_QUEUED, 1, 1);
	assert_true(again.version != won.version);
}

static void leave__releases_at_once(void **state)
{
	(void)state;
	suite_open(3);
	struct cairn_digest d = suite_digest();
	struct cairn_grant old = granted(0, &d);
	suite_ask(0, &d, JOIN);
	suite_leave(1, &d); /* another's is not touched */
	struct cairn_grant seen = grant_seen(2, &d);
	assert_grant(&seen, CAIRN_GRANT_QUEUED, 0, 2);
	suite_leave(0, &d);
	struct cairn_answer answer = suite_ask(2, &d, 0);
	assert_free(&answer.grant);
	assert_int_equal(answer.n, 0);
	struct cairn_grant next = granted(2, &d);
	assert_true(next.version != old.version);
	seen = suite_take(1, &d, old.version);
	assert_grant(&seen, CAIRN_GRANT_QUEUED, 2, 1);
	/* Also without a flush: what is said later comes later. */
	suite_node(2)->ops->leave(suite_node(2), &d);
	granted(2, &d);
}

static void announce__ends_ones_own_grant(void **state)
{
	(void)state;
	suite_open(3);
	struct cairn_digest d = suite_digest();
	struct cairn_grant grant = granted(0, &d);
	suite_announce(1, &d, 1); /* another's does not */
	struct cairn_grant seen = grant_seen(2, &d);
	assert_grant(&seen, CAIRN_GRANT_QUEUED, 0, 2);
	assert_int_equal(seen.version, grant.version);
	suite_announce(0, &d, 1);
	struct cairn_answer answer = suite_ask(2, &d, MAY_GRANT);
	assert_free(&answer.grant);
	assert_int_equal(found_as(&answer, 0), 2);
}

/* ---- many at once ---- */

struct suite_racer {
	pthread_t thread;
	pthread_barrier_t *start;
	size_t node;
	const struct cairn_digest *d;
	size_t n;
	uint64_t version; /* to be taken; 0: ask */
	bool *ours;
	enum cairn_code failed;
};

static void *suite_race(void *arg)
{
	struct suite_racer *r = arg;
	struct cairn_directory *dir = suite_node(r->node);
	pthread_barrier_wait(r->start);
	for (size_t k = 0; k < r->n && r->failed == CAIRN_OK; k++) {
		struct cairn_answer answer = {0};
		struct cairn_err err = {0};
		if (r->version != 0) {
			r->failed = dir->ops->take(dir, &r->d[k], r->version, SUITE_CALL_MS,
						   &answer.grant, &err);
		} else {
			r->failed = dir->ops->ask(dir, &r->d[k], true, true, SUITE_CALL_MS, &answer,
						  &err);
		}
		r->ours[k] = answer.grant.ours;
	}
	return NULL;
}

/* Nodes [from, from + n) want each of the digests: how many got each? */
static void suite_run_race(struct suite_racer *racers, size_t from, size_t n, int *winners)
{
	pthread_barrier_t start;
	pthread_barrier_init(&start, NULL, (unsigned)n);
	for (size_t i = 0; i < n; i++) {
		racers[i].node = from + i;
		racers[i].start = &start;
		racers[i].ours = calloc(racers[i].n, sizeof(bool));
		assert_non_null(racers[i].ours);
		assert_int_equal(pthread_create(&racers[i].thread, NULL, suite_race, &racers[i]),
				 0);
	}
	for (size_t i = 0; i < n; i++) {
		pthread_join(racers[i].thread, NULL);
		for (size_t k = 0; k < racers[i].n; k++) winners[k] += racers[i].ours[k];
		free(racers[i].ours);
	}
	pthread_barrier_destroy(&start);
	for (size_t i = 0; i < n; i++) assert_int_equal(racers[i].failed, CAIRN_OK);
}

static void ask__of_many_at_once_grants_one(void **state)
{
	(void)state;
	enum { BLOBS = 40 };
	suite_open(5);
	struct cairn_digest d[BLOBS];
	struct suite_racer racers[5] = {0};
	int winners[BLOBS] = {0};
	for (size_t k = 0; k < BLOBS; k++) d[k] = suite_digest();
	for (size_t i = 0; i < 5; i++) racers[i].d = d;
	for (size_t i = 0; i < 5; i++) racers[i].n = BLOBS;
	suite_run_race(racers, 0, 5, winners);
	for (size_t k = 0; k < BLOBS; k++) {
		assert_int_equal(winners[k], 1);
		uint64_t version = grant_seen(0, &d[k]).version;
		assert_true(version != 0);
		for (size_t i = 1; i < 5; i++) {
			assert_int_equal(grant_seen(i, &d[k]).version, version);
		}
	}
}

static void take__of_many_at_once_gives_it_to_one(void **state)
{
	(void)state;
	suite_open(5);
	for (int round = 0; round < 10; round++) {
		struct cairn_digest d = suite_digest();
		struct suite_racer racers[4] = {0};
		int winners = 0;
		uint64_t version = granted(0, &d).version;
		for (size_t i = 0; i < 4; i++) {
			racers[i] = (struct suite_racer){.d = &d, .n = 1, .version = version};
		}
		suite_run_race(racers, 1, 4, &winners);
		assert_int_equal(winners, 1);
		assert_true(grant_seen(0, &d).version != version);
	}
}

/* ---- coming and going ---- */

static void members__are_those_who_live(void **state)
{
	(void)state;
	suite_open(4);
	struct cairn_node_id ids[8] = {0};
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(suite_node(i)->ops->members(suite_node(i), ids, 8), 4);
		for (size_t k = 0; k < 4; k++) { /* each once, us included */
			int times = 0;
			for (size_t m = 0; m < 4; m++) times += is_node(&ids[m], k);
			assert_int_equal(times, 1);
		}
	}
	memset(ids, 0, sizeof(ids));
	assert_int_equal(suite_node(0)->ops->members(suite_node(0), ids, 2), 4);
	assert_true(ids[1].address[0] != '\0' && ids[2].address[0] == '\0');
	suite_ops->kill(suite_now, 3);
	EVENTUALLY(suite_members(0) == 3 && suite_members(1) == 3 && suite_members(2) == 3);
	suite_ops->stop(suite_now, 2);
	EVENTUALLY(suite_members(0) == 2 && suite_members(1) == 2);
	suite_ops->restart(suite_now, 3);
	EVENTUALLY(suite_members(0) == 3 && suite_members(1) == 3 && suite_members(3) == 3);
}

/* Of a dead arbiter's digests, too: so there are several. */
static void death__ends_all_that_a_node_has_said(void **state)
{
	(void)state;
	enum { BLOBS = 12 };
	suite_open(4);
	struct cairn_digest held[BLOBS], joined[BLOBS], grants[BLOBS], kept[BLOBS];
	for (size_t k = 0; k < BLOBS; k++) {
		held[k] = suite_digest();
		joined[k] = suite_digest();
		grants[k] = suite_digest();
		kept[k] = suite_digest();
		suite_ask(0, &joined[k], JOIN);
		granted(0, &grants[k]);
	}
	suite_announce(0, held, BLOBS);
	suite_announce(1, kept, BLOBS);
	suite_ops->kill(suite_now, 0);
	for (size_t k = 0; k < BLOBS; k++) {
		EVENTUALLY(finds_n(1, &held[k]) == 0 && finds_n(2, &held[k]) == 0);
		EVENTUALLY(finds_n(1, &joined[k]) == 0);
		EVENTUALLY(grant_seen(1, &grants[k]).state == CAIRN_GRANT_FREE);
		EVENTUALLY(finds(2, &kept[k], 1) == 2 && finds(3, &kept[k], 1) == 2);
		granted(2, &grants[k]);
	}
	suite_ops->restart(suite_now, 0); /* anew: it has said nothing yet */
	EVENTUALLY(suite_members(1) == 4 && suite_members(0) == 4);
	for (size_t k = 0; k < BLOBS; k++) {
		EVENTUALLY(finds(0, &kept[k], 1) == 2);
		assert_int_equal(finds_n(1, &held[k]), 0);
	}
	suite_announce(0, held, BLOBS);
	for (size_t k = 0; k < BLOBS; k++) EVENTUALLY(finds(1, &held[k], 0) == 2);
}

static void close__withdraws_all(void **state)
{
	(void)state;
	enum { BLOBS = 12 };
	suite_open(3);
	struct cairn_digest held[BLOBS], joined[BLOBS], grants[BLOBS];
	for (size_t k = 0; k < BLOBS; k++) {
		held[k] = suite_digest();
		joined[k] = suite_digest();
		grants[k] = suite_digest();
		suite_ask(0, &joined[k], JOIN);
		granted(0, &grants[k]);
	}
	suite_announce(0, held, BLOBS);
	suite_ops->stop(suite_now, 0);
	EVENTUALLY(suite_members(1) == 2 && suite_members(2) == 2);
	for (size_t k = 0; k < BLOBS; k++) {
		assert_int_equal(finds_n(1, &held[k]), 0);
		assert_int_equal(finds_n(1, &joined[k]), 0);
		granted(1, &grants[k]);
	}
}

static void forgotten__is_said_again(void **state)
{
	(void)state;
	enum { BLOBS = 12 };
	if (suite_ops->forget == NULL) return;
	suite_open(3);
	struct cairn_digest d[BLOBS], gone = suite_digest();
	for (size_t k = 0; k < BLOBS; k++) d[k] = suite_digest();
	suite_announce(0, d, BLOBS);
	suite_announce(0, &gone, 1);
	suite_withdraw(0, &gone, 1);
	suite_ops->forget(suite_now, 0);
	for (size_t k = 0; k < BLOBS; k++) {
		EVENTUALLY(finds(1, &d[k], 0) == 2 && finds(2, &d[k], 0) == 2);
	}
	assert_int_equal(finds_n(1, &gone), 0);
	EVENTUALLY(suite_members(1) == 3);
}

static void cut__is_survived(void **state)
{
	(void)state;
	enum { BLOBS = 12 };
	if (suite_ops->cut == NULL) return;
	suite_open(3);
	struct cairn_digest before[BLOBS], during[BLOBS], others[BLOBS];
	for (size_t k = 0; k < BLOBS; k++) {
		before[k] = suite_digest();
		during[k] = suite_digest();
		others[k] = suite_digest();
	}
	EVENTUALLY(suite_well(0) && suite_well(1));
	suite_announce(0, before, BLOBS);
	suite_ops->cut(suite_now, 0);
	EVENTUALLY(!suite_well(0));
	EVENTUALLY(suite_members(1) == 2 && suite_members(2) == 2);
	for (size_t k = 0; k < BLOBS; k++) EVENTUALLY(finds_n(1, &before[k]) == 0);
	/* It is answered, in some way, in time. */
	struct cairn_answer answer;
	struct cairn_err err = {0};
	struct cairn_directory *dir = suite_node(0);
	int64_t from = cairn_boot_ns(&cairn_clock_system);
	enum cairn_code code = dir->ops->ask(dir, &during[0], false, false, 500, &answer, &err);
	assert_true(code == CAIRN_OK || code == CAIRN_UNAVAILABLE ||
		    code == CAIRN_DEADLINE_EXCEEDED);
	assert_true(cairn_boot_ns(&cairn_clock_system) - from < 5 * CAIRN_NS_PER_S);
	dir->ops->announce(dir, during, BLOBS);
	dir->ops->withdraw(dir, before, 1);
	suite_announce(1, others, BLOBS);
	suite_ops->heal(suite_now, 0);
	EVENTUALLY(suite_members(0) == 3 && suite_members(1) == 3 && suite_members(2) == 3);
	for (size_t k = 0; k < BLOBS; k++) {
		EVENTUALLY(finds(1, &during[k], 0) == 2 && finds(2, &during[k], 0) == 2);
		EVENTUALLY(finds(0, &others[k], 1) == 2);
		if (k > 0) EVENTUALLY(finds(1, &before[k], 0) == 2);
	}
	EVENTUALLY(finds_n(1, &before[0]) == 0);
	EVENTUALLY(suite_well(0) && suite_well(1));
}

#define DIRECTORY_SUITE                                                                            \
	SUITE_CASE(ask__of_an_unknown_blob_finds_nobody),                                          \
		SUITE_CASE(announce__is_found_by_others_never_by_oneself),                         \
		SUITE_CASE(announce__tells_algorithms_apart),                                      \
		SUITE_CASE(announce__takes_many_at_once), SUITE_CASE(withdraw__ends_being_found),  \
		SUITE_CASE(join__is_found_as_getting_it),                                          \
		SUITE_CASE(join__comes_after_holders_and_ends_with_announce),                      \
		SUITE_CASE(ask__spreads_its_answers), SUITE_CASE(ask__answers_with_some_of_many),  \
		SUITE_CASE(holders__are_bounded_in_number), SUITE_CASE(grant__is_one_nodes),       \
		SUITE_CASE(grant__is_not_given_while_somebody_holds_it),                           \
		SUITE_CASE(keep__makes_it_run), SUITE_CASE(take__is_by_version),                   \
		SUITE_CASE(take__of_a_free_one), SUITE_CASE(leave__releases_at_once),              \
		SUITE_CASE(announce__ends_ones_own_grant),                                         \
		SUITE_CASE(ask__of_many_at_once_grants_one),                                       \
		SUITE_CASE(take__of_many_at_once_gives_it_to_one),                                 \
		SUITE_CASE(members__are_those_who_live),                                           \
		SUITE_CASE(death__ends_all_that_a_node_has_said),                                  \
		SUITE_CASE(close__withdraws_all), SUITE_CASE(forgotten__is_said_again),            \
		SUITE_CASE(cut__is_survived)

#endif
