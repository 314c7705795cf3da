/* Versions of names, and pins. */
#include "cache/evict.h"
#include "cache/history.h"
#include "support/store.h"

static struct cairn_digest digest_no(unsigned n)
{
	return digest_of(CAIRN_SHA256, &n, sizeof(n));
}

static struct cairn_needs *needs_of(unsigned from, size_t n, bool complete)
{
	struct cairn_needs *needs = cairn_needs_new(n);
	needs->complete = complete;
	for (size_t i = 0; i < n; i++) {
		needs->list[i].digest = digest_no(from + (unsigned)i);
		needs->list[i].size = UINT64_C(1) << (i % 43);
	}
	return needs;
}

static void see(struct store *s, const char *name, unsigned root, struct cairn_needs *needs)
{
	struct cairn_err err;
	struct cairn_digest d = digest_no(root);
	assert_ok(cairn_cache_see_version(s->cache, name, &d, needs, &err));
}

/* "v2 v1" of the roots of a name, newest first. */
static void expect_roots(struct store *s, const char *name, const unsigned *roots, size_t n)
{
	struct cairn_version *list;
	size_t got = cairn_cache_versions(s->cache, name, &list);
	assert_int_equal(got, n);
	for (size_t i = 0; i < n; i++) {
		struct cairn_digest want = digest_no(roots[i]);
		assert_true(cairn_digest_equal(&list[i].root, &want));
		assert_string_equal(list[i].name, name);
	}
	cairn_versions_free(list, got);
}

static void versions__are_ordered_by_when_they_were_current(void **state)
{
	struct store *s = *state;
	see(s, "reg/app:v", 1, NULL);
	clock_move(s, 10);
	see(s, "reg/app:v", 2, NULL);
	clock_move(s, 10);
	expect_roots(s, "reg/app:v", (unsigned[]){2, 1}, 2);
	see(s, "reg/app:v", 1, NULL); /* rolled back */
	expect_roots(s, "reg/app:v", (unsigned[]){1, 2}, 2);
	expect_roots(s, "reg/app", NULL, 0);
}

static void versions__survive_a_restart(void **state)
{
	struct store *s = *state;
	struct cairn_version *list;
	struct cairn_needs *needs = needs_of(100, 70, true);
	see(s, "reg/app:v", 1, needs);
	clock_move(s, 5);
	see(s, "reg/app:v", 2, NULL);
	see(s, "reg/other:v", 3, NULL);
	store_reopen(s);
	size_t n = cairn_cache_versions(s->cache, NULL, &list);
	assert_int_equal(n, 3);
	assert_string_equal(list[0].name, "reg/app:v");
	assert_null(list[0].needs);
	assert_int_equal(list[0].last_ns - list[1].last_ns, 5);
	assert_non_null(list[1].needs);
	assert_true(list[1].needs->complete);
	assert_int_equal(list[1].needs->n, 70);
	for (size_t i = 0; i < 70; i++) {
		assert_true(
			cairn_digest_equal(&list[1].needs->list[i].digest, &needs->list[i].digest));
		assert_int_equal(list[1].needs->list[i].size, needs->list[i].size);
	}
	assert_string_equal(list[2].name, "reg/other:v");
	cairn_versions_free(list, n);
	cairn_needs_unref(needs);
}

/* The last look at a name is not written at once, but a clean end forgets none. */
static void versions__keep_their_order_after_a_restart(void **state)
{
	struct store *s = *state;
	struct cairn_version *list;
	struct cairn_err err;
	see(s, "reg/app:v", 1, NULL);
	clock_move(s, 10);
	see(s, "reg/app:v", 2, NULL);
	clock_move(s, 10);
	assert_ok(cairn_cache_pin(s->cache, "all is written", 0, &err));
	see(s, "reg/app:v", 1, NULL);
	int64_t seen = cairn_cache_now_ns(s->cache);
	store_reopen(s);
	expect_roots(s, "reg/app:v", (unsigned[]){1, 2}, 2);
	size_t n = cairn_cache_versions(s->cache, "reg/app:v", &list);
	assert_true(list[0].last_ns == seen);
	cairn_versions_free(list, n);
}

static void versions__keep_their_needs_when_seen_again(void **state)
{
	struct store *s = *state;
	struct cairn_version *list;
	struct cairn_needs *needs = needs_of(100, 3, false), *better = needs_of(100, 5, true);
	struct cairn_digest root = digest_no(1), other = digest_no(2);
	see(s, "a:b", 1, needs);
	see(s, "a:b", 1, NULL);
	size_t n = cairn_cache_versions(s->cache, "a:b", &list);
	assert_int_equal(n, 1);
	assert_ptr_equal(list[0].needs, needs);
	cairn_cache_set_needs(s->cache, "a:b", &root, better);
	cairn_cache_set_needs(s->cache, "a:b", &other, better); /* not known: ignored */
	cairn_versions_free(list, n);
	n = cairn_cache_versions(s->cache, NULL, &list);
	assert_int_equal(n, 1);
	assert_ptr_equal(list[0].needs, better);
	cairn_versions_free(list, n);
	cairn_needs_unref(needs);
	cairn_needs_unref(better);
}

static void versions__are_forgotten_for_good(void **state)
{
	struct store *s = *state;
	struct cairn_digest d = digest_no(1);
	see(s, "a:b", 1, NULL);
	see(s, "a:b", 2, NULL);
	cairn_cache_forget_version(s->cache, "a:b", &d);
	cairn_cache_forget_version(s->cache, "a:b", &d); /* unknown: fine */
	expect_roots(s, "a:b", (unsigned[]){2}, 1);
	store_reopen(s);
	expect_roots(s, "a:b", (unsigned[]){2}, 1);
	see(s, "a:b", 1, NULL); /* at once after it was forgotten */
	cairn_cache_forget_version(s->cache, "a:b", &d);
	see(s, "a:b", 1, NULL);
	store_reopen(s);
	struct cairn_version *list;
	size_t n = cairn_cache_versions(s->cache, "a:b", &list);
	assert_int_equal(n, 2);
	cairn_versions_free(list, n);
}

