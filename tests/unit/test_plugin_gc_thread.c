/* When garbage is collected: the thread, its triggers, and what it tells of itself. */
#include "support/gc_node.h"

#define SOON (5 * SECOND) /* a second, for machines under load */

static int64_t system_ns(void)
{
	return cairn_boot_ns(&cairn_clock_system);
}

/* ---- up and down ---- */

static void stop__with_nobody_to_ask(void **state)
{
	struct gc_node *g = *state;
	start_view(g, false);
	gc_start(g);
	struct cairn_gc_status st = gc_status(g);
	assert_int_equal(st.passes, 0);
	assert_int_equal(st.last.begun_real_ns, 0);
	assert_false(st.unrelieved);
	int64_t before = system_ns();
	g->n->content.gc = NULL;
	cairn_gc_stop(cairn_steal(&g->gc));
	assert_true(system_ns() - before < SOON);
	cairn_gc_stop(NULL);
	cairn_gc_deleted(NULL);
}

static void start__refuses_a_log_that_cannot_be_opened(void **state)
{
	struct gc_node *g = *state;
	start_view(g, false);
	g->opts.log = "/no/such/folder/gc.log";
	assert_int_equal(cairn_gc_start(&g->opts, &g->gc, &node_err), CAIRN_INTERNAL);
	assert_non_null(strstr(node_err.msg, "gc.log: open /no/such/folder/gc.log"));
	assert_null(g->gc);
}

static void stop__while_a_pass_waits_for_containerd(void **state)
{
	struct gc_node *g = *state;
	g->fake.hang = ASK_CONTENT;
	fake_record(&g->fake, "ns", &(struct cairn_digest){.alg = CAIRN_SHA256});
	start_view(g, true);
	g->opts.interval_ms = 1;
	gc_start(g);
	UNTIL(g->fake.asked[ASK_CONTENT] >= 1);
	int64_t before = system_ns();
	cairn_runtime_cancel(g->rt);
	g->n->content.gc = NULL;
	cairn_gc_stop(cairn_steal(&g->gc));
	assert_true(system_ns() - before < SOON);
}

struct request {
	struct gc_node *g;
	_Atomic bool done;
	enum cairn_code rc;
};

static void *request_one(void *arg)
{
	struct request *r = arg;
	struct cairn_gc_pass pass;
	struct cairn_err err;
	const struct cairn_gc_request request = {.dry_run = true};
	r->rc = cairn_gc_run(r->g->gc, &request, &pass, &err);
	if (r->rc == CAIRN_OK) cairn_gc_pass_fini(&pass);
	r->done = true;
	return NULL;
}

static void run__is_cancelled_with_the_view(void **state)
{
	struct gc_node *g = *state;
	struct request r = {.g = g};
	pthread_t thread;
	g->fake.hang = ASK_CONTENT;
	fake_record(&g->fake, "ns", &(struct cairn_digest){.alg = CAIRN_SHA256});
	start_view(g, true);
	gc_start(g);
	assert_int_equal(pthread_create(&thread, NULL, request_one, &r), 0);
	UNTIL(g->fake.asked[ASK_CONTENT] >= 1);
	assert_false(r.done);
	cairn_runtime_cancel(g->rt);
	pthread_join(thread, NULL);
	assert_int_equal(r.rc, CAIRN_CANCELLED);
	assert_int_equal(gc_status(g).passes, 0);
}

static bool no(void *arg)
{
	(void)arg;
	return false;
}

static void run__may_be_called_off_before_it_begins(void **state)
{
	struct gc_node *g = *state;
	struct cairn_gc_pass pass;
	const struct cairn_gc_request request = {.go_on = no};
	start_view(g, false);
	gc_start(g);
	assert_int_equal(cairn_gc_run(g->gc, &request, &pass, &node_err), CAIRN_CANCELLED);
	assert_string_equal(node_err.msg, "the garbage collection was cancelled");
	assert_int_equal(gc_status(g).passes, 0);
}

/* ---- triggers ---- */

