/* Pulls that wait for the swarm in their second STAT; the swarm is a fake. */
#include "support/content_fixture.h"

#include "support/fake_swarm.h"
#include "support/until.h"

#define SIZE 300000

struct world {
	struct node *n;
	struct cairn_swarm *swarm;
	uint8_t data[SIZE];
	struct cairn_digest digest;
	char ref[200], text[CAIRN_DIGEST_STR];
};

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	fill_bytes(w->data, SIZE, 5);
	w->digest = digest_of(w->data, SIZE, CAIRN_SHA256);
	cairn_digest_format(&w->digest, w->text);
	snprintf(w->ref, sizeof(w->ref), "default/1/layer-%s", w->text);
	w->n = node_new(true, false);
	w->swarm = fake_swarm_new(CAIRN_WANT_ASKING);
	w->n->content.waits = true;
	w->n->content.swarm = w->swarm;
	w->n->content.stall_ms = 60000;
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	node_free(w->n);
	fake_swarm_free(w->swarm);
	free(w);
	return 0;
}

/* What the swarm does when it has the blob: an ingest of the store's own stands for its pieces. */
static void arrive(struct world *w)
{
	struct cairn_ingest *ing = NULL;
	const struct cairn_span span = {w->data, SIZE};
	const struct cairn_ingest_spec spec = {
		.ref = "arrives", .total = SIZE, .want = w->digest, .own = true};
	OK(cairn_ingest_open(w->n->cache, &spec, &ing, &node_err));
	OK(cairn_ingest_write(ing, 0, &span, 1, &node_err));
	cairn_ingest_abort(ing);
	cairn_ingest_close(ing);
}

static struct cairn_call *open_pull_as(struct world *w, const char *ref, int64_t want)
{
	struct cairn_call *call = NULL;
	struct answer a;
	OK(start_write(w->n, ref, SIZE, &call, &a));
	assert_int_equal(a.offset, want);
	return call;
}

static struct cairn_call *open_pull(struct world *w)
{
	return open_pull_as(w, w->ref, 0);
}

static void say_stat(struct cairn_call *call)
{
	pb_write m = write_message(STAT, 0, NULL, 0);
	m.total = SIZE;
	OK(cairn_call_send(call, &m.base, &node_err));
}

static int64_t hear(struct cairn_call *call)
{
	struct answer a;
	OK(ask(&call, NULL, &a));
	return a.offset;
}

static void cancel(struct cairn_call *call)
{
	cairn_call_cancel(call);
	(void)!cairn_call_finish(call, &node_err);
}

static int64_t status_offset(struct world *w)
{
	Containerd__Services__Content__V1__StatusRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__STATUS_REQUEST__INIT;
	Containerd__Services__Content__V1__StatusResponse *resp = NULL;
	req.ref = w->ref;
	OK(unary(w->n, METHOD("Status"), &req.base, TYPE_OF(status_response), &resp));
	int64_t offset = resp->status->offset;
	containerd__services__content__v1__status_response__free_unpacked(resp, NULL);
	return offset;
}

/* The second STAT is said, and the swarm is asked. */
static void begin_to_wait(struct world *w, struct cairn_call *call)
{
	unsigned before = fake_swarm_wanted(w->swarm);
	say_stat(call);
	UNTIL(fake_swarm_wanted(w->swarm) == before + 1);
}

/* ---- cases ---- */

static void swarm__is_asked_in_the_second_stat_only(void **state)
{
	struct world *w = *state;
	struct cairn_call *call = open_pull(w);
	assert_int_equal(fake_swarm_wanted(w->swarm), 0);
	begin_to_wait(w, call);
	assert_int_equal(w->swarm->fetchers, 1);
	assert_int_equal(w->swarm->wants->size, SIZE);
	cancel(call);
	UNTIL(fake_swarm_open(w->swarm) == 0);
}

