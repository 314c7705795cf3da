/* Fills, and pulls that wait for them in their second STAT. */
#include "support/content_fixture.h"

#include <pthread.h>

#include "plugin/fills.h"

#define SIZE 300000

struct world {
	struct node *n;
	struct cairn_fills *fills;
	uint8_t data[SIZE];
	struct cairn_digest digest;
	char ref[200], text[CAIRN_DIGEST_STR];
};

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct cairn_hasher h;
	for (size_t i = 0; i < SIZE; i++) w->data[i] = (uint8_t)(i * 7 + i / 251);
	cairn_hasher_init(&h, CAIRN_SHA256);
	cairn_hasher_update(&h, w->data, SIZE);
	cairn_hasher_digest(&h, &w->digest);
	cairn_digest_format(&w->digest, w->text);
	snprintf(w->ref, sizeof(w->ref), "default/1/layer-%s", w->text);
	w->n = node_new(true, false);
	w->fills = cairn_fills_new(w->n->cache);
	w->n->content.waits = true;
	w->n->content.fills = w->fills;
	w->n->content.stall_ms = 60000;
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	node_free(w->n);
	cairn_fills_free(w->fills);
	free(w);
	return 0;
}

static struct cairn_fill *begin(struct world *w)
{
	struct cairn_fill *fill = NULL;
	assert_int_equal(cairn_fills_begin(w->fills, &w->digest, SIZE, &fill, &node_err),
			 CAIRN_FILL_OURS);
	return fill;
}

static void give_bytes(struct world *w, struct cairn_fill *fill, size_t from, size_t to)
{
	OK(cairn_fill_write(fill, w->data + from, to - from, &node_err));
}

/* ---- the pull, a message at a time ---- */

struct pull {
	struct cairn_call *call;
	int64_t offset;
};

static void say(struct pull *p, int action, int64_t offset, const char *ref, const char *expected,
		size_t n, const uint8_t *data)
{
	pb_write req;
	containerd__services__content__v1__write_content_request__init(&req);
	req.action = (Containerd__Services__Content__V1__WriteAction)action;
	if (ref != NULL) req.ref = (char *)(uintptr_t)ref;
	if (expected != NULL) req.expected = (char *)(uintptr_t)expected;
	req.total = SIZE;
	req.offset = offset;
	req.data.data = (uint8_t *)(uintptr_t)data;
	req.data.len = n;
	OK(cairn_call_send(p->call, &req.base, &node_err));
}

/* The answer's offset. */
static int64_t hear(struct pull *p)
{
	struct cairn_msg *msg = NULL;
	const struct cairn_span *spans;
	uint8_t buf[4096];
	size_t len = 0;
	assert_int_equal(cairn_call_recv(p->call, &msg), CAIRN_RECV_MSG);
	size_t n = cairn_msg_spans(msg, &spans);
	for (size_t i = 0; i < n; i++) {
		memcpy(buf + len, spans[i].data, spans[i].len);
		len += spans[i].len;
	}
	cairn_msg_free(msg);
	pb_written *resp =
		containerd__services__content__v1__write_content_response__unpack(NULL, len, buf);
	assert_non_null(resp);
	int64_t offset = resp->offset;
	containerd__services__content__v1__write_content_response__free_unpacked(resp, NULL);
	return offset;
}

static int64_t open_pull(struct world *w, struct pull *p)
{
	OK(cairn_channel_open(w->n->channel, METHOD("Write"), NULL, 0, 60000, &p->call, &node_err));
	say(p, STAT, 0, w->ref, NULL, 0, NULL);
	p->offset = hear(p);
	return p->offset;
}

static void commit(struct world *w, struct pull *p)
{
	say(p, COMMIT, p->offset, NULL, w->text, 0, NULL);
	assert_int_equal(hear(p), SIZE);
	OK(cairn_call_finish(p->call, &node_err));
}

static int state_now(struct world *w)
{
	struct cairn_blob_info info;
	if (cairn_cache_info(w->n->cache, &w->digest, &info, &node_err) != CAIRN_OK) return 0;
	int s = (int)info.state;
	cairn_blob_info_fini(&info);
	return s;
}

/* ---- cases ---- */

static void fills__publishes_and_tells_those_who_wait(void **state)
{
	struct world *w = *state;
	struct cairn_fill *fill = begin(w), *other = NULL;
	assert_int_equal(cairn_fills_begin(w->fills, &w->digest, SIZE, &other, &node_err),
			 CAIRN_FILL_OTHERS);
	assert_ptr_equal(fill, other);
	assert_int_equal(cairn_fill_wait(other, 1, &node_err), CAIRN_FILL_RUNNING);
	give_bytes(w, fill, 0, SIZE);
	cairn_fill_end(fill, NULL);
	assert_int_equal(cairn_fill_wait(other, 60000, &node_err), CAIRN_FILL_DONE);
	cairn_fill_unref(other);
	cairn_fill_unref(fill);
	assert_int_equal(state_now(w), CAIRN_BLOB_CACHED);
	assert_int_equal(cairn_fills_begin(w->fills, &w->digest, SIZE, &fill, &node_err),
			 CAIRN_FILL_HERE);
	assert_null(cairn_fills_find(w->fills, &w->digest, SIZE));
}

