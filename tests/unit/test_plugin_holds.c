/* Who claims what: leases, images, containers, pins, versions. */
#include "plugin/holds.h"

#include "support/pass.h"

#define APP "reg.example/app:v1"
#define OTHER "reg.example/other:v1"

struct fixture {
	struct store *s;
	struct image a, b, c;
	struct cairn_listing *l;
	struct cairn_holds_input in;
	struct cairn_holds holds;
};

static struct fixture fx;

static void set_up(struct store *s)
{
	fx = (struct fixture){.s = s, .a = image_new(1), .b = image_new(2), .c = image_new(3)};
	image_put(s, &fx.a);
	image_put(s, &fx.b);
	image_put(s, &fx.c);
	fx.l = cairn_listing_new();
	fx.in = (struct cairn_holds_input){
		.cache = s->cache, .listing = fx.l, .sure = true, .keep_versions = 2};
}

static void tear_down(void)
{
	cairn_holds_fini(&fx.holds);
	cairn_listing_unref(fx.l);
	image_free(&fx.a);
	image_free(&fx.b);
	image_free(&fx.c);
}

static void build(void)
{
	cairn_holds_fini(&fx.holds);
	fx.in.real_ns = fx.s->clock.real_ns;
	fx.in.now_ns = cairn_cache_now_ns(fx.s->cache);
	cairn_holds_build(&fx.in, &fx.holds);
}

/* How many holds of that kind there are on the blob; each must be of the given name. */
static size_t held(enum cairn_gc_why why, const char *what, const struct content *c)
{
	size_t n = 0;
	for (size_t i = 0; i < fx.holds.n; i++) {
		const struct cairn_gc_hold *h = &fx.holds.list[i];
		for (size_t k = 0; h->why == why && k < h->n; k++) {
			if (!cairn_digest_equal(&h->needs[k], &c->digest)) continue;
			assert_string_equal(h->what, what);
			n++;
		}
	}
	return n;
}

/* All of the image, or nothing of it, is held once. */
static void expect_held(enum cairn_gc_why why, const char *what, const struct image *im, bool is)
{
	assert_int_equal(held(why, what, &im->manifest), is);
	assert_int_equal(held(why, what, &im->config), is);
	assert_int_equal(held(why, what, &im->layers[0]), is);
	assert_int_equal(held(why, what, &im->layers[1]), is);
}

static void see_after(int64_t ns, const char *name, const struct image *im)
{
	clock_move(fx.s, ns);
	see(fx.s, name, &im->manifest.digest);
}

/* ---- leases ---- */

static void lease(const char *id, bool flat, int64_t expires_ns, const struct content *c)
{
	list_lease(fx.l, "k8s.io", id, flat, expires_ns, &c->digest, 1);
}

static void leases__hold_what_their_content_needs(void **state)
{
	set_up(*state);
	lease("whole", false, 0, &fx.a.manifest);
	build();
	expect_held(CAIRN_GC_LEASE, "k8s.io/whole", &fx.a, true);
	expect_held(CAIRN_GC_LEASE, "", &fx.b, false);
	tear_down();
}

static void leases__that_are_flat_hold_what_they_name(void **state)
{
	set_up(*state);
	lease("flat", true, 0, &fx.a.manifest);
	build();
	assert_int_equal(held(CAIRN_GC_LEASE, "k8s.io/flat", &fx.a.manifest), 1);
	assert_int_equal(held(CAIRN_GC_LEASE, "", &fx.a.config), 0);
	assert_int_equal(held(CAIRN_GC_LEASE, "", &fx.a.layers[0]), 0);
	tear_down();
}

/* In real time, as containerd has it: at that moment it is over. */
static void leases__end_with_their_time(void **state)
{
	set_up(*state);
	lease("l", false, fx.s->clock.real_ns + 5, &fx.a.manifest);
	build();
	expect_held(CAIRN_GC_LEASE, "k8s.io/l", &fx.a, true);
	fx.s->clock.real_ns += 4;
	build();
	expect_held(CAIRN_GC_LEASE, "k8s.io/l", &fx.a, true);
	fx.s->clock.real_ns += 1;
	build();
	expect_held(CAIRN_GC_LEASE, "", &fx.a, false);
	fx.s->clock.real_ns -= 1; /* the wall clock went back */
	build();
	expect_held(CAIRN_GC_LEASE, "k8s.io/l", &fx.a, true);
	tear_down();
}

