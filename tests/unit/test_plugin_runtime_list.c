/* Asking containerd: what a whole listing holds, that it is whole or none, and what it sees of
 * things that move while it asks. */
#include "support/containerd_fixture.h"

#include "plugin/runtime_list.h"

struct world {
	struct node *n;
	struct fake fake;
	struct cairn_lister lister;
	struct cairn_listing *got;
	struct cairn_digest a, b, c;
	const char *a_text, *b_text;
	int after; /* the method that the hook acts after */
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	char target[128];
	w->n = node_new(true, false);
	fake_init(&w->fake, w->n);
	w->fake.arg = w;
	fake_start(&w->fake, w->n);
	pthread_mutex_init(&w->lister.mu, NULL);
	snprintf(target, sizeof(target), "unix:%s", w->fake.socket);
	OK(cairn_channel_new(w->n->rpc, target, NULL, &w->lister.channel, &node_err));
	w->a = digest_of("a", 1, CAIRN_SHA256);
	w->b = digest_of("b", 1, CAIRN_SHA512);
	w->c = digest_of("c", 1, CAIRN_SHA256);
	w->a_text = fake_text(&w->fake, "", &w->a);
	w->b_text = fake_text(&w->fake, "", &w->b);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	cairn_listing_unref(w->got);
	cairn_channel_free(w->lister.channel);
	fake_stop(&w->fake);
	node_free(w->n);
	free(w);
	return 0;
}

static enum cairn_code list(struct world *w)
{
	cairn_listing_unref(cairn_steal(&w->got));
	return cairn_lister_list(&w->lister, &w->n->clock, &w->got, &node_err);
}

/* Two namespaces with something of everything. */
static void fill(struct world *w)
{
	struct fake *f = &w->fake;
	fake_record(f, "default", &w->a);
	fake_record(f, "k8s.io", &w->b);
	fake_record(f, "k8s.io", &w->a);
	fake_image(f, "default", "app:v1", w->a_text);
	fake_image(f, "k8s.io", "app:v2", w->b_text);
	fake_image(f, "k8s.io", "odd", "md5:1234");
	fake_lease(f, "default", "pull", NULL, "2026-03-01T12:00:00Z");
	fake_lease(f, "k8s.io", "flat", "", NULL);
	fake_resource(f, "default", "pull", "content", w->a_text);
	fake_resource(f, "default", "pull", "ingests", fake_text(f, "layer-", &w->c));
	fake_resource(f, "default", "pull", "snapshots/overlayfs", "key");
	fake_resource(f, "k8s.io", "flat", "content", w->b_text);
	fake_container(f, "k8s.io", "box", "app:v2", 1772366400, 5);
}

static const struct cairn_listed_lease *lease_named(const struct world *w, const char *id)
{
	for (size_t i = 0; i < w->got->n_leases; i++) {
		if (strcmp(w->got->leases[i].id, id) == 0) return &w->got->leases[i];
	}
	return NULL;
}

static bool leased(const struct world *w, const struct cairn_digest *digest)
{
	for (size_t i = 0; i < w->got->n_leases; i++) {
		const struct cairn_listed_lease *lease = &w->got->leases[i];
		for (size_t k = 0; k < lease->n; k++) {
			if (cairn_digest_equal(&lease->content[k], digest)) return true;
		}
	}
	return false;
}

static bool has_image(const struct world *w, const char *name)
{
	for (size_t i = 0; i < w->got->n_images; i++) {
		if (strcmp(w->got->images[i].name, name) == 0) return true;
	}
	return false;
}

