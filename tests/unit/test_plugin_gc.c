/* One pass on a real store, with listings made up. */
#include "support/gc_fixture.h"

/* ---- each reason alone ---- */

static void ttl__after_keep_and_not_before(void **state)
{
	(void)state;
	image_put(fx.s, &fx.a);
	clock_move(fx.s, KEEP - 1);
	run();
	expect_image(&fx.a, CAIRN_GC_YOUNG, "");
	clock_move(fx.s, 1);
	const struct cairn_gc_summary *s = run();
	expect_image(&fx.a, CAIRN_GC_TTL, "");
	assert_int_equal(s->evicted_blobs, 4);
	assert_int_equal(s->evicted_bytes, sum_of(&fx.a));
	assert_int_equal(s->blobs[CAIRN_GC_TTL], 4);
	assert_int_equal(s->bytes[CAIRN_GC_TTL], sum_of(&fx.a));
	assert_true(s->freed >= sum_of(&fx.a));
	assert_true(s->relieved);
	assert_int_equal(s->to_free, 0);
}

static void referenced__stays(void **state)
{
	(void)state;
	put_old_image(&fx.a);
	cairn_cache_reference(fx.s->cache, &fx.a.layers[0].digest);
	run();
	expect(&fx.a.layers[0], CAIRN_GC_REFERENCED, "");
	expect(&fx.a.layers[1], CAIRN_GC_TTL, "");
}

static void busy__stays(void **state)
{
	(void)state;
	struct cairn_blob *blob;
	struct cairn_view view;
	put_old_image(&fx.a);
	assert_ok(cairn_blob_open(fx.s->cache, &fx.a.layers[0].digest, &blob, &err));
	assert_int_equal(cairn_blob_view(blob, 0, 1, true, &view, &err), CAIRN_VIEW_OK);
	struct cairn_ingest *ing = open_ref(fx.s, "prefilled", &fx.a.layers[1], true, true);
	clock_move(fx.s, KEEP);
	run();
	expect(&fx.a.layers[0], CAIRN_GC_BUSY, "");
	expect(&fx.a.layers[1], CAIRN_GC_BUSY, "");
	expect(&fx.a.config, CAIRN_GC_TTL, "");
	cairn_blob_close(blob); /* the view is still there */
	cairn_ingest_close(ing);
	clock_move(fx.s, KEEP);
	run();
	expect(&fx.a.layers[0], CAIRN_GC_BUSY, "");
	expect(&fx.a.layers[1], CAIRN_GC_TTL, "");
	cairn_view_release(&view);
	run();
	expect(&fx.a.layers[0], CAIRN_GC_TTL, "");
}

static void lease__stays(void **state)
{
	(void)state;
	put_old_image(&fx.a);
	list_lease(fx.l, "k8s.io", "l", false, 0, &fx.a.manifest.digest, 1);
	run();
	expect_image(&fx.a, CAIRN_GC_LEASE, "k8s.io/l");
}

static void container__stays(void **state)
{
	(void)state;
	see(fx.s, APP, &fx.a.manifest.digest);
	put_old_image(&fx.a);
	list_container(fx.l, "k8s.io", "c", APP, fx.s->clock.real_ns);
	run();
	expect_image(&fx.a, CAIRN_GC_CONTAINER, "k8s.io/c");
}

static void image__stays(void **state)
{
	(void)state;
	put_old_image(&fx.a);
	list_image(fx.l, "k8s.io", APP, &fx.a.manifest.digest);
	run();
	expect_image(&fx.a, CAIRN_GC_IMAGE, APP);
}

static void pin__stays(void **state)
{
	(void)state;
	char text[CAIRN_DIGEST_STR];
	put_old_image(&fx.a);
	cairn_digest_format(&fx.a.manifest.digest, text);
	assert_ok(cairn_cache_pin(fx.s->cache, text, 0, &err));
	run();
	expect_image(&fx.a, CAIRN_GC_PIN, text);
}

