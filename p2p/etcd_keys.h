/* Names and values in etcd: p2p/etcd.h says which. Reading takes anything. Pure. */
#ifndef CAIRN_P2P_ETCD_KEYS_H
#define CAIRN_P2P_ETCD_KEYS_H

#include <assert.h>

#include "p2p/etcd.h"

/* The longest: g/, h/ or j/ and a digest and a slot; or n/ and an address. */
#define CAIRN_ETCD_KEY_MAX (CAIRN_ETCD_PREFIX_MAX + CAIRN_ADDRESS_MAX + 8)
#define CAIRN_ETCD_VALUE_MAX (CAIRN_ADDRESS_MAX + 24)

static_assert(CAIRN_ADDRESS_MAX > CAIRN_DIGEST_STR + 3, "the longest key is a node's");

enum cairn_etcd_kind { CAIRN_ETCD_HOLD = 'h', CAIRN_ETCD_JOIN = 'j' };

struct cairn_etcd_names {
	char prefix[CAIRN_ETCD_PREFIX_MAX]; /* ends in "/" */
	char own[CAIRN_ADDRESS_MAX];	    /* address */
};

/* Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_etcd_names_init(struct cairn_etcd_names *ret,
						    const char *prefix, const char *address,
						    struct cairn_err *err);

/* host:port, made of what hosts and ports are made of, short enough. */
bool cairn_etcd_address_ok(const void *s, size_t n);

/* ---- keys. Each returns buf. */

const char *cairn_etcd_node_key(const struct cairn_etcd_names *names, const char *address,
				char buf[static CAIRN_ETCD_KEY_MAX]);
const char *cairn_etcd_grant_key(const struct cairn_etcd_names *names,
				 const struct cairn_digest *digest,
				 char buf[static CAIRN_ETCD_KEY_MAX]);
const char *cairn_etcd_slot_key(const struct cairn_etcd_names *names, enum cairn_etcd_kind kind,
				const struct cairn_digest *digest, unsigned slot,
				char buf[static CAIRN_ETCD_KEY_MAX]);
/* Where the slots begin; ends in "/". */
const char *cairn_etcd_slots_key(const struct cairn_etcd_names *names, enum cairn_etcd_kind kind,
				 const struct cairn_digest *digest,
				 char buf[static CAIRN_ETCD_KEY_MAX]);

/* The slot of a key that begins like start; -1: it is none. */
int cairn_etcd_read_slot(const char *start, const void *key, size_t n);
/* The address of a node's key; false: it is none. */
bool cairn_etcd_read_node(const struct cairn_etcd_names *names, const void *key, size_t n,
			  struct cairn_node_id *ret);

/* ---- values */

const char *cairn_etcd_grant_value(enum cairn_grant_state state, uint64_t bytes,
				   const char *address, char buf[static CAIRN_ETCD_VALUE_MAX]);
/* state, node and bytes of *ret; false: it is none. */
bool cairn_etcd_read_grant(const void *value, size_t n, struct cairn_grant *ret);
bool cairn_etcd_read_address(const void *value, size_t n, struct cairn_node_id *ret);

#endif