static void list__is_all_of_it(void **state)
{
	struct world *w = *state;
	fill(w);
	w->n->skew_ns = 12345 * CAIRN_NS_PER_S;
	int64_t before = cairn_boot_ns(&w->n->clock);
	OK(list(w));
	const struct cairn_listing *l = w->got;
	assert_in_range(l->begun_boot_ns, before, cairn_boot_ns(&w->n->clock));
	assert_int_equal(cairn_digest_set_size(&l->recorded), 2);
	assert_true(cairn_digest_set_has(&l->recorded, &w->a));
	assert_true(cairn_digest_set_has(&l->recorded, &w->b));
	assert_int_equal(l->n_images, 3);
	assert_true(has_image(w, "app:v2"));
	assert_int_equal(l->n_leases, 2);
	const struct cairn_listed_lease *pull = lease_named(w, "pull"),
					*flat = lease_named(w, "flat");
	assert_string_equal(pull->ns, "default");
	assert_false(pull->flat);
	assert_int_equal(pull->expires_ns, 1772366400 * CAIRN_NS_PER_S);
	assert_int_equal(pull->n, 2);
	assert_true(leased(w, &w->c));
	assert_true(flat->flat);
	assert_int_equal(flat->expires_ns, 0);
	assert_int_equal(flat->n, 1);
	assert_int_equal(l->n_containers, 1);
	assert_string_equal(l->containers[0].image, "app:v2");
	assert_string_equal(l->containers[0].ns, "k8s.io");
	assert_int_equal(l->containers[0].created_ns, 1772366400 * CAIRN_NS_PER_S + 5);
}

static void list__of_nothing_is_a_listing(void **state)
{
	struct world *w = *state;
	OK(list(w));
	assert_int_equal(w->got->n_images + w->got->n_leases + w->got->n_containers, 0);
	fake_lease(&w->fake, "default", "alone", NULL, NULL); /* and all else is empty */
	OK(list(w));
	assert_int_equal(w->got->n_leases, 1);
	assert_int_equal(w->got->leases[0].n, 0);
}

static void list__fails_if_any_question_does(void **state)
{
	struct world *w = *state;
	static const char *const names[] = {"Namespaces/List",	    "Leases/List",
					    "Leases/ListResources", "Containers/ListStream",
					    "Images/List",	    "Content/List"};
	fill(w);
	for (int m = 0; m < ASK_N; m++) {
		w->fake.broken = m;
		assert_int_equal(list(w), CAIRN_INTERNAL);
		assert_null(w->got);
		assert_non_null(strstr(node_err.msg, "this one is broken"));
		if (strstr(node_err.msg, names[m]) == NULL) fail_msg("says: %s", node_err.msg);
	}
	/* In one namespace alone, which the error names. */
	w->fake.broken_ns = "k8s.io";
	for (int m = ASK_LEASES; m < ASK_N; m++) {
		if (m == ASK_RESOURCES) continue;
		w->fake.broken = m;
		assert_int_equal(list(w), CAIRN_INTERNAL);
		assert_non_null(strstr(node_err.msg, "namespace k8s.io"));
	}
	w->fake.broken = ASK_NONE;
	OK(list(w));
}

static void list__takes_no_answer_for_an_empty_one(void **state)
{
	struct world *w = *state;
	static const int single[] = {ASK_NAMESPACES, ASK_LEASES, ASK_RESOURCES, ASK_IMAGES};
	fill(w);
	for (size_t i = 0; i < CAIRN_LEN(single); i++) {
		w->fake.silent = single[i];
		assert_int_equal(list(w), CAIRN_INTERNAL);
		assert_non_null(strstr(node_err.msg, "no answer"));
	}
}

static void list__fails_on_nonsense(void **state)
{
	struct world *w = *state;
	static const struct {
		const char *bytes;
		size_t n;
	} bad[] = {
		{"\x05"
		 "abc",
		 4},		     /* it ends too soon */
		{"\x02\x0a\x05", 3}, /* its item does */
		{"\x01\x0b", 2},     /* a group */
		{"\x02\x00\x01", 3}, /* field 0 */
	};
	fill(w);
	for (int m = 0; m < ASK_N; m++) {
		w->fake.junk = m;
		for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
			w->fake.junk_bytes = bad[i].bytes;
			w->fake.junk_len = bad[i].n;
			if (list(w) != CAIRN_INVALID_ARGUMENT) {
				fail_msg("method %d, %zu: %s", m, i, node_err.msg);
			}
		}
	}
	/* Empty items: of no digest, no name. Only a lease must have one: it is asked about. */
	w->fake.junk_bytes = "\x00";
	w->fake.junk_len = 1;
	static const int harmless[] = {ASK_RESOURCES, ASK_CONTAINERS, ASK_IMAGES, ASK_CONTENT};
	for (size_t i = 0; i < CAIRN_LEN(harmless); i++) {
		w->fake.junk = harmless[i];
		OK(list(w));
	}
	w->fake.junk = ASK_LEASES;
	assert_int_equal(list(w), CAIRN_INVALID_ARGUMENT);
}