static void leases__on_what_is_not_here_hold_that(void **state)
{
	struct content absent = content_new(10, 99);
	set_up(*state);
	lease("l", false, 0, &absent);
	list_lease(fx.l, "ns", "empty", false, 0, NULL, 0);
	build();
	assert_int_equal(held(CAIRN_GC_LEASE, "k8s.io/l", &absent), 1);
	content_free(&absent);
	tear_down();
}

/* ---- images ---- */

static void images__hold_what_they_need(void **state)
{
	set_up(*state);
	list_image(fx.l, "default", APP, &fx.a.manifest.digest);
	list_image(fx.l, "default", "of an unknown algorithm", &(struct cairn_digest){0});
	build();
	expect_held(CAIRN_GC_IMAGE, APP, &fx.a, true);
	expect_held(CAIRN_GC_IMAGE, "", &fx.b, false);
	fx.in.sure = false; /* what an old listing says is better than nothing */
	build();
	expect_held(CAIRN_GC_IMAGE, APP, &fx.a, true);
	fx.in.listing = NULL;
	build();
	expect_held(CAIRN_GC_IMAGE, "", &fx.a, false);
	tear_down();
}

static void image_index__finds_names_and_targets(void **state)
{
	struct cairn_image_index index;
	char name[64];
	set_up(*state);
	for (int i = 40; i-- > 0;) {
		snprintf(name, sizeof(name), "n%d", i);
		list_image(fx.l, "a", name, &fx.a.manifest.digest);
		list_image(fx.l, "b", name, &fx.b.manifest.digest);
	}
	cairn_image_index_init(&index, fx.l);
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_true(cairn_image_index_has(&index, name, NULL));
		assert_true(cairn_image_index_has(&index, name, &fx.a.manifest.digest));
		assert_true(cairn_image_index_has(&index, name, &fx.b.manifest.digest));
		assert_false(cairn_image_index_has(&index, name, &fx.c.manifest.digest));
	}
	assert_false(cairn_image_index_has(&index, "n", NULL));
	assert_false(cairn_image_index_has(&index, "n40", NULL));
	cairn_image_index_fini(&index);
	cairn_image_index_init(&index, NULL);
	assert_false(cairn_image_index_has(&index, "n", NULL));
	cairn_image_index_fini(&index);
	tear_down();
}

/* ---- containers ---- */

/* A container of APP, made so long before now; only the listing's last one counts. */
static void container(int64_t age_ns)
{
	if (fx.l->n_containers > 0) {
		fx.l->containers[0].created_ns = fx.s->clock.real_ns - age_ns;
	} else {
		list_container(fx.l, "k8s.io", "c1", APP, fx.s->clock.real_ns - age_ns);
	}
	build();
}

static void expect_container(bool a, bool b, bool c)
{
	expect_held(CAIRN_GC_CONTAINER, "k8s.io/c1", &fx.a, a);
	expect_held(CAIRN_GC_CONTAINER, "k8s.io/c1", &fx.b, b);
	expect_held(CAIRN_GC_CONTAINER, "k8s.io/c1", &fx.c, c);
}

/* a from 0 to 10 s, b from 20 to 30, c from 40 to 50; now is 100. */
static void see_three(void)
{
	see_after(0, APP, &fx.a);
	see_after(10 * SECOND, APP, &fx.a);
	see_after(10 * SECOND, APP, &fx.b);
	see_after(10 * SECOND, APP, &fx.b);
	see_after(10 * SECOND, APP, &fx.c);
	see_after(10 * SECOND, APP, &fx.c);
	clock_move(fx.s, 50 * SECOND);
}