static void interval__runs_passes(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	pull_image(g, &im, 1);
	start_view(g, false);
	g->opts.interval_ms = 20;
	gc_start(g);
	UNTIL(gc_status(g).passes >= 2);
	assert_true(is_here(g, &im));
	g->n->skew_ns += KEEP;
	UNTIL(gc_status(g).evicted_blobs[CAIRN_GC_TTL] == 3);
	assert_false(is_here(g, &im));
	struct cairn_gc_status st = gc_status(g);
	assert_int_equal(st.last.trigger, CAIRN_GC_BY_INTERVAL);
	assert_true(st.last.sure);
	assert_int_equal(st.passes_unsure, 0);
	assert_int_equal(st.evicted_bytes[CAIRN_GC_TTL], size_of(&im));
	assert_int_equal(st.evicted_blobs[CAIRN_GC_PRESSURE], 0);
}

static void tick__notices_pressure(void **state)
{
	struct gc_node *g = *state;
	struct node_image one, two;
	pull_image(g, &one, 1);
	g->n->skew_ns += SECOND;
	start_view(g, false);
	g->opts.tick_ms = 10;
	g->opts.rules.marks.high = bytes(size_of(&one));
	g->opts.rules.marks.low = bytes(size_of(&one));
	gc_start(g);
	usleep(100000);
	assert_int_equal(gc_status(g).passes, 0);
	pull_image(g, &two, 2);
	UNTIL(gc_status(g).passes >= 1);
	struct cairn_gc_status st = gc_status(g);
	assert_int_equal(st.last.trigger, CAIRN_GC_BY_PRESSURE);
	assert_true(st.last.relieved);
	assert_false(st.unrelieved);
	UNTIL(gc_status(g).over_high == 0);
	assert_int_equal(state_of(g->n, &one.bytes), 0); /* the one used least recently */
}

/* Nothing may go: that is told once, tried again only much later, and is over when it is. */
static void pressure__that_stays_is_an_alarm_and_no_busy_loop(void **state)
{
	struct gc_node *g = *state;
	struct cairn_digest one = put(g->n, 1);
	start_view(g, false);
	g->opts.tick_ms = 5;
	g->opts.rules.marks.high = g->opts.rules.marks.low = bytes(50);
	gc_start(g);
	UNTIL(gc_status(g).passes == 1 && gc_status(g).unrelieved);
	usleep(200000); /* some forty ticks */
	struct cairn_gc_status st = gc_status(g);
	assert_int_equal(st.passes, 1);
	assert_false(st.last.relieved);
	assert_int_equal(st.over_high, 50);
	assert_int_equal(st.last.to_free, 50);
	OK(delete_blob(g->n, digest_text(fill_bytes((uint8_t[100]){0}, 100, 1), 100)));
	UNTIL(gc_status(g).passes == 2);
	UNTIL(!gc_status(g).unrelieved);
	assert_int_equal(gc_status(g).last.trigger, CAIRN_GC_BY_DELETE);
	assert_true(gc_status(g).last.relieved);
	assert_int_equal(state_of(g->n, &one), 0);
}

static void pressure__that_ends_by_itself_ends_the_alarm(void **state)
{
	struct gc_node *g = *state;
	struct cairn_digest one = put(g->n, 1);
	struct cairn_eviction e = {.digest = one, .used_ns = INT64_MAX};
	start_view(g, false);
	g->opts.tick_ms = 5;
	g->opts.rules.marks.high = g->opts.rules.marks.low = bytes(50);
	gc_start(g);
	UNTIL(gc_status(g).unrelieved);
	cairn_cache_release(g->n->cache, &one);
	OK(cairn_cache_evict(g->n->cache, &e, 1, &node_err));
	UNTIL(!gc_status(g).unrelieved);
	assert_int_equal(gc_status(g).passes, 1);
}

static void delete__above_low_frees_space_within_a_second(void **state)
{
	struct gc_node *g = *state;
	struct cairn_digest one = put(g->n, 1), two = put(g->n, 2);
	start_view(g, false);
	g->opts.rules.marks.low = bytes(100);
	gc_start(g);
	usleep(100000); /* it waits by now, for an hour */
	int64_t before = system_ns();
	OK(delete_blob(g->n, digest_text(fill_bytes((uint8_t[100]){0}, 100, 1), 100)));
	OK(delete_blob(g->n, digest_text(fill_bytes((uint8_t[100]){0}, 100, 2), 100)));
	UNTIL(gc_status(g).passes >= 1);
	assert_true(system_ns() - before < SOON);
	assert_int_equal(gc_status(g).last.trigger, CAIRN_GC_BY_DELETE);
	assert_int_equal(gc_status(g).last.to_free, 100);
	assert_int_equal((state_of(g->n, &one) != 0) + (state_of(g->n, &two) != 0), 1);
	usleep(500000); /* both Deletes were one trigger */
	assert_int_equal(gc_status(g).passes, 1);
}