/* Without an answer, what containerd never had may go, and nothing else. */
static void unsure__stays(void **state)
{
	(void)state;
	put_old_image(&fx.a);
	add_cached(fx.s, &fx.b.layers[0]);
	clock_move(fx.s, KEEP);
	fx.opts.sure = false;
	fx.opts.listing = NULL;
	fx.opts.trigger = CAIRN_GC_BY_DELETE;
	fx.rules.marks.high = fx.rules.marks.low = bytes(1);
	const struct cairn_gc_summary *s = run();
	expect_image(&fx.a, CAIRN_GC_UNSURE, "");
	expect(&fx.b.layers[0], CAIRN_GC_TTL, "");
	assert_false(s->relieved);
}

static void version__stays(void **state)
{
	(void)state;
	put_old_image(&fx.a);
	see(fx.s, APP, &fx.a.manifest.digest);
	fx.rules.keep_versions = 1;
	fx.rules.keep_versions_ns = 1;
	run();
	expect_image(&fx.a, CAIRN_GC_VERSION, APP);
	clock_move(fx.s, 1);
	const struct cairn_gc_summary *s = run();
	expect_image(&fx.a, CAIRN_GC_TTL, "");
	assert_int_equal(s->versions_dropped, 1);
}

static void prune__goes(void **state)
{
	(void)state;
	struct cairn_version *list;
	image_put(fx.s, &fx.a);
	image_put(fx.s, &fx.b);
	see(fx.s, APP, &fx.a.manifest.digest);
	clock_move(fx.s, 1);
	see(fx.s, APP, &fx.b.manifest.digest);
	fx.rules.keep_versions = 2;
	fx.rules.keep_versions_ns = HOUR;
	fx.opts.prune = APP;
	fx.opts.prune_keep = 1;
	const struct cairn_gc_summary *s = run();
	expect_image(&fx.a, CAIRN_GC_PRUNE, APP);
	expect_image(&fx.b, CAIRN_GC_VERSION, APP);
	assert_int_equal(s->versions_dropped, 1);
	size_t n = cairn_cache_versions(fx.s->cache, APP, &list);
	assert_int_equal(n, 1);
	assert_true(cairn_digest_equal(&list[0].root, &fx.b.manifest.digest));
	cairn_versions_free(list, n);
}

static bool never(void *arg)
{
	(*(int *)arg)++;
	return false;
}

/* ---- pressure ---- */

/* Ten blobs of a thousand bytes, the first one used longest ago. */
static void put_ten(struct content ten[10])
{
	for (unsigned i = 0; i < 10; i++) {
		ten[i] = content_new(1000, 100 + i);
		add_cached(fx.s, &ten[i]);
		clock_move(fx.s, 1);
	}
}

static void expect_ten(struct content ten[10], size_t gone)
{
	for (size_t i = 0; i < 10; i++) {
		expect(&ten[i], i < gone ? CAIRN_GC_PRESSURE : CAIRN_GC_YOUNG, "");
		content_free(&ten[i]);
	}
}

static void pressure__starts_above_high_and_stops_at_low(void **state)
{
	(void)state;
	struct content ten[10];
	put_ten(ten);
	fx.rules.marks.high = bytes(9999);
	fx.rules.marks.low = bytes(6500);
	fx.opts.trigger = CAIRN_GC_BY_PRESSURE;
	const struct cairn_gc_summary *s = run();
	assert_int_equal(s->to_free, 3500);
	assert_int_equal(s->evicted_bytes, 4000);
	assert_true(s->relieved);
	expect_ten(ten, 4);
}

static void pressure__at_high_is_none(void **state)
{
	(void)state;
	struct content ten[10];
	put_ten(ten);
	fx.rules.marks.high = bytes(10000);
	fx.rules.marks.low = bytes(0);
	const enum cairn_gc_trigger triggers[] = {CAIRN_GC_BY_INTERVAL, CAIRN_GC_BY_PRESSURE,
						  CAIRN_GC_BY_REQUEST};
	for (size_t i = 0; i < CAIRN_LEN(triggers); i++) {
		fx.opts.trigger = triggers[i];
		assert_int_equal(run()->to_free, 0);
	}
	expect_ten(ten, 0);
}