/* ---- what moves while we ask ------------------------------------------------------------------*/

/* Race 2. */
static void appear(struct fake *f, enum fake_method method, const char *ns)
{
	struct world *w = f->arg;
	(void)ns;
	if (method == ASK_CONTENT && f->asked[ASK_NAMESPACES] == 1) fake_record(f, "new", &w->c);
}

static void race__a_namespace_that_appears_makes_it_none(void **state)
{
	struct world *w = *state;
	fill(w);
	w->fake.hook = appear;
	assert_int_equal(list(w), CAIRN_ABORTED);
	assert_non_null(strstr(node_err.msg, "namespace new appeared"));
	OK(list(w));
	assert_true(cairn_digest_set_has(&w->got->recorded, &w->c));
}

static void vanish(struct fake *f, enum fake_method method, const char *ns)
{
	(void)ns;
	if (method != ASK_NAMESPACES) return;
	fake_remove(f, ASK_CONTENT, NULL);
	fake_remove(f, ASK_IMAGES, NULL);
	fake_remove(f, ASK_LEASES, NULL);
	fake_remove(f, ASK_CONTAINERS, NULL);
}

static void race__a_namespace_that_goes_is_empty(void **state)
{
	struct world *w = *state;
	fill(w);
	w->fake.hook = vanish;
	OK(list(w));
	assert_int_equal(cairn_digest_set_size(&w->got->recorded), 0);
	assert_int_equal(w->got->n_images, 0);
}

/* The end of a pull: the ingest becomes a record, the image is made, and the lease let go of,
 * right after each of the questions in turn. */
static void finish_pull(struct fake *f, enum fake_method method, const char *ns)
{
	struct world *w = f->arg;
	if ((int)method != w->after || (ns != NULL && strcmp(ns, "default") != 0)) return;
	w->after = ASK_NONE; /* once */
	fake_record(f, "default", &w->c);
	fake_image(f, "default", "pulled", fake_text(f, "", &w->c));
	fake_remove(f, ASK_LEASES, "pull");
}

static void race__what_a_pull_hands_on_is_seen_somewhere(void **state)
{
	struct world *w = *state;
	w->fake.hook = finish_pull;
	for (int m = 0; m < ASK_N; m++) {
		fake_forget(&w->fake);
		fill(w);
		w->after = m;
		OK(list(w));
		bool recorded = cairn_digest_set_has(&w->got->recorded, &w->c);
		if (!recorded && !leased(w, &w->c)) fail_msg("after %d it is nowhere", m);
		/* Before the image is asked for, its lease is; so one of them shows it. */
		if (!has_image(w, "pulled") && !leased(w, &w->c)) fail_msg("after %d: no image", m);
	}
}

static void end_lease(struct fake *f, enum fake_method method, const char *ns)
{
	(void)ns;
	if (method == ASK_LEASES) fake_remove(f, ASK_LEASES, "pull");
}

static void race__a_lease_that_ends_meanwhile_is_gone(void **state)
{
	struct world *w = *state;
	fill(w);
	fake_lease(&w->fake, "default", "after", NULL, NULL);
	fake_resource(&w->fake, "default", "after", "content", w->b_text);
	w->fake.hook = end_lease;
	OK(list(w));
	assert_null(lease_named(w, "pull"));
	assert_int_equal(w->got->n_leases, 2);
	assert_int_equal(lease_named(w, "after")->n, 1);
	assert_true(cairn_digest_equal(&lease_named(w, "after")->content[0], &w->b));
	assert_int_equal(lease_named(w, "flat")->n, 1);
}