/* containerd deletes an image's blobs one after the other: one pass is for all of them. */
static void delete__waits_for_those_that_follow(void **state)
{
	struct gc_node *g = *state;
	struct cairn_digest one = put(g->n, 1), two = put(g->n, 2);
	start_view(g, false);
	g->opts.rules.marks.low = bytes(0);
	gc_start(g);
	int64_t before = system_ns();
	cairn_cache_release(g->n->cache, &one);
	cairn_gc_deleted(g->gc);
	usleep(20000);
	cairn_cache_release(g->n->cache, &two);
	cairn_gc_deleted(g->gc);
	bool quick = system_ns() - before < SECOND / 5; /* else nothing can be said */
	UNTIL(state_of(g->n, &one) == 0 && state_of(g->n, &two) == 0);
	UNTIL(gc_status(g).passes >= 1);
	if (quick) assert_int_equal(gc_status(g).passes, 1);
}

static void delete__below_low_starts_nothing(void **state)
{
	struct gc_node *g = *state;
	put(g->n, 1);
	put(g->n, 2);
	start_view(g, false);
	g->opts.rules.marks.low = bytes(200);
	gc_start(g);
	OK(delete_blob(g->n, digest_text(fill_bytes((uint8_t[100]){0}, 100, 1), 100)));
	usleep(700000);
	assert_int_equal(gc_status(g).passes, 0);
}

/* ---- containerd's answers ---- */

static void answers__decide_what_may_go(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	struct cairn_gc_pass pass;
	const struct cairn_gc_request request = {0};
	pull_image(g, &im, 1);
	g->n->skew_ns += KEEP;
	fake_image(&g->fake, "k8s.io", APP, im.root_text);
	start_view(g, true);
	gc_start(g);
	OK(cairn_gc_run(g->gc, &request, &pass, &node_err));
	assert_true(pass.summary.sure);
	assert_int_equal(pass.summary.blobs[CAIRN_GC_IMAGE], 3);
	cairn_gc_pass_fini(&pass);
	assert_int_equal(gc_status(g).versions, 1); /* the listing was remembered before */
	g->fake.broken = ASK_CONTENT;
	fake_remove(&g->fake, ASK_IMAGES, NULL);
	fake_record(&g->fake, "k8s.io", &(struct cairn_digest){.alg = CAIRN_SHA256});
	g->n->skew_ns += KEEP;
	OK(cairn_gc_run(g->gc, &request, &pass, &node_err));
	assert_false(pass.summary.sure);
	assert_non_null(strstr(pass.summary.unsure_why, "this one is broken"));
	assert_int_equal(pass.summary.blobs[CAIRN_GC_UNSURE], 3);
	cairn_gc_pass_fini(&pass);
	assert_int_equal(gc_status(g).passes_unsure, 1);
	assert_true(is_here(g, &im));
	g->fake.broken = ASK_NONE;
	OK(cairn_gc_run(g->gc, &request, &pass, &node_err));
	assert_true(pass.summary.sure);
	assert_int_equal(pass.summary.blobs[CAIRN_GC_VERSION], 3);
	cairn_gc_pass_fini(&pass);
	g->n->skew_ns += 3600 * SECOND;
	OK(cairn_gc_run(g->gc, &request, &pass, &node_err));
	assert_int_equal(pass.summary.blobs[CAIRN_GC_TTL], 3);
	assert_int_equal(pass.summary.trigger, CAIRN_GC_BY_REQUEST);
	cairn_gc_pass_fini(&pass);
	assert_false(is_here(g, &im));
}