/* kubelet deletes images to get space, and looks at the disk right after. */
static void pressure__after_a_delete_starts_above_low(void **state)
{
	(void)state;
	struct content ten[10];
	put_ten(ten);
	fx.rules.marks.high = bytes(50000);
	fx.rules.marks.low = bytes(8000);
	fx.opts.trigger = CAIRN_GC_BY_DELETE;
	assert_int_equal(run()->to_free, 2000);
	expect_ten(ten, 2);
}

static void pressure__gives_up_kept_versions_last_and_oldest_first(void **state)
{
	(void)state;
	struct content other = content_new(1000, 7);
	image_put(fx.s, &fx.b);
	see(fx.s, APP, &fx.b.manifest.digest);
	clock_move(fx.s, 1);
	image_put(fx.s, &fx.a);
	see(fx.s, APP, &fx.a.manifest.digest);
	clock_move(fx.s, 1);
	add_cached(fx.s, &other);
	fx.rules.keep_versions = 2;
	fx.rules.keep_versions_ns = HOUR;
	fx.rules.marks.high = fx.rules.marks.low = bytes(sum_of(&fx.a));
	run();
	expect(&other, CAIRN_GC_PRESSURE, "");
	expect_image(&fx.b, CAIRN_GC_PRESSURE, APP);
	expect_image(&fx.a, CAIRN_GC_VERSION, APP);
	content_free(&other);
}

/* Small files take whole blocks: what that frees on disk is not what the store's own bytes fall
 * by, which absolute marks are about. */
/* Whoever asks for room needs it also where no mark is exceeded, and where all is young. */
static void pressure__makes_the_room_that_was_asked_for(void **state)
{
	(void)state;
	image_put(fx.s, &fx.a);
	fx.opts.make_room = 1;
	const struct cairn_gc_summary *s = run();
	assert_true(s->relieved);
	assert_int_equal(s->to_free, 1);
	assert_int_equal(s->evicted_blobs, 1);
	fx.opts.make_room = UINT64_C(1) << 40;
	s = run();
	assert_false(s->relieved);
	assert_int_equal(s->evicted_blobs, 3);
	fx.opts.make_room = 0;
	s = run();
	assert_true(s->relieved);
	assert_int_equal(s->evicted_blobs, 0);
}

static void pressure__is_measured_as_the_marks_are(void **state)
{
	(void)state;
	struct content c;
	struct cairn_gc_disk disk;
	for (unsigned i = 0; i < 200; i++) {
		c = content_new(100, 1000 + i);
		add_cached(fx.s, &c);
		content_free(&c);
	}
	fx.rules.marks.high = bytes(19000);
	fx.rules.marks.low = bytes(2000);
	const struct cairn_gc_summary *s = run();
	assert_int_equal(s->evicted_blobs, 180);
	assert_true(s->relieved);
	cairn_cache_disk(fx.s->cache, &disk);
	assert_int_equal(disk.own, 2000);
	c = content_new(9000, 1);
	add_referenced(fx.s, &c);
	fx.rules.marks.high = fx.rules.marks.low = bytes(1000);
	s = run();
	assert_int_equal(s->evicted_blobs,
			 20); /* all of them, and their blocks are more than 10000 */
	assert_false(s->relieved);
	content_free(&c);
}

/* The plan counts sizes; where a percentage is the mark, it is the blocks on disk that count. */
static void pressure__takes_no_more_than_it_needs(void **state)
{
	(void)state;
	struct cairn_gc_disk disk;
	for (unsigned i = 0; i < 600; i++) {
		struct content c = content_new(100, 1000 + i);
		add_cached(fx.s, &c);
		content_free(&c);
	}
	/* The floor of free space is missed by a hundred blocks. */
	cairn_cache_disk(fx.s->cache, &disk);
	fx.rules.marks.min_free = bytes(disk.free + 100 * 4096);
	const struct cairn_gc_summary *s = run();
	assert_true(s->to_free > 0);
	assert_true(s->relieved);
	/* The index is written between the two looks: some blocks more or less. */
	assert_true(s->evicted_blobs >= 1 && s->evicted_blobs <= 599);
	assert_true(s->freed >= s->to_free && s->freed < s->to_free + 4096 + 1);
	assert_int_equal(s->blobs[CAIRN_GC_PRESSURE] + s->blobs[CAIRN_GC_YOUNG], 600);
}