static void swarm__brings_the_blob(void **state)
{
	struct world *w = *state;
	struct answer a;
	struct cairn_call *call = open_pull(w);
	begin_to_wait(w, call);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_FILLING, 1000);
	assert_int_equal(status_offset(w), 0); /* the negotiated one, also while bytes come */
	arrive(w);
	assert_int_equal(status_offset(w), 0);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_HERE, SIZE);
	assert_int_equal(hear(call), SIZE);
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	say_stat(call);
	assert_int_equal(hear(call), SIZE);
	OK(commit_at(&call, 0, SIZE, w->text, &a)); /* with the offset it began with, no data */
	assert_int_equal(state_of(w->n, &w->digest), CAIRN_BLOB_REFERENCED);
	assert_int_equal(w->n->content.pulled[CAIRN_FROM_PEERS], 1);
	assert_int_equal(w->n->content.pulled_bytes, 0);
}

static void swarm__grant_is_kept_until_the_stream_ends(void **state)
{
	struct world *w = *state;
	struct answer a;
	struct cairn_call *call = open_pull(w);
	begin_to_wait(w, call);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_GRANTED, 0);
	assert_int_equal(hear(call), 0);
	say_stat(call);
	assert_int_equal(hear(call), 0);
	OK(write_at(&call, 0, w->data, SIZE - 1, &a));
	assert_int_equal(fake_swarm_open(w->swarm), 1);
	OK(write_at(&call, SIZE - 1, w->data + SIZE - 1, 1, &a));
	OK(commit_at(&call, SIZE, SIZE, w->text, &a));
	UNTIL(fake_swarm_open(w->swarm) == 0);
	assert_int_equal(w->n->content.pulled[CAIRN_FROM_CONTAINERD], 1);
	assert_int_equal(w->n->content.pulled_bytes, SIZE);
}

static void swarm__grant_goes_with_a_cancelled_download(void **state)
{
	struct world *w = *state;
	struct answer a;
	struct cairn_call *call = open_pull(w);
	begin_to_wait(w, call);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_GRANTED, 0);
	assert_int_equal(hear(call), 0);
	OK(write_at(&call, 0, w->data, 1000, &a));
	cancel(call);
	UNTIL(fake_swarm_open(w->swarm) == 0);
	/* what was downloaded is there, and the next one is told of that */
	call = open_pull_as(w, w->ref, 1000);
	begin_to_wait(w, call);
	assert_int_equal(status_offset(w), 1000);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_FAILED, 0);
	assert_int_equal(hear(call), 1000);
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	cancel(call);
}

static void swarm__that_brings_it_after_a_resume_is_committed_at_the_old_offset(void **state)
{
	struct world *w = *state;
	struct answer a;
	struct cairn_call *call = open_pull(w);
	OK(write_at(&call, 0, w->data, 5000, &a));
	OK(end_write(&call));
	call = open_pull_as(w, w->ref, 5000);
	begin_to_wait(w, call);
	arrive(w);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_HERE, SIZE);
	assert_int_equal(hear(call), SIZE);
	OK(commit_at(&call, 5000, SIZE, w->text, &a));
	assert_int_equal(state_of(w->n, &w->digest), CAIRN_BLOB_REFERENCED);
}

static void swarm__that_fails_lets_containerd_download(void **state)
{
	struct world *w = *state;
	struct cairn_call *call = open_pull(w);
	begin_to_wait(w, call);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_FAILED, 0);
	assert_int_equal(hear(call), 0);
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	/* what comes later changes nothing of what was said */
	arrive(w);
	say_stat(call);
	assert_int_equal(hear(call), 0);
	assert_int_equal(fake_swarm_wanted(w->swarm), 1);
	cancel(call);
}

static void swarm__decides_without_a_pause(void **state)
{
	struct world *w = *state;
	int64_t best = INT64_MAX;
	for (int i = 0; i < 5; i++) {
		struct cairn_call *call = open_pull(w);
		begin_to_wait(w, call);
		int64_t begun = cairn_boot_ns(&cairn_clock_system);
		fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_GRANTED, 0);
		assert_int_equal(hear(call), 0);
		int64_t ns = cairn_boot_ns(&cairn_clock_system) - begun;
		if (ns < best) best = ns;
		cancel(call);
		UNTIL(fake_swarm_open(w->swarm) == 0);
	}
	assert_in_range(best, 0, 100 * CAIRN_NS_PER_MS); /* well below the pause between looks */
}