static void answers__of_another_containerd_are_not_trusted(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	struct cairn_gc_pass pass;
	const struct cairn_gc_request request = {0};
	pull_image(g, &im, 1);
	g->n->skew_ns += KEEP;
	fake_start(&g->fake, g->n);
	const struct cairn_runtime_opts opts = {.rpc = g->n->rpc,
						.cache = g->n->cache,
						.clock = &g->n->clock,
						.address = g->fake.socket,
						.interval_ms = HOUR_MS};
	OK(cairn_runtime_start(&opts, &g->rt, &node_err));
	cairn_runtime_connected(g->rt, getppid());
	g->opts.runtime = g->rt;
	gc_start(g);
	OK(cairn_gc_run(g->gc, &request, &pass, &node_err));
	assert_false(pass.summary.sure);
	assert_non_null(strstr(pass.summary.unsure_why, "it may be another"));
	assert_int_equal(pass.summary.blobs[CAIRN_GC_UNSURE], 3);
	cairn_gc_pass_fini(&pass);
	struct cairn_gc_look *look = cairn_gc_look(g->gc);
	assert_false(look->pass.summary.sure);
	assert_non_null(strstr(look->pass.summary.unsure_why, "it may be another"));
	cairn_gc_look_unref(look);
}

static void look__changes_nothing_and_waits_for_nobody(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	pull_image(g, &im, 1);
	g->n->skew_ns += KEEP;
	start_view(g, true);
	wait_for_listing(g);
	gc_start(g);
	g->fake.hang = ASK_NAMESPACES;
	int64_t before = system_ns();
	struct cairn_gc_look *look = cairn_gc_look(g->gc);
	assert_true(system_ns() - before < SOON);
	assert_true(look->pass.summary.sure);
	assert_true(look->pass.summary.dry_run);
	assert_int_equal(look->pass.summary.blobs[CAIRN_GC_TTL], 3);
	cairn_gc_look_unref(look);
	assert_true(is_here(g, &im));
	assert_int_equal(gc_status(g).passes, 0);
}

/* ---- the log ---- */

static size_t count_lines(const char *path)
{
	FILE *f = fopen(path, "r");
	size_t n = 0;
	assert_non_null(f);
	for (int c; (c = fgetc(f)) != EOF;) n += c == '\n';
	fclose(f);
	return n;
}

static void log__has_passes_that_acted_and_is_opened_anew(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	struct cairn_gc_pass pass;
	char moved[128];
	struct cairn_gc_request request = {.dry_run = true};
	pull_image(g, &im, 1);
	g->n->skew_ns += KEEP;
	start_view(g, false);
	g->opts.log = g->log;
	gc_start(g);
	OK(cairn_gc_run(g->gc, &request, &pass, &node_err));
	cairn_gc_pass_fini(&pass);
	assert_int_equal(count_lines(g->log), 0);
	request.dry_run = false;
	OK(cairn_gc_run(g->gc, &request, &pass, &node_err));
	cairn_gc_pass_fini(&pass);
	assert_int_equal(count_lines(g->log), 4);
	snprintf(moved, sizeof(moved), "%s.1", g->log);
	assert_int_equal(rename(g->log, moved), 0);
	cairn_gc_reopen_log(g->gc);
	OK(cairn_gc_run(g->gc, &request, &pass, &node_err));
	cairn_gc_pass_fini(&pass);
	assert_int_equal(count_lines(moved), 4);
	assert_int_equal(count_lines(g->log), 1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, gc_setup, gc_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(stop__with_nobody_to_ask),
		CASE(start__refuses_a_log_that_cannot_be_opened),
		CASE(stop__while_a_pass_waits_for_containerd),
		CASE(run__is_cancelled_with_the_view),
		CASE(run__may_be_called_off_before_it_begins),
		CASE(interval__runs_passes),
		CASE(tick__notices_pressure),
		CASE(pressure__that_stays_is_an_alarm_and_no_busy_loop),
		CASE(pressure__that_ends_by_itself_ends_the_alarm),
		CASE(delete__above_low_frees_space_within_a_second),
		CASE(delete__waits_for_those_that_follow),
		CASE(delete__below_low_starts_nothing),
		CASE(answers__decide_what_may_go),
		CASE(answers__of_another_containerd_are_not_trusted),
		CASE(look__changes_nothing_and_waits_for_nobody),
		CASE(log__has_passes_that_acted_and_is_opened_anew),
	};
	return cmocka_run_group_tests_name("plugin/gc", tests, NULL, NULL);
}
