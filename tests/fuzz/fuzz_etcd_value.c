/* Keys and values of etcd, and endpoints: whatever is read is within its limits, and what was
 * written from it reads the same. */
#include <string.h>

#include "p2p/etcd_link.h"
#include "tests/fuzz/fuzz.h"

#include "p2p/etcd_keys.h"

static void check_address(const char *address)
{
	size_t n = strlen(address);
	FUZZ_CHECK(n > 0 && n < CAIRN_ADDRESS_MAX && strchr(address, '/') == NULL);
	FUZZ_CHECK(cairn_etcd_address_ok(address, n));
}

static void check_grant(const uint8_t *data, size_t size)
{
	struct cairn_grant grant = {0}, again = {0};
	char value[CAIRN_ETCD_VALUE_MAX];
	if (!cairn_etcd_read_grant(data, size, &grant)) return;
	check_address(grant.node.address);
	FUZZ_CHECK(grant.state != CAIRN_GRANT_FREE);
	cairn_etcd_grant_value(grant.state, grant.bytes, grant.node.address, value);
	FUZZ_CHECK(strlen(value) == size && memcmp(value, data, size) == 0);
	FUZZ_CHECK(cairn_etcd_read_grant(value, size, &again));
	FUZZ_CHECK(again.state == grant.state && again.bytes == grant.bytes);
}

static void check_keys(const uint8_t *data, size_t size)
{
	struct cairn_etcd_names names;
	struct cairn_err err;
	struct cairn_node_id node;
	char key[CAIRN_ETCD_KEY_MAX];
	const struct cairn_digest digest = {.alg = CAIRN_SHA256, .bytes = {1, 2, 3}};
	FUZZ_CHECK(cairn_etcd_names_init(&names, "/p", "host:1", &err) == CAIRN_OK);
	if (cairn_etcd_read_node(&names, data, size, &node)) {
		check_address(node.address);
		cairn_etcd_node_key(&names, node.address, key);
		FUZZ_CHECK(strlen(key) == size && memcmp(key, data, size) == 0);
	}
	cairn_etcd_slots_key(&names, CAIRN_ETCD_HOLD, &digest, key);
	int slot = cairn_etcd_read_slot(key, data, size);
	FUZZ_CHECK(slot >= -1 && slot < CAIRN_HOLDERS_MAX);
	/* The input as the end of a key. */
	size_t n = strlen(key);
	char longer[CAIRN_ETCD_KEY_MAX + 4];
	size_t tail = size < 3 ? size : 3;
	memcpy(longer, key, n);
	memcpy(longer + n, data, tail);
	slot = cairn_etcd_read_slot(key, longer, n + tail);
	if (slot < 0) return;
	cairn_etcd_slot_key(&names, CAIRN_ETCD_HOLD, &digest, (unsigned)slot, key);
	FUZZ_CHECK(strlen(key) == n + tail && memcmp(key, longer, n + tail) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cairn_node_id node;
	struct cairn_etcd_names names;
	struct cairn_err err;
	char target[CAIRN_ADDRESS_MAX];
	bool tls;
	if (cairn_etcd_read_address(data, size, &node)) check_address(node.address);
	check_grant(data, size);
	check_keys(data, size);

	char *text = malloc(size + 1);
	if (text == NULL) abort();
	memcpy(text, data, size);
	text[size] = '\0';
	if (cairn_etcd_read_endpoint(text, target, &tls)) check_address(target);
	if (cairn_etcd_names_init(&names, text, text, &err) == CAIRN_OK) check_address(names.own);
	if (cairn_etcd_names_init(&names, text, "h:1", &err) == CAIRN_OK) {
		FUZZ_CHECK(names.prefix[strlen(names.prefix) - 1] == '/');
	}
	free(text);
	return 0;
}