static void swarm__is_let_go_by_a_cancelled_pull(void **state)
{
	struct world *w = *state;
	struct cairn_call *call = open_pull(w);
	begin_to_wait(w, call);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_WAITING, 0);
	int64_t begun = cairn_boot_ns(&cairn_clock_system);
	cancel(call);
	UNTIL(fake_swarm_open(w->swarm) == 0);
	assert_in_range(cairn_boot_ns(&cairn_clock_system) - begun, 0, 10 * CAIRN_NS_PER_S);
	call = open_pull(w); /* its ref is free */
	cancel(call);
}

static void swarm__is_let_go_when_the_server_drains(void **state)
{
	struct world *w = *state;
	struct cairn_call *call = open_pull(w);
	begin_to_wait(w, call);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_WAITING, 0);
	node_drain(w->n, 100);
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	cancel(call);
}

/* Two namespaces want one digest: one downloads, the other waits for that; and leaves it when it
 * stands still. */
static void swarm__of_a_stalled_pull_next_door_is_left(void **state)
{
	struct world *w = *state;
	struct answer a;
	char ref[256];
	w->n->content.stall_ms = 300;
	struct cairn_call *first = open_pull(w);
	begin_to_wait(w, first);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_GRANTED, 0);
	assert_int_equal(hear(first), 0);
	snprintf(ref, sizeof(ref), "other/2/layer-%s", w->text);
	struct cairn_call *second = open_pull_as(w, ref, 0);
	begin_to_wait(w, second);
	OK(write_at(&first, 0, w->data, 1000, &a)); /* it is seen to move, once */
	assert_int_equal(hear(second), 0);
	assert_int_equal(fake_swarm_open(w->swarm), 1); /* the grant is not touched */
	cancel(second);
	cancel(first);
	UNTIL(fake_swarm_open(w->swarm) == 0);
}

static void swarm__is_not_asked_when_told_not_to(void **state)
{
	struct world *w = *state;
	w->n->content.waits = false;
	struct cairn_call *call = open_pull(w);
	say_stat(call);
	assert_int_equal(hear(call), 0);
	cancel(call);
	w->n->content.waits = true;
	w->n->content.owners_only = true; /* a namespace asks its own registry */
	call = open_pull(w);
	say_stat(call);
	assert_int_equal(hear(call), 0);
	cancel(call);
	w->n->content.owners_only = false;
	struct cairn_swarm *swarm = w->n->content.swarm;
	w->n->content.swarm = NULL;
	call = open_pull(w);
	say_stat(call);
	assert_int_equal(hear(call), 0);
	cancel(call);
	w->n->content.swarm = swarm;
	/* a ref that promises no digest */
	call = open_pull_as(w, "default/1/some-import", 0);
	say_stat(call);
	assert_int_equal(hear(call), 0);
	cancel(call);
	assert_int_equal(fake_swarm_wanted(w->swarm), 0);
}

static void swarm__is_not_asked_for_what_is_here(void **state)
{
	struct world *w = *state;
	struct answer a;
	struct cairn_call *call = open_pull(w);
	arrive(w);
	say_stat(call);
	assert_int_equal(hear(call), SIZE);
	OK(commit_at(&call, 0, SIZE, w->text, &a));
	assert_int_equal(fake_swarm_wanted(w->swarm), 0);
	assert_int_equal(w->n->content.pulled[CAIRN_FROM_CACHE], 1);
}

#define swarm_test(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		swarm_test(swarm__is_asked_in_the_second_stat_only),
		swarm_test(swarm__brings_the_blob),
		swarm_test(swarm__grant_is_kept_until_the_stream_ends),
		swarm_test(swarm__grant_goes_with_a_cancelled_download),
		swarm_test(swarm__that_brings_it_after_a_resume_is_committed_at_the_old_offset),
		swarm_test(swarm__that_fails_lets_containerd_download),
		swarm_test(swarm__decides_without_a_pause),
		swarm_test(swarm__is_let_go_by_a_cancelled_pull),
		swarm_test(swarm__is_let_go_when_the_server_drains),
		swarm_test(swarm__of_a_stalled_pull_next_door_is_left),
		swarm_test(swarm__is_not_asked_when_told_not_to),
		swarm_test(swarm__is_not_asked_for_what_is_here),
	};
	return cmocka_run_group_tests_name("plugin/swarm", tests, NULL, NULL);
}
