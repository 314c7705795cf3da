/* Reads of damaged blobs, which the swarm (a fake) has whole. */
#include "support/content_fixture.h"

#include <fcntl.h>
#include <pthread.h>

#include "support/fake_swarm.h"
#include "support/until.h"

#define SIZE (3u << 20)
#define READERS 4

struct world {
	struct node *n;
	struct cairn_swarm *swarm;
	uint8_t *data;
	struct cairn_digest digest;
	char text[CAIRN_DIGEST_STR];
};

static void arrive(struct world *w)
{
	struct cairn_ingest *ing = NULL;
	struct cairn_err err;
	const struct cairn_span span = {w->data, SIZE};
	const struct cairn_ingest_spec spec = {
		.ref = "arrives", .total = SIZE, .want = w->digest, .own = true};
	if (cairn_ingest_open(w->n->cache, &spec, &ing, &err) != CAIRN_OK ||
	    cairn_ingest_write(ing, 0, &span, 1, &err) != CAIRN_OK) {
		abort();
	}
	cairn_ingest_abort(ing);
	cairn_ingest_close(ing);
}

static void peers_have_it(void *arg, struct cairn_swarm *swarm, const struct cairn_digest *digest)
{
	struct world *w = arg;
	if (cairn_digest_equal(digest, &w->digest)) arrive(w);
	fake_swarm_set(swarm, digest, CAIRN_WANT_HERE, SIZE);
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	w->data = fill_bytes(malloc(SIZE), SIZE, 8);
	w->digest = digest_of(w->data, SIZE, CAIRN_SHA256);
	cairn_digest_format(&w->digest, w->text);
	w->n = node_new(true, false);
	w->swarm = fake_swarm_new(CAIRN_WANT_ASKING);
	w->swarm->on_want = peers_have_it;
	w->swarm->on_want_arg = w;
	w->n->content.swarm = w->swarm;
	w->n->content.stall_ms = 60000;
	OK(put_blob(w->n, "default/1/r", w->data, SIZE));
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	node_free(w->n);
	fake_swarm_free(w->swarm);
	free(w->data);
	free(w);
	return 0;
}

static void path_of(struct world *w, char path[static 300])
{
	snprintf(path, 300, "%s/blobs/sha256/%s", w->n->dir, w->text + 7);
}

/* While the daemon is down, so that nothing is verified or open any more. */
static void damage(struct world *w, off_t at)
{
	char path[300];
	uint8_t byte;
	node_close(w->n);
	path_of(w, path);
	assert_int_equal(chmod(path, 0600), 0);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
	node_open_store(w->n);
	node_serve(w->n);
}

static enum cairn_code read_all(struct world *w, uint8_t *buf, size_t *ret_len)
{
	return read_blob(w->n, w->text, 0, 0, buf, SIZE, ret_len, NULL);
}

static void expect_whole(struct world *w)
{
	uint8_t *buf = malloc(SIZE);
	size_t len = 0;
	OK(read_all(w, buf, &len));
	assert_int_equal(len, SIZE);
	assert_memory_equal(buf, w->data, SIZE);
	free(buf);
}

static void repair__comes_before_a_read_fails(void **state)
{
	struct world *w = *state;
	damage(w, 0);
	expect_whole(w);
	assert_int_equal(fake_swarm_wanted(w->swarm), 1);
	assert_int_equal(w->swarm->fetchers, 0); /* nobody here can fetch it from a registry */
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	assert_int_equal(w->n->content.repaired[1], 1);
	assert_int_equal(state_of(w->n, &w->digest), CAIRN_BLOB_REFERENCED);
	expect_whole(w);
	assert_int_equal(fake_swarm_wanted(w->swarm), 1);
}

static void repair__lets_the_read_go_on_where_it_was(void **state)
{
	struct world *w = *state;
	damage(w, (5u << 20) / 2); /* in the third piece: others were sent by then */
	expect_whole(w);
	assert_int_equal(w->n->content.repaired[1], 1);
}

static void repair__brings_a_lost_file_back(void **state)
{
	struct world *w = *state;
	char path[300];
	path_of(w, path);
	node_close(w->n);
	assert_int_equal(unlink(path), 0);
	node_open_store(w->n);
	node_serve(w->n);
	expect_whole(w);
}

static void repair__that_fails_leaves_the_finding(void **state)
{
	struct world *w = *state;
	uint8_t *buf = malloc(SIZE);
	size_t len = 0;
	w->swarm->on_want = NULL;
	w->swarm->first = CAIRN_WANT_FAILED;
	damage(w, 0);
	assert_int_equal(read_all(w, buf, &len), CAIRN_DATA_LOSS);
	assert_non_null(strstr(node_err.msg, w->text));
	assert_int_equal(len, 0);
	assert_int_equal(w->n->content.repaired[0], 1);
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	w->n->content.swarm = NULL; /* without one it is as it was */
	assert_int_equal(read_all(w, buf, &len), CAIRN_DATA_LOSS);
	assert_int_equal(w->n->content.repaired[0], 1);
	w->n->content.swarm = w->swarm;
	free(buf);
}