static void containers__hold_what_their_name_stood_for(void **state)
{
	set_up(*state);
	see_three();
	container(100 * SECOND); /* as a came */
	expect_container(true, false, false);
	container(90 * SECOND); /* as a was seen last */
	expect_container(true, false, false);
	container(85 * SECOND); /* between the two: which of them, nobody can say */
	expect_container(true, true, false);
	container(75 * SECOND); /* of b; the one before may have been seen to end too early */
	expect_container(true, true, false);
	container(55 * SECOND);
	expect_container(false, true, true);
	container(20 * SECOND); /* newer than all */
	expect_container(false, false, true);
	container(500 * SECOND); /* older than all: the first one */
	expect_container(true, false, false);
	fx.l->containers[0].created_ns = 0; /* not said */
	build();
	expect_container(true, false, false);
	tear_down();
}

/* While the node is off, store time stands still: the container looks older than it is. */
static void containers__are_held_after_the_node_was_off(void **state)
{
	set_up(*state);
	see_after(0, APP, &fx.a);
	see_after(10 * SECOND, APP, &fx.b);
	int64_t made = fx.s->clock.real_ns;
	see_after(10 * SECOND, APP, &fx.c);
	fx.s->clock.real_ns += 10 * 24 * 3600 * SECOND;
	container(fx.s->clock.real_ns - made); /* of b, by the wall clock */
	expect_held(CAIRN_GC_CONTAINER, "k8s.io/c1", &fx.b, true);
	tear_down();
}

/* b was current while the container came, though a was current both before and after. */
static void containers__hold_each_version_of_that_time(void **state)
{
	set_up(*state);
	see_after(0, APP, &fx.a);
	see_after(10 * SECOND, APP, &fx.b);
	see_after(10 * SECOND, APP, &fx.b);
	see_after(10 * SECOND, APP, &fx.a); /* rolled back */
	container(15 * SECOND);
	expect_container(true, true, false);
	tear_down();
}

/* Store time and wall clock are two clocks: the difference to now is what counts. */
static void containers__are_found_after_a_jump_of_the_wall_clock(void **state)
{
	set_up(*state);
	see_three();
	fx.s->clock.real_ns += 3600 * SECOND; /* set right before the container came */
	container(10 * SECOND);
	expect_container(false, false, true);
	container(75 * SECOND);
	expect_container(true, true, true); /* by the wall clock, it came after all of them */
	tear_down();
}

static void containers__of_unknown_images_hold_nothing(void **state)
{
	set_up(*state);
	see_after(0, APP, &fx.a);
	list_container(fx.l, "k8s.io", "none", "", fx.s->clock.real_ns);
	list_container(fx.l, "k8s.io", "other", OTHER, fx.s->clock.real_ns);
	build();
	expect_container(false, false, false);
	tear_down();
}

/* ---- pins ---- */

static void pin(const char *target, int64_t for_ns)
{
	struct cairn_err err;
	assert_ok(cairn_cache_pin(fx.s->cache, target, for_ns, &err));
}

static void pins__hold_a_digest(void **state)
{
	char text[CAIRN_DIGEST_STR];
	set_up(*state);
	fx.in.listing = NULL;
	pin(cairn_digest_format(&fx.a.manifest.digest, text), 0);
	build();
	expect_held(CAIRN_GC_PIN, text, &fx.a, true);
	expect_held(CAIRN_GC_PIN, "", &fx.b, false);
	tear_down();
}

static void pins__of_a_name_hold_its_newest_version(void **state)
{
	set_up(*state);
	see_after(0, APP, &fx.a);
	see_after(1, APP, &fx.b);
	pin(APP, 0);
	pin(OTHER, 0); /* nothing is known of it yet */
	build();
	expect_held(CAIRN_GC_PIN, APP, &fx.a, false);
	expect_held(CAIRN_GC_PIN, APP, &fx.b, true);
	see_after(1, APP, &fx.a); /* rolled back */
	build();
	expect_held(CAIRN_GC_PIN, APP, &fx.a, true);
	expect_held(CAIRN_GC_PIN, APP, &fx.b, false);
	tear_down();
}

/* crictl shows the digest of an image's config as its id, and CRI has an image record of that name.
 */