static void fills__goes_on_where_it_broke_off(void **state)
{
	struct world *w = *state;
	struct cairn_err why = {CAIRN_UNAVAILABLE, "gone"}, told;
	struct cairn_fill *fill = begin(w);
	give_bytes(w, fill, 0, 100000);
	cairn_fill_end(fill, &why);
	assert_int_equal(cairn_fill_look(fill, NULL, &told), CAIRN_FILL_BROKEN);
	assert_string_equal(told.msg, "gone");
	cairn_fill_unref(fill);
	fill = begin(w);
	assert_int_equal(cairn_fill_offset(fill), 100000);
	give_bytes(w, fill, 100000, SIZE);
	cairn_fill_end(fill, NULL);
	cairn_fill_unref(fill);
	assert_int_equal(state_now(w), CAIRN_BLOB_CACHED);
}

/* The fill's owner waits for the pull: were the pull to wait for the fill, both would stand. */
static void wait__ends_when_the_fill_follows_a_pull(void **state)
{
	struct world *w = *state;
	struct pull p = {0};
	struct cairn_fill *fill = begin(w);
	uint64_t offset;
	assert_int_equal(open_pull(w, &p), 0);
	assert_false(cairn_fill_follows(fill));
	assert_true(cairn_cache_is_written(w->n->cache, &w->digest, &offset));
	say(&p, STAT, 0, NULL, NULL, 0, NULL); /* waits for the fill already, or is about to */
	cairn_fill_follow(fill, true);
	assert_int_equal(hear(&p), 0);
	say(&p, WRITE, 0, NULL, NULL, SIZE, w->data);
	assert_int_equal(hear(&p), SIZE);
	cairn_fill_follow(fill, false);
	assert_false(cairn_fill_follows(fill));
	cairn_fill_end(fill, NULL);
	p.offset = SIZE;
	commit(w, &p);
	cairn_fill_unref(fill);
	assert_int_equal(state_now(w), CAIRN_BLOB_REFERENCED);
}

static void fills__keeps_no_wrong_bytes(void **state)
{
	struct world *w = *state;
	struct cairn_fill *fill = begin(w);
	give_bytes(w, fill, 0, SIZE - 1);
	assert_int_equal(cairn_fill_write(fill, "xy", 2, &node_err), CAIRN_OUT_OF_RANGE);
	uint8_t wrong = (uint8_t)~w->data[SIZE - 1];
	assert_int_equal(cairn_fill_write(fill, &wrong, 1, &node_err), CAIRN_DATA_LOSS);
	assert_non_null(strstr(node_err.msg, w->text));
	cairn_fill_end(fill, &node_err);
	cairn_fill_unref(fill);
	assert_int_equal(state_now(w), 0);
	fill = begin(w);
	assert_int_equal(cairn_fill_offset(fill), 0);
	cairn_fill_end(fill, &node_err);
	cairn_fill_unref(fill);
}

struct later {
	struct world *w;
	struct cairn_fill *fill;
	bool fails;
};

static void *end_later(void *arg)
{
	struct later *l = arg;
	struct cairn_err why = {CAIRN_UNAVAILABLE, "the registry went away"};
	struct timespec nap = {0, 50000000}; /* so that the pull is probably waiting by then */
	nanosleep(&nap, NULL);
	if (l->fails) {
		cairn_fill_end(l->fill, &why);
	} else {
		if (cairn_fill_write(l->fill, l->w->data + 100, SIZE - 100, &why)) abort();
		cairn_fill_end(l->fill, NULL);
	}
	cairn_fill_unref(l->fill);
	return NULL;
}

/* The second STAT's answer while the fill ends. */
static int64_t second_stat(struct world *w, struct pull *p, struct cairn_fill *fill, bool fails)
{
	pthread_t thread;
	struct later l = {w, fill, fails};
	assert_int_equal(pthread_create(&thread, NULL, end_later, &l), 0);
	say(p, STAT, 0, NULL, NULL, 0, NULL);
	int64_t offset = hear(p);
	pthread_join(thread, NULL);
	return offset;
}