static void peers_are_there_at_last(void *arg, struct cairn_swarm *swarm,
				    const struct cairn_digest *digest)
{
	if (fake_swarm_wanted(swarm) >= 3) peers_have_it(arg, swarm, digest);
}

/* As after a start, until the other nodes are known. */
static void repair__waits_for_the_directory(void **state)
{
	struct world *w = *state;
	w->swarm->on_want = peers_are_there_at_last;
	w->swarm->first = CAIRN_WANT_FAILED;
	w->swarm->first_code = CAIRN_UNAVAILABLE;
	damage(w, 0);
	expect_whole(w);
	assert_int_equal(fake_swarm_wanted(w->swarm), 3);
}

static void repair__waits_no_longer_than_for_a_stall(void **state)
{
	struct world *w = *state;
	uint8_t *buf = malloc(SIZE);
	size_t len = 0;
	w->swarm->on_want = NULL;
	w->swarm->first = CAIRN_WANT_FAILED;
	w->swarm->first_code = CAIRN_UNAVAILABLE;
	w->n->content.stall_ms = 300;
	damage(w, 0);
	assert_int_equal(read_all(w, buf, &len), CAIRN_DATA_LOSS);
	assert_in_range(fake_swarm_wanted(w->swarm), 2, 4);
	free(buf);
}

static void *read_one(void *arg)
{
	struct world *w = arg;
	static _Thread_local struct cairn_err err;
	Containerd__Services__Content__V1__ReadContentRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__READ_CONTENT_REQUEST__INIT;
	struct cairn_call *call = NULL;
	struct cairn_msg *msg = NULL;
	uintptr_t bytes = 0;
	req.digest = w->text;
	if (cairn_channel_open(w->n->channel, METHOD("Read"), NULL, 0, 20000, &call, &err)) abort();
	(void)!cairn_call_send(call, &req.base, &err);
	(void)!cairn_call_half_close(call, &err);
	while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
		bytes += cairn_msg_len(msg);
		cairn_msg_free(msg);
	}
	return (void *)(cairn_call_finish(call, &err) == CAIRN_OK ? bytes : 0);
}

static void repair__is_shared_by_all_who_read(void **state)
{
	struct world *w = *state;
	pthread_t threads[READERS];
	w->swarm->on_want = NULL;
	damage(w, 0);
	for (int i = 0; i < READERS; i++) {
		assert_int_equal(pthread_create(&threads[i], NULL, read_one, w), 0);
	}
	UNTIL(fake_swarm_open(w->swarm) == READERS);
	arrive(w);
	fake_swarm_set(w->swarm, &w->digest, CAIRN_WANT_HERE, SIZE);
	for (int i = 0; i < READERS; i++) {
		void *bytes = NULL;
		pthread_join(threads[i], &bytes);
		assert_true((uintptr_t)bytes >= SIZE);
	}
	assert_int_equal(w->n->content.repaired[1], 1);
}

static bool is_over(struct world *w)
{
	pthread_mutex_lock(&w->n->content.repair_mu);
	bool over = w->n->content.repairs == NULL;
	pthread_mutex_unlock(&w->n->content.repair_mu);
	return over;
}

static void repair__ends_with_the_reader(void **state)
{
	struct world *w = *state;
	Containerd__Services__Content__V1__ReadContentRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__READ_CONTENT_REQUEST__INIT;
	struct cairn_call *call = NULL;
	w->swarm->on_want = NULL;
	damage(w, 0);
	req.digest = w->text;
	OK(cairn_channel_open(w->n->channel, METHOD("Read"), NULL, 0, 20000, &call, &node_err));
	OK(cairn_call_send(call, &req.base, &node_err));
	UNTIL(fake_swarm_open(w->swarm) == 1);
	cairn_call_cancel(call);
	(void)!cairn_call_finish(call, &node_err);
	UNTIL(fake_swarm_open(w->swarm) == 0);
	UNTIL(is_over(w));
	assert_int_equal(w->n->content.repaired[0], 0);
}

#define repair_test(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		repair_test(repair__comes_before_a_read_fails),
		repair_test(repair__lets_the_read_go_on_where_it_was),
		repair_test(repair__brings_a_lost_file_back),
		repair_test(repair__that_fails_leaves_the_finding),
		repair_test(repair__waits_for_the_directory),
		repair_test(repair__waits_no_longer_than_for_a_stall),
		repair_test(repair__is_shared_by_all_who_read),
		repair_test(repair__ends_with_the_reader),
	};
	return cmocka_run_group_tests_name("plugin/repair", tests, NULL, NULL);
}
