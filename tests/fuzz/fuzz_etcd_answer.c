/* What etcd answers to a transaction: whatever the bytes, what is read from them is within the
 * limits of p2p/directory.h, names others only, each once, and holders first. */
#include <string.h>

#include "p2p/etcd_kv.h"
#include "tests/fuzz/fuzz.h"

#define OWN "own:1"

static void check_found(const struct cairn_etcd_look *look)
{
	const struct cairn_answer *a = &look->answer;
	FUZZ_CHECK(a->n <= CAIRN_FIND_MAX && look->own_join < CAIRN_HOLDERS_MAX);
	FUZZ_CHECK(look->n_whole <= CAIRN_HOLDERS_MAX);
	for (size_t i = 0; i < a->n; i++) {
		const char *address = a->found[i].node.address;
		FUZZ_CHECK(cairn_etcd_address_ok(address, strlen(address)));
		FUZZ_CHECK(strcmp(address, OWN) != 0);
		FUZZ_CHECK(i == 0 || a->found[i - 1].whole || !a->found[i].whole);
		for (size_t k = 0; k < i; k++) {
			FUZZ_CHECK(strcmp(address, a->found[k].node.address) != 0);
		}
	}
}

static void check_grant(const struct cairn_grant *grant)
{
	if (grant->state == CAIRN_GRANT_FREE) {
		FUZZ_CHECK(!grant->ours && grant->version == 0 && grant->node.address[0] == '\0');
		return;
	}
	FUZZ_CHECK(grant->version != 0);
	FUZZ_CHECK(grant->ours == (strcmp(grant->node.address, OWN) == 0));
}

/* Sixteen nodes are more than most inputs have; what does not fit is left out. */
static void check_range(const struct cairn_etcd_reader *reader,
			const Etcdserverpb__RangeResponse *range)
{
	struct cairn_node_id nodes[16];
	char start[CAIRN_ETCD_KEY_MAX];
	size_t n = cairn_etcd_read_nodes(reader->names, range, nodes, CAIRN_LEN(nodes));
	FUZZ_CHECK(n <= CAIRN_LEN(nodes));
	for (size_t i = 1; i < n; i++) {
		FUZZ_CHECK(strcmp(nodes[i - 1].address, nodes[i].address) < 0);
	}
	cairn_etcd_slots_key(reader->names, CAIRN_ETCD_HOLD, reader->digest, start);
	uint64_t seed = 1;
	uint32_t taken = cairn_etcd_read_slots(start, range);
	int slot = cairn_etcd_pick_free(taken, &seed);
	FUZZ_CHECK(slot < 0 ? taken == UINT32_MAX : (taken >> slot & 1) == 0);
}

static void check_all(const struct cairn_etcd_reader *reader, const Etcdserverpb__TxnResponse *r)
{
	struct cairn_etcd_look look;
	struct cairn_grant grant;
	struct cairn_err err;
	int64_t mod;
	if (cairn_etcd_read_look(reader, r, &look, &err) == CAIRN_OK) {
		check_found(&look);
		check_grant(&look.answer.grant);
	}
	if (cairn_etcd_read_grant_answer(reader, r, &grant, &mod, &err) == CAIRN_OK) {
		check_grant(&grant);
	}
	FUZZ_CHECK(cairn_etcd_range_at(r, r->n_responses) == NULL);
	for (size_t i = 0; i < r->n_responses; i++) {
		const Etcdserverpb__RangeResponse *range = cairn_etcd_range_at(r, i);
		const Etcdserverpb__InnerTxnResponse *inner = cairn_etcd_inner_at(r, i);
		if (range != NULL) check_range(reader, range);
		if (inner != NULL) (void)cairn_etcd_read_claim(inner, 7);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cairn_etcd_names names;
	struct cairn_err err;
	/* sha256:0102030000... as in the corpus. */
	const struct cairn_digest digest = {.alg = CAIRN_SHA256, .bytes = {1, 2, 3}};
	FUZZ_CHECK(cairn_etcd_names_init(&names, "/p/", OWN, &err) == CAIRN_OK);
	const struct cairn_etcd_reader reader = {&names, &digest, 7, size};
	Etcdserverpb__TxnResponse *r = etcdserverpb__txn_response__unpack(NULL, size, data);
	if (r == NULL) return 0;
	check_all(&reader, r);
	etcdserverpb__txn_response__free_unpacked(r, NULL);
	return 0;
}