static void pins__of_an_image_id_hold_the_image(void **state)
{
	char id[CAIRN_DIGEST_STR];
	set_up(*state);
	cairn_digest_format(&fx.a.config.digest, id);
	see_after(0, id, &fx.a);
	pin(id, 0);
	build();
	assert_int_equal(held(CAIRN_GC_PIN, id, &fx.a.manifest), 1);
	assert_int_equal(held(CAIRN_GC_PIN, id, &fx.a.layers[0]), 1);
	assert_true(held(CAIRN_GC_PIN, id, &fx.a.config) > 0);
	tear_down();
}

static void pins__end_with_their_time(void **state)
{
	set_up(*state);
	see_after(0, APP, &fx.a);
	pin(APP, 10);
	clock_move(fx.s, 9);
	build();
	expect_held(CAIRN_GC_PIN, APP, &fx.a, true);
	clock_move(fx.s, 1);
	build();
	expect_held(CAIRN_GC_PIN, APP, &fx.a, false);
	assert_int_equal(fx.holds.n_pins, 0);
	tear_down();
}

/* ---- versions ---- */

static void expect_versions(const char *name, bool a, bool b, bool c)
{
	expect_held(CAIRN_GC_VERSION, name, &fx.a, a);
	expect_held(CAIRN_GC_VERSION, name, &fx.b, b);
	expect_held(CAIRN_GC_VERSION, name, &fx.c, c);
}

static void expect_pruned(const char *name, bool a, bool b, bool c)
{
	expect_held(CAIRN_GC_PRUNE, name, &fx.a, a);
	expect_held(CAIRN_GC_PRUNE, name, &fx.b, b);
	expect_held(CAIRN_GC_PRUNE, name, &fx.c, c);
}

static void versions__the_newest_are_kept(void **state)
{
	set_up(*state);
	see_three();
	list_image(fx.l, "k8s.io", APP, &fx.c.manifest.digest);
	const bool want[][3] = {{false, false, false},
				{false, false, true},
				{false, true, true},
				{true, true, true},
				{true, true, true}};
	for (int keep = 0; keep < 5; keep++) {
		fx.in.keep_versions = keep;
		build();
		expect_versions(APP, want[keep][0], want[keep][1], want[keep][2]);
		for (size_t i = 0; i < 3; i++) {
			assert_int_equal(fx.holds.kept[i], i < (size_t)keep);
			assert_false(fx.holds.pruned[i]);
		}
	}
	for (size_t i = 0; i < fx.holds.n; i++) {
		const struct cairn_gc_hold *h = &fx.holds.list[i];
		if (h->why != CAIRN_GC_VERSION) continue;
		for (size_t k = 0; k < 3; k++) { /* when it was last the current one */
			if (!cairn_digest_equal(&fx.holds.versions[k].root, &h->needs[0])) continue;
			assert_true(h->last_ns == fx.holds.versions[k].last_ns);
		}
	}
	tear_down();
}

static void versions__are_kept_for_a_time_after_the_last_record(void **state)
{
	set_up(*state);
	see_after(0, APP, &fx.a);
	see_after(1, APP, &fx.b);
	fx.in.keep_versions_ns = 100;
	clock_move(fx.s, 99);
	build();
	expect_versions(APP, true, true, false);
	clock_move(fx.s, 1);
	build();
	expect_versions(APP, false, false, false);
	list_image(fx.l, "default", APP, &fx.c.manifest.digest); /* whatever it stands for */
	build();
	expect_versions(APP, true, true, false);
	tear_down();
}

/* Without an answer each name may be one that is in use. */
static void versions__are_kept_while_nobody_answers(void **state)
{
	set_up(*state);
	see_after(0, APP, &fx.a);
	see_after(0, OTHER, &fx.b);
	clock_move(fx.s, 1000);
	build();
	expect_versions("", false, false, false);
	fx.in.sure = false;
	fx.in.listing = NULL;
	build();
	expect_held(CAIRN_GC_VERSION, APP, &fx.a, true);
	expect_held(CAIRN_GC_VERSION, OTHER, &fx.b, true);
	tear_down();
}