static void wait__ends_with_the_whole_blob(void **state)
{
	struct world *w = *state;
	struct pull p;
	struct cairn_fill *fill = begin(w);
	give_bytes(w, fill, 0, 100);
	assert_int_equal(open_pull(w, &p), 0);
	assert_int_equal(second_stat(w, &p, fill, false), SIZE);
	say(&p, STAT, 0, NULL, NULL, 0, NULL);
	assert_int_equal(hear(&p), SIZE);
	commit(w, &p); /* with the offset that it began with */
	assert_int_equal(state_now(w), CAIRN_BLOB_REFERENCED);
}

static void wait__lets_go_when_the_fill_fails(void **state)
{
	struct world *w = *state;
	struct pull p;
	struct cairn_fill *fill = begin(w);
	assert_int_equal(open_pull(w, &p), 0);
	assert_int_equal(second_stat(w, &p, fill, true), 0);
	/* it downloads by itself; a fill that comes later changes nothing of what it was told */
	fill = begin(w);
	say(&p, STAT, 0, NULL, NULL, 0, NULL);
	assert_int_equal(hear(&p), 0);
	give_bytes(w, fill, 0, SIZE);
	cairn_fill_end(fill, NULL);
	cairn_fill_unref(fill);
	say(&p, STAT, 0, NULL, NULL, 0, NULL);
	assert_int_equal(hear(&p), 0);
	say(&p, WRITE, 0, NULL, NULL, SIZE, w->data);
	assert_int_equal(hear(&p), SIZE);
	p.offset = SIZE;
	commit(w, &p);
}

static void wait__lets_go_when_nothing_comes(void **state)
{
	struct world *w = *state;
	struct pull p;
	struct cairn_fill *fill = begin(w);
	w->n->content.stall_ms = 200;
	assert_int_equal(open_pull(w, &p), 0);
	say(&p, STAT, 0, NULL, NULL, 0, NULL);
	assert_int_equal(hear(&p), 0);
	cairn_call_cancel(p.call);
	(void)!cairn_call_finish(p.call, &node_err);
	cairn_fill_end(fill, &node_err);
	cairn_fill_unref(fill);
}

static void wait__of_a_resumed_pull_commits_with_what_it_had(void **state)
{
	struct world *w = *state;
	struct pull p;
	assert_int_equal(open_pull(w, &p), 0);
	say(&p, WRITE, 0, NULL, NULL, 5000, w->data);
	assert_int_equal(hear(&p), 5000);
	OK(cairn_call_half_close(p.call, &node_err));
	OK(cairn_call_finish(p.call, &node_err));
	struct cairn_fill *fill = begin(w);
	give_bytes(w, fill, 0, 100);
	assert_int_equal(open_pull(w, &p), 5000);
	assert_int_equal(second_stat(w, &p, fill, false), SIZE);
	commit(w, &p); /* offset 5000, no data */
	assert_int_equal(state_now(w), CAIRN_BLOB_REFERENCED);
}

static void wait__takes_what_came_since_the_opening(void **state)
{
	struct world *w = *state;
	struct pull p;
	assert_int_equal(open_pull(w, &p), 0);
	struct cairn_fill *fill = begin(w);
	give_bytes(w, fill, 0, SIZE);
	cairn_fill_end(fill, NULL);
	cairn_fill_unref(fill);
	say(&p, STAT, 0, NULL, NULL, 0, NULL);
	assert_int_equal(hear(&p), SIZE);
	commit(w, &p);
}

static void wait__ends_with_the_client(void **state)
{
	struct world *w = *state;
	struct pull p;
	struct cairn_fill *fill = begin(w);
	assert_int_equal(open_pull(w, &p), 0);
	say(&p, STAT, 0, NULL, NULL, 0, NULL);
	cairn_call_cancel(p.call);
	(void)!cairn_call_finish(p.call, &node_err);
	/* its ref is free again */
	assert_int_equal(open_pull(w, &p), 0);
	cairn_call_cancel(p.call);
	(void)!cairn_call_finish(p.call, &node_err);
	cairn_fill_end(fill, &node_err);
	cairn_fill_unref(fill);
}

#define wait_test(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		wait_test(fills__publishes_and_tells_those_who_wait),
		wait_test(fills__goes_on_where_it_broke_off),
		wait_test(fills__keeps_no_wrong_bytes),
		wait_test(wait__ends_when_the_fill_follows_a_pull),
		wait_test(wait__ends_with_the_whole_blob),
		wait_test(wait__lets_go_when_the_fill_fails),
		wait_test(wait__lets_go_when_nothing_comes),
		wait_test(wait__of_a_resumed_pull_commits_with_what_it_had),
		wait_test(wait__takes_what_came_since_the_opening),
		wait_test(wait__ends_with_the_client),
	};
	return cmocka_run_group_tests_name("plugin/wait", tests, NULL, NULL);
}