static void versions__of_one_name_are_bounded(void **state)
{
	struct store *s = *state;
	struct cairn_version *list;
	struct cairn_digest first = digest_no(0);
	for (unsigned i = 0; i < CAIRN_VERSIONS_OF_A_NAME + 20; i++) {
		see(s, "moving:tag", i, NULL);
		clock_move(s, 1);
	}
	size_t n = cairn_cache_versions(s->cache, "moving:tag", &list);
	assert_int_equal(n, CAIRN_VERSIONS_OF_A_NAME);
	for (size_t i = 0; i < n; i++) assert_false(cairn_digest_equal(&list[i].root, &first));
	cairn_versions_free(list, n);
}

/* The store remembers no more; a name that has reached its own bound makes room for itself. */
static void versions__in_all_are_bounded(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	char name[32];
	struct cairn_digest d = {.alg = CAIRN_SHA256}, other = digest_no(1);
	for (unsigned i = 0; i < CAIRN_VERSIONS_MAX; i++) {
		snprintf(name, sizeof(name), "name-%05u:v", i / CAIRN_VERSIONS_OF_A_NAME);
		memcpy(d.bytes, &i, sizeof(i));
		if (cairn_cache_see_version(s->cache, name, &d, NULL, &err) != CAIRN_OK) {
			fail_msg("%u: %s", i, err.msg);
		}
	}
	assert_code(cairn_cache_see_version(s->cache, "new:v", &other, NULL, &err),
		    CAIRN_RESOURCE_EXHAUSTED);
	assert_ok(cairn_cache_see_version(s->cache, name, &d, NULL, &err));
	assert_ok(cairn_cache_see_version(s->cache, name, &other, NULL, &err));
}

static void versions__refuse_what_is_no_name(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_digest d = digest_no(1), bad = {.alg = 77};
	char name[CAIRN_NAME_MAX + 2];
	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_code(cairn_cache_see_version(s->cache, "", &d, NULL, &err), CAIRN_INVALID_ARGUMENT);
	assert_code(cairn_cache_see_version(s->cache, name, &d, NULL, &err),
		    CAIRN_INVALID_ARGUMENT);
	assert_code(cairn_cache_see_version(s->cache, "a:b", &bad, NULL, &err),
		    CAIRN_INVALID_ARGUMENT);
	name[CAIRN_NAME_MAX] = '\0';
	assert_ok(cairn_cache_see_version(s->cache, name, &d, NULL, &err));
}

/* ---- pins */

static void expect_pins(struct store *s, const char *want)
{
	struct cairn_pin *list;
	char got[256] = "";
	size_t n = cairn_cache_pins(s->cache, &list);
	for (size_t i = 0; i < n; i++) {
		size_t at = strlen(got);
		snprintf(got + at, sizeof(got) - at, "%s ", list[i].target);
	}
	cairn_pins_free(list, n);
	assert_string_equal(got, want);
}

static void pins__are_durable_when_told(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	bool was;
	assert_ok(cairn_cache_pin(s->cache, "b", 0, &err));
	assert_ok(cairn_cache_pin(s->cache, "a", 0, &err));
	expect_pins(s, "a b ");
	assert_ok(cairn_cache_unpin(s->cache, "b", &was, &err));
	assert_true(was);
	assert_ok(cairn_cache_unpin(s->cache, "b", &was, &err));
	assert_false(was);
	store_reopen(s);
	expect_pins(s, "a ");
}

static void pins__end_with_their_time_whatever_the_wall_clock_does(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	assert_ok(cairn_cache_pin(s->cache, "a", 100, &err));
	assert_ok(cairn_cache_pin(s->cache, "b", 100, &err));
	assert_ok(cairn_cache_pin(s->cache, "b", 0, &err)); /* for ever now */
	s->clock.real_ns += 3600 * CAIRN_NS_PER_S;
	s->clock.boot_ns += 99;
	store_reopen(s);
	expect_pins(s, "a b ");
	s->clock.boot_ns += 1;
	expect_pins(s, "b ");
	store_reopen(s);
	expect_pins(s, "b ");
}

static void pins__refuse_nonsense(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	assert_code(cairn_cache_pin(s->cache, "", 0, &err), CAIRN_INVALID_ARGUMENT);
	assert_code(cairn_cache_pin(s->cache, "a", -1, &err), CAIRN_INVALID_ARGUMENT);
	assert_code(cairn_cache_pin(s->cache, "a", INT64_MAX, &err), CAIRN_INVALID_ARGUMENT);
	expect_pins(s, "");
}

#define history_test(f) cmocka_unit_test_setup_teardown(f, store_setup_open, store_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		history_test(versions__are_ordered_by_when_they_were_current),
		history_test(versions__survive_a_restart),
		history_test(versions__keep_their_order_after_a_restart),
		history_test(versions__keep_their_needs_when_seen_again),
		history_test(versions__are_forgotten_for_good),
		history_test(versions__of_one_name_are_bounded),
		history_test(versions__in_all_are_bounded),
		history_test(versions__refuse_what_is_no_name),
		history_test(pins__are_durable_when_told),
		history_test(pins__end_with_their_time_whatever_the_wall_clock_does),
		history_test(pins__refuse_nonsense),
	};
	return cmocka_run_group_tests_name("cache/history", tests, NULL, NULL);
}