/* They stand for one manifest for ever: there is nothing to roll back to. */
static void versions__of_names_with_digests_are_not_kept(void **state)
{
	char text[CAIRN_DIGEST_STR], name[CAIRN_DIGEST_STR + 32];
	set_up(*state);
	cairn_digest_format(&fx.a.manifest.digest, text);
	snprintf(name, sizeof(name), "reg.example/app@%s", text);
	see_after(0, name, &fx.a);
	see_after(0, text, &fx.a);
	list_image(fx.l, "k8s.io", name, &fx.a.manifest.digest);
	list_image(fx.l, "k8s.io", text, &fx.a.manifest.digest);
	fx.in.keep_versions_ns = HOUR;
	build();
	expect_versions("", false, false, false);
	assert_true(cairn_name_moves(APP));
	assert_true(cairn_name_moves("sha256/app:v1"));
	assert_false(cairn_name_moves(name));
	assert_false(cairn_name_moves(text));
	assert_false(cairn_name_moves("sha512:00"));
	tear_down();
}

static void prune__drops_all_but_the_newest(void **state)
{
	set_up(*state);
	see_three();
	see_after(0, OTHER, &fx.a);
	list_image(fx.l, "k8s.io", APP, &fx.c.manifest.digest);
	fx.in.keep_versions = 3;
	fx.in.keep_versions_ns = 1; /* the other name is no more */
	clock_move(fx.s, 1);
	fx.in.prune = APP;
	fx.in.prune_keep = 1;
	build();
	expect_versions(APP, false, false, true);
	expect_pruned(APP, true, true, false);
	fx.in.prune_keep = 0;
	build();
	expect_versions(APP, false, false, false);
	expect_pruned(APP, true, true, true);
	fx.in.prune_keep = 7;
	build();
	expect_versions(APP, true, true, true);
	expect_pruned(APP, false, false, false);
	fx.in.prune_keep = 2; /* more than the rules keep of a name that is no more */
	cairn_listing_unref(fx.l);
	fx.in.listing = fx.l = cairn_listing_new();
	build();
	expect_versions(APP, false, false, false);
	expect_pruned(APP, true, false, false);
	tear_down();
}

/* ---- what a root needs ---- */

/* Known once, it is known even when the manifest is gone; what is known in part is read again. */
static void needs__come_from_the_history_when_it_has_all(void **state)
{
	struct cairn_err err;
	set_up(*state);
	struct cairn_needs *part = cairn_needs_new(1), *whole = cairn_needs_new(2);
	part->list[0].digest = whole->list[0].digest = fx.a.manifest.digest;
	whole->list[1].digest = fx.c.layers[0].digest; /* not what the manifest says */
	whole->complete = true;
	assert_ok(cairn_cache_see_version(fx.s->cache, APP, &fx.a.manifest.digest, part, &err));
	list_image(fx.l, "k8s.io", APP, &fx.a.manifest.digest);
	build();
	expect_held(CAIRN_GC_IMAGE, APP, &fx.a, true);
	assert_ok(cairn_cache_see_version(fx.s->cache, OTHER, &fx.a.manifest.digest, whole, &err));
	build();
	assert_int_equal(held(CAIRN_GC_IMAGE, APP, &fx.a.manifest), 1);
	assert_int_equal(held(CAIRN_GC_IMAGE, APP, &fx.c.layers[0]), 1);
	assert_int_equal(held(CAIRN_GC_IMAGE, APP, &fx.a.config), 0);
	cairn_needs_unref(part);
	cairn_needs_unref(whole);
	tear_down();
}

static void holds__of_nothing(void **state)
{
	set_up(*state);
	fx.in.listing = NULL;
	build();
	assert_int_equal(fx.holds.n, 0);
	assert_int_equal(fx.holds.n_versions, 0);
	tear_down();
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, store_setup_open, store_teardown)

/* ---- what is known in part, and how long it takes ---- */

