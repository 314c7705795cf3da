/* The choice of arbiters: evenly spread, and moving little. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "p2p/rendezvous.h"

#define NODES 64
#define BLOBS 20000

static uint64_t nodes[NODES];

static int set_up(void **state)
{
	(void)state;
	for (int i = 0; i < NODES; i++) {
		char address[32];
		snprintf(address, sizeof(address), "10.0.0.%d:7481", i + 1);
		nodes[i] = cairn_rendezvous_node(address);
	}
	return 0;
}

static uint64_t blob(uint32_t k)
{
	struct cairn_hasher h;
	struct cairn_digest d;
	cairn_hasher_init(&h, CAIRN_SHA256);
	cairn_hasher_update(&h, &k, sizeof(k));
	cairn_hasher_digest(&h, &d);
	return cairn_rendezvous_digest(&d);
}

static int arbiter(uint64_t digest, int n)
{
	int best = 0;
	for (int i = 1; i < n; i++) {
		if (cairn_rendezvous_weight(nodes[i], digest) >
		    cairn_rendezvous_weight(nodes[best], digest)) {
			best = i;
		}
	}
	return best;
}

static void weight__spreads_evenly(void **state)
{
	(void)state;
	for (int n = 2; n <= NODES; n *= 2) {
		int count[NODES] = {0}, even = BLOBS / n;
		for (uint32_t k = 0; k < BLOBS; k++) count[arbiter(blob(k), n)]++;
		/* Six standard deviations of a fair choice among 64 are a third of 312. */
		for (int i = 0; i < n; i++) assert_in_range(count[i], even * 2 / 3, even * 4 / 3);
	}
}

static void weight__moves_only_what_a_node_gets_or_had(void **state)
{
	(void)state;
	int moved = 0;
	for (uint32_t k = 0; k < BLOBS; k++) {
		uint64_t d = blob(k);
		int before = arbiter(d, 15), after = arbiter(d, 16);
		if (before == after) continue;
		assert_int_equal(after, 15);
		moved++;
	}
	assert_in_range(moved, BLOBS / 16 * 2 / 3, BLOBS / 16 * 4 / 3);
}

/* Nodes of two releases must agree. */
static void numbers__are_part_of_the_protocol(void **state)
{
	(void)state;
	struct cairn_digest d = {.alg = CAIRN_SHA256};
	for (size_t i = 0; i < 32; i++) d.bytes[i] = (uint8_t)i;
	assert_true(nodes[0] == UINT64_C(0xf2b5c3c77e05cbc9));
	assert_true(cairn_rendezvous_digest(&d) == UINT64_C(0x43ea12dc34c27f13));
	assert_true(cairn_rendezvous_weight(nodes[0], cairn_rendezvous_digest(&d)) ==
		    UINT64_C(0xc2fc4b3bdf475e8b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(weight__spreads_evenly),
		cmocka_unit_test(weight__moves_only_what_a_node_gets_or_had),
		cmocka_unit_test(numbers__are_part_of_the_protocol),
	};
	return cmocka_run_group_tests_name("p2p/rendezvous", tests, set_up, NULL);
}