struct users {
	struct content *list;
	size_t n;
};

static bool use_some(void *arg)
{
	const struct users *users = arg;
	for (size_t i = 0; i < users->n; i++) {
		struct cairn_blob *blob;
		assert_ok(cairn_blob_open(fx.s->cache, &users->list[i].digest, &blob, &err));
		cairn_blob_close(blob);
	}
	return true;
}

static void pressure__finds_others_for_those_that_did_not_go(void **state)
{
	(void)state;
	struct content ten[10];
	struct users users = {ten, 3};
	put_ten(ten);
	clock_move(fx.s, 1);
	fx.rules.marks.high = bytes(9999);
	fx.rules.marks.low = bytes(6500);
	fx.opts.go_on = use_some; /* the first three, between decision and deed */
	fx.opts.arg = &users;
	const struct cairn_gc_summary *s = run();
	assert_true(s->relieved);
	assert_false(s->exhausted);
	assert_int_equal(s->evicted_blobs, 4);
	for (size_t i = 0; i < 10; i++) {
		enum cairn_gc_why why = i < 3	? CAIRN_GC_BUSY
					: i < 7 ? CAIRN_GC_PRESSURE
						: CAIRN_GC_YOUNG;
		expect(&ten[i], why, "");
	}
	for (size_t i = 0; i < 10; i++) content_free(&ten[i]);
}

/* That nothing more may go is said only where it is so. */
static void pressure__that_nothing_relieves_is_told_truly(void **state)
{
	(void)state;
	int asked = 0;
	struct content ten[10];
	put_ten(ten);
	put_released(fx.s, &fx.a.layers[0]);
	fx.rules.marks.high = fx.rules.marks.low = bytes(5000);
	fx.opts.go_on = never;
	fx.opts.arg = &asked;
	assert_false(run()->exhausted); /* it was stopped */
	fx.opts.go_on = NULL;
	fx.opts.sure = false;
	fx.rules.marks.high = fx.rules.marks.low = bytes(fx.a.layers[0].n - 1);
	const struct cairn_gc_summary *s = run();
	assert_false(s->relieved);
	assert_false(s->exhausted); /* containerd did not answer */
	fx.opts.sure = true;
	cairn_cache_reference(fx.s->cache, &fx.a.layers[0].digest);
	s = run();
	assert_false(s->relieved);
	assert_true(s->exhausted);
	for (size_t i = 0; i < 10; i++) content_free(&ten[i]);
}

static void pressure__makes_room_for_who_asks(void **state)
{
	(void)state;
	struct content ten[10];
	put_ten(ten);
	fx.opts.make_room = 3 * 4096;
	const struct cairn_gc_summary *s = run();
	assert_int_equal(s->to_free, 3 * 4096);
	assert_true(s->relieved);
	assert_int_equal(s->evicted_blobs, 3);
	expect_ten(ten, 3);
}

/* ---- what a pass leaves alone ---- */

static void dry_run__changes_nothing(void **state)
{
	(void)state;
	image_put(fx.s, &fx.a);
	see(fx.s, APP, &fx.a.manifest.digest);
	struct content part = content_new(100, 5);
	struct cairn_ingest *ing = open_ref(fx.s, "part", &part, true, false);
	assert_ok(put(ing, 0, part.data, 50, &err));
	cairn_ingest_close(ing);
	clock_move(fx.s, KEEP);
	fx.opts.dry_run = true;
	fx.opts.prune = APP;
	const struct cairn_gc_summary *s = run();
	expect_image(&fx.a, CAIRN_GC_PRUNE, APP);
	assert_int_equal(s->evicted_blobs, 4);
	assert_int_equal(s->blobs[CAIRN_GC_PRUNE], 4);
	assert_int_equal(s->freed, 0);
	assert_int_equal(s->versions_dropped + s->ingests_dropped, 0);
	clock_move(fx.s, HOUR - KEEP); /* an ingest lies for an hour at least */
	fx.opts.dry_run = false;
	s = run();
	expect_image(&fx.a, CAIRN_GC_PRUNE, APP);
	assert_int_equal(s->versions_dropped, 1);
	assert_int_equal(s->ingests_dropped, 1);
	content_free(&part);
}

