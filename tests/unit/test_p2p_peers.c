/* What is known of peers, and the set of digests. */
#include "support/store.h"

#include "p2p/digests.h"
#include "p2p/peers.h"

static struct cairn_digest number(uint64_t n)
{
	return digest_of(CAIRN_SHA256, &n, sizeof(n));
}

static void peers__count_and_fade(void **state)
{
	struct cairn_peers *peers = cairn_peers_new();
	struct cairn_peer_status st[3];
	(void)state;
	cairn_peers_met(peers, "a:1", "node-a");
	for (int64_t ms = 0; ms < 5000; ms += 100) cairn_peers_from(peers, "a:1", 1000, ms);
	cairn_peers_to(peers, "b:1", 500, 0);
	cairn_peers_bad(peers, "b:1", "garbage");
	cairn_peers_failed(peers, "b:1", "gone");
	assert_int_equal(cairn_peers_list(peers, st, 3, 5000), 2);
	assert_string_equal(st[0].address, "b:1");
	assert_int_equal(st[0].to_bytes, 500);
	assert_int_equal(st[0].to_bps, 0);
	assert_int_equal(st[0].bad_pieces, 1);
	assert_int_equal(st[0].failures, 1);
	assert_string_equal(st[0].error, "gone");
	assert_string_equal(st[1].name, "node-a");
	assert_true(st[1].connected);
	assert_int_equal(st[1].from_bytes, 50000);
	assert_in_range(st[1].from_bps, 9000, 11000);
	assert_int_equal(cairn_peers_list(peers, st, 1, 20000), 2);
	cairn_peers_parted(peers, "a:1");
	assert_int_equal(cairn_peers_list(peers, st, 3, 20000), 2);
	assert_false(st[0].connected);
	assert_int_equal(st[0].from_bps, 0);
	cairn_peers_free(peers);
}

static void peers__are_bounded(void **state)
{
	struct cairn_peers *peers = cairn_peers_new();
	char address[32];
	(void)state;
	cairn_peers_met(peers, "first:1", "");
	for (int i = 0; i < 3 * CAIRN_PEERS_MAX; i++) {
		snprintf(address, sizeof(address), "10.0.%d.%d:1", i / 256, i % 256);
		cairn_peers_to(peers, address, 1, i);
	}
	struct cairn_peer_status *st = calloc(CAIRN_PEERS_MAX, sizeof(*st));
	assert_int_equal(cairn_peers_list(peers, st, CAIRN_PEERS_MAX, 0), CAIRN_PEERS_MAX);
	/* Whoever is connected is not forgotten. */
	assert_string_equal(st[CAIRN_PEERS_MAX - 1].address, "first:1");
	free(st);
	cairn_peers_free(peers);
}

static void shun__by_name_for_a_digest(void **state)
{
	struct cairn_peers *peers = cairn_peers_new();
	struct cairn_digest one = number(1), two = number(2);
	(void)state;
	cairn_peers_met(peers, "a:1", "node-a");
	cairn_peers_shun(peers, &one, "a:1", 1000);
	assert_true(cairn_peers_shuns(peers, &one, "a:1", NULL, 2000));
	assert_true(cairn_peers_shuns(peers, &one, "other:1", "node-a", 2000));
	assert_false(cairn_peers_shuns(peers, &one, "other:1", "node-b", 2000));
	assert_false(cairn_peers_shuns(peers, &two, "a:1", NULL, 2000));
	assert_false(cairn_peers_shuns(peers, &one, "a:1", NULL, 1000 + CAIRN_SHUN_MS));
	/* Without a certificate: by address. */
	cairn_peers_shun(peers, &two, "b:1", 1000);
	assert_true(cairn_peers_shuns(peers, &two, "b:1", NULL, 2000));
	assert_false(cairn_peers_doubts(peers, &one, 1000));
	cairn_peers_doubt(peers, &one, 1000);
	assert_true(cairn_peers_doubts(peers, &one, 2000));
	assert_false(cairn_peers_doubts(peers, &two, 2000));
	cairn_peers_free(peers);
}

static void shun__is_bounded(void **state)
{
	struct cairn_peers *peers = cairn_peers_new();
	(void)state;
	for (int i = 0; i < CAIRN_SHUNS_MAX + 10; i++) {
		struct cairn_digest digest = number((uint64_t)i);
		cairn_peers_doubt(peers, &digest, i);
	}
	struct cairn_digest oldest = number(0), newest = number(CAIRN_SHUNS_MAX + 9);
	assert_false(cairn_peers_doubts(peers, &oldest, CAIRN_SHUNS_MAX));
	assert_true(cairn_peers_doubts(peers, &newest, CAIRN_SHUNS_MAX));
	cairn_peers_free(peers);
}

static void digests__are_a_set(void **state)
{
	enum { N = 2000 };
	struct cairn_digests set = {0};
	bool model[N] = {false};
	uint64_t x = 20261124;
	size_t n = 0;
	(void)state;
	for (int i = 0; i < 50000; i++) {
		x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
		size_t k = (size_t)(x >> 33) % N;
		struct cairn_digest digest = number(k);
		bool add = (x >> 32 & 1) != 0;
		if (add) {
			assert_int_equal(cairn_digests_add(&set, &digest), !model[k]);
		} else {
			assert_int_equal(cairn_digests_remove(&set, &digest), model[k]);
		}
		n += (size_t)add - (size_t)model[k];
		model[k] = add;
		assert_int_equal(set.n, n);
	}
	cairn_digests_fini(&set);
	cairn_digests_fini(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(peers__count_and_fade),      cmocka_unit_test(peers__are_bounded),
		cmocka_unit_test(shun__by_name_for_a_digest), cmocka_unit_test(shun__is_bounded),
		cmocka_unit_test(digests__are_a_set),
	};
	return cmocka_run_group_tests_name("p2p/peers", tests, NULL, NULL);
}