/* The index blob is gone: what is known below it is needed all the same. */
static void history__holds_what_it_knows_in_part(void **state)
{
	set_up(*state);
	const struct part parts[] = {part_for(&fx.a.manifest, TYPE_MANIFEST, "linux"),
				     part_for(&fx.b.layers[0], TYPE_MANIFEST, "plan9")};
	struct content index = index_of(parts, 2), absent = content_new(10, 99);
	put_released(fx.s, &index);
	see(fx.s, APP, &index.digest);
	struct cairn_eviction e = {.digest = index.digest, .used_ns = INT64_MAX};
	struct cairn_err err;
	assert_ok(cairn_cache_evict(fx.s->cache, &e, 1, &err));
	assert_int_equal(e.outcome, CAIRN_EVICT_DONE);
	fx.in.keep_versions_ns = HOUR;
	build();
	expect_held(CAIRN_GC_VERSION, APP, &fx.a, true);
	assert_int_equal(held(CAIRN_GC_VERSION, APP, &index), 1);
	assert_int_equal(held(CAIRN_GC_VERSION, APP, &absent), 0);
	content_free(&index);
	content_free(&absent);
	tear_down();
}

static int64_t cpu_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* As many versions as are remembered: the time grows with their number, not with its square. */
static void versions__may_be_many(void **state)
{
	set_up(*state);
	struct cairn_err err;
	char name[64];
	for (unsigned i = 0; i < CAIRN_VERSIONS_MAX; i++) {
		struct cairn_digest root = digest_of(CAIRN_SHA256, &i, sizeof(i));
		struct cairn_needs *needs = cairn_needs_new(1);
		needs->complete = true;
		needs->list[0].digest = root;
		snprintf(name, sizeof(name), "reg.example/app-%05u:v1", i);
		assert_ok(cairn_cache_see_version(fx.s->cache, name, &root, needs, &err));
		cairn_needs_unref(needs);
	}
	int64_t began = cpu_ms();
	build();
	print_message("%d versions: %d ms\n", CAIRN_VERSIONS_MAX, (int)(cpu_ms() - began));
	assert_true(cpu_ms() - began < 3000);
	assert_int_equal(fx.holds.n_versions, CAIRN_VERSIONS_MAX);
	for (unsigned i = 0; i < CAIRN_VERSIONS_MAX; i++) { /* each once, in order */
		snprintf(name, sizeof(name), "reg.example/app-%05u:v1", i);
		assert_string_equal(fx.holds.versions[i].name, name);
	}
	uint64_t versions, pins;
	cairn_cache_count_history(fx.s->cache, &versions, &pins);
	assert_int_equal(versions, CAIRN_VERSIONS_MAX);
	assert_int_equal(pins, 0);
	tear_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(leases__hold_what_their_content_needs),
		CASE(leases__that_are_flat_hold_what_they_name),
		CASE(leases__end_with_their_time),
		CASE(leases__on_what_is_not_here_hold_that),
		CASE(images__hold_what_they_need),
		CASE(image_index__finds_names_and_targets),
		CASE(containers__are_held_after_the_node_was_off),
		CASE(containers__hold_what_their_name_stood_for),
		CASE(containers__hold_each_version_of_that_time),
		CASE(containers__are_found_after_a_jump_of_the_wall_clock),
		CASE(containers__of_unknown_images_hold_nothing),
		CASE(pins__hold_a_digest),
		CASE(pins__of_a_name_hold_its_newest_version),
		CASE(pins__of_an_image_id_hold_the_image),
		CASE(pins__end_with_their_time),
		CASE(versions__the_newest_are_kept),
		CASE(versions__are_kept_for_a_time_after_the_last_record),
		CASE(versions__are_kept_while_nobody_answers),
		CASE(versions__of_names_with_digests_are_not_kept),
		CASE(prune__drops_all_but_the_newest),
		CASE(needs__come_from_the_history_when_it_has_all),
		CASE(holds__of_nothing),
		CASE(history__holds_what_it_knows_in_part),
		CASE(versions__may_be_many),
	};
	return cmocka_run_group_tests_name("plugin/holds", tests, NULL, NULL);
}