/* A prune that was stopped may be asked for again. */
static void stopped__forgets_nothing(void **state)
{
	(void)state;
	int asked = 0;
	struct cairn_version *list;
	put_old_image(&fx.a);
	see(fx.s, APP, &fx.a.manifest.digest);
	fx.opts.go_on = never;
	fx.opts.arg = &asked;
	fx.opts.prune = APP;
	const struct cairn_gc_summary *s = run();
	assert_int_equal(asked, 1);
	assert_int_equal(s->evicted_blobs + s->versions_dropped, 0);
	expect_image(&fx.a, CAIRN_GC_LATER, APP);
	size_t n = cairn_cache_versions(fx.s->cache, APP, &list);
	assert_int_equal(n, 1);
	cairn_versions_free(list, n);
}

static bool thrice(void *arg)
{
	return ++*(int *)arg <= 3;
}

/* Between two files, not only between two flushes of the index. */
static void stopped__soon(void **state)
{
	(void)state;
	int asked = 0;
	put_old_image(&fx.a);
	fx.opts.go_on = thrice;
	fx.opts.arg = &asked;
	const struct cairn_gc_summary *s = run();
	assert_int_equal(asked, 4);
	assert_int_equal(s->evicted_blobs, 2);
	assert_int_equal(s->blobs[CAIRN_GC_TTL], 2);
	assert_int_equal(s->blobs[CAIRN_GC_LATER], 2);
	/* Those that stay have their rows again. */
	store_reopen(fx.s);
	fx.opts.cache = fx.s->cache;
	fx.opts.go_on = NULL;
	s = run();
	assert_int_equal(s->blobs[CAIRN_GC_TTL], 2);
}

static bool use_one(void *arg)
{
	struct cairn_blob *blob;
	clock_move(fx.s, 1);
	assert_ok(cairn_blob_open(fx.s->cache, arg, &blob, &err));
	cairn_blob_close(blob);
	return true;
}

static void used_since_the_decision__stays(void **state)
{
	(void)state;
	put_old_image(&fx.a);
	fx.opts.go_on = use_one;
	fx.opts.arg = &fx.a.config.digest;
	const struct cairn_gc_summary *s = run();
	expect(&fx.a.config, CAIRN_GC_BUSY, "");
	expect(&fx.a.manifest, CAIRN_GC_TTL, "");
	assert_int_equal(s->evicted_blobs, 3);
	assert_int_equal(s->blobs[CAIRN_GC_BUSY], 1);
}

static void versions__are_forgotten_when_nothing_is_left(void **state)
{
	(void)state;
	see(fx.s, "reg.example/recorded:v1", &fx.a.manifest.digest);
	see(fx.s, "reg.example/gone:v1", &fx.a.manifest.digest);
	see(fx.s, "reg.example/here:v1", &fx.b.manifest.digest);
	image_put(fx.s, &fx.b);
	list_image(fx.l, "ns", "reg.example/recorded:v1", &fx.a.manifest.digest);
	fx.opts.sure = false;
	assert_int_equal(run()->versions_dropped, 0);
	fx.opts.sure = true;
	assert_int_equal(run()->versions_dropped, 1);
	struct cairn_version *list;
	size_t n = cairn_cache_versions(fx.s->cache, NULL, &list);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].name, "reg.example/here:v1");
	assert_string_equal(list[1].name, "reg.example/recorded:v1");
	cairn_versions_free(list, n);
}

/* ---- history ---- */

static size_t needs_of(const char *name, bool *ret_complete)
{
	struct cairn_version *list;
	size_t n = cairn_cache_versions(fx.s->cache, name, &list), needs = 0;
	assert_int_equal(n, 1);
	if (list[0].needs != NULL) needs = list[0].needs->n;
	*ret_complete = list[0].needs != NULL && list[0].needs->complete;
	cairn_versions_free(list, n);
	return needs;
}