/* Race 7: between two answers a blob is recorded in the namespace that was asked already, and
 * dropped from the one that is asked next. It is in neither; but it was recorded by a yes of ours
 * that is younger than begun, which the store remembers. */
static void move_over(struct fake *f, enum fake_method method, const char *ns)
{
	struct world *w = f->arg;
	struct cairn_err ignored;
	struct cairn_blob_info info = {0};
	if (method != ASK_CONTENT || strcmp(ns, "one") != 0) return;
	assert_int_equal(cairn_cache_promise(w->n->cache, &w->c, &info, &ignored), CAIRN_OK);
	cairn_blob_info_fini(&info);
	fake_record(f, "one", &w->c);
	fake_remove(f, ASK_CONTENT, fake_text(f, "", &w->c));
}

static void race__what_moves_between_namespaces_is_promised_after_begun(void **state)
{
	struct world *w = *state;
	OK(put_blob(w->n, "one/1/x", "c", 1));
	w->n->skew_ns += CAIRN_PROMISE_GRACE_NS + CAIRN_NS_PER_S;
	fake_record(&w->fake, "one", &w->a);
	fake_record(&w->fake, "two", &w->c);
	w->fake.hook = move_over;
	OK(list(w));
	assert_false(cairn_digest_set_has(&w->got->recorded, &w->c));
	assert_false(cairn_cache_release_unrecorded(w->n->cache, &w->c, w->got->begun_boot_ns));
}

/* ---- images alone, and cancel -----------------------------------------------------------------*/

static void images__alone_are_cheap(void **state)
{
	struct world *w = *state;
	fill(w);
	OK(cairn_lister_list_images(&w->lister, &w->n->clock, &w->got, &node_err));
	assert_int_equal(w->got->n_images, 3);
	assert_int_equal(w->fake.asked[ASK_NAMESPACES], 1);
	assert_int_equal(w->fake.asked[ASK_IMAGES], 2);
	assert_int_equal(w->fake.asked[ASK_CONTENT] + w->fake.asked[ASK_LEASES], 0);
	w->fake.broken = ASK_IMAGES;
	cairn_listing_unref(cairn_steal(&w->got));
	assert_int_equal(cairn_lister_list_images(&w->lister, &w->n->clock, &w->got, &node_err),
			 CAIRN_INTERNAL);
}

static void *cancel_when_asked(void *arg)
{
	struct world *w = arg;
	while (w->fake.asked[w->fake.hang] == 0) usleep(500);
	cairn_lister_cancel(&w->lister);
	return NULL;
}

static void cancel__ends_any_question_at_once(void **state)
{
	struct world *w = *state;
	fill(w);
	for (int m = 0; m < ASK_N; m++) {
		pthread_t thread;
		w->fake.hang = m;
		w->fake.asked[m] = 0;
		w->lister.cancelled = false;
		assert_int_equal(pthread_create(&thread, NULL, cancel_when_asked, w), 0);
		int64_t before = cairn_boot_ns(&cairn_clock_system);
		assert_int_equal(list(w), CAIRN_CANCELLED);
		assert_true(cairn_boot_ns(&cairn_clock_system) - before < 3 * CAIRN_NS_PER_S);
		pthread_join(thread, NULL);
	}
	w->fake.hang = ASK_NONE;
	assert_int_equal(list(w), CAIRN_CANCELLED); /* and each later one */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(list__is_all_of_it),
		TEST(list__of_nothing_is_a_listing),
		TEST(list__fails_if_any_question_does),
		TEST(list__takes_no_answer_for_an_empty_one),
		TEST(list__fails_on_nonsense),
		TEST(race__a_namespace_that_appears_makes_it_none),
		TEST(race__a_namespace_that_goes_is_empty),
		TEST(race__what_a_pull_hands_on_is_seen_somewhere),
		TEST(race__a_lease_that_ends_meanwhile_is_gone),
		TEST(race__what_moves_between_namespaces_is_promised_after_begun),
		TEST(images__alone_are_cheap),
		TEST(cancel__ends_any_question_at_once),
	};
	return cmocka_run_group_tests_name("plugin/runtime_list", tests, NULL, NULL);
}