static void evict_all(void)
{
	struct cairn_gc_blob list[16];
	struct cairn_eviction e = {0};
	size_t n = cairn_cache_next_gc(fx.s->cache, &(struct cairn_digest){0}, list, 16);
	for (size_t i = 0; i < n; i++) {
		e.digest = list[i].digest;
		e.used_ns = list[i].used_ns;
		assert_ok(cairn_cache_evict(fx.s->cache, &e, 1, &err));
		assert_int_equal(e.outcome, CAIRN_EVICT_DONE);
	}
}

static void images__what_they_need_is_learned_and_not_unlearned(void **state)
{
	(void)state;
	bool complete;
	const struct part parts[] = {part_for(&fx.a.manifest, TYPE_MANIFEST, "linux"),
				     part_for(&fx.b.manifest, TYPE_MANIFEST, "plan9")};
	struct content index = index_of(parts, 2);
	see(fx.s, APP, &index.digest);
	assert_int_equal(needs_of(APP, &complete), 1);
	assert_false(complete);
	put_released(fx.s, &index);
	put_released(fx.s, &fx.a.manifest);
	see(fx.s, APP, &index.digest);
	assert_int_equal(needs_of(APP, &complete), 6);
	assert_false(complete);
	evict_all();
	see(fx.s, APP, &index.digest);
	assert_int_equal(needs_of(APP, &complete), 6);
	put_released(fx.s, &index);
	put_released(fx.s, &fx.a.manifest);
	put_released(fx.s, &fx.b.manifest);
	see(fx.s, APP, &index.digest);
	assert_int_equal(needs_of(APP, &complete), 9);
	assert_true(complete);
	content_free(&index);
}

static void images__one_bad_name_hides_no_other(void **state)
{
	(void)state;
	char ns[] = "ns", good[] = APP, none[] = "reg.example/none:v1";
	char *long_name = calloc(1, CAIRN_NAME_MAX + 2);
	memset(long_name, 'n', CAIRN_NAME_MAX + 1);
	const struct cairn_listed_image images[] = {
		{ns, long_name, fx.a.manifest.digest},
		{ns, none, {0}},
		{ns, good, fx.a.manifest.digest},
	};
	struct cairn_version *list;
	cairn_gc_remember_images(fx.s->cache, images, 3);
	size_t n = cairn_cache_versions(fx.s->cache, NULL, &list);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].name, APP);
	cairn_versions_free(list, n);
	free(long_name);
}

int main(void)
{
	tmp_own_disk();
	const struct CMUnitTest tests[] = {
		CASE(ttl__after_keep_and_not_before),
		CASE(referenced__stays),
		CASE(busy__stays),
		CASE(lease__stays),
		CASE(container__stays),
		CASE(image__stays),
		CASE(pin__stays),
		CASE(unsure__stays),
		CASE(version__stays),
		CASE(prune__goes),
		CASE(pressure__starts_above_high_and_stops_at_low),
		CASE(pressure__at_high_is_none),
		CASE(pressure__after_a_delete_starts_above_low),
		CASE(pressure__gives_up_kept_versions_last_and_oldest_first),
		CASE(pressure__makes_the_room_that_was_asked_for),
		CASE(pressure__is_measured_as_the_marks_are),
		CASE(dry_run__changes_nothing),
		CASE(stopped__forgets_nothing),
		CASE(stopped__soon),
		CASE(pressure__takes_no_more_than_it_needs),
		CASE(pressure__finds_others_for_those_that_did_not_go),
		CASE(pressure__that_nothing_relieves_is_told_truly),
		CASE(pressure__makes_room_for_who_asks),
		CASE(used_since_the_decision__stays),
		CASE(versions__are_forgotten_when_nothing_is_left),
		CASE(images__what_they_need_is_learned_and_not_unlearned),
		CASE(images__one_bad_name_hides_no_other),
	};
	return cmocka_run_group_tests_name("plugin/gc_pass", tests, NULL, NULL);
}
