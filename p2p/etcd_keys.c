#include "p2p/etcd_keys.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PREFIX_DEFAULT "/cairn/"
#define PORT_MAX 65535

static bool host_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c != '\0' && strchr(".-_:[]%", c) != NULL);
}

/* A number without sign or leading zero, at most max. */
static bool read_number(const char *s, size_t n, uint64_t max, uint64_t *ret)
{
	uint64_t value = 0;
	if (n == 0 || (n > 1 && s[0] == '0')) return false;
	for (size_t i = 0; i < n; i++) {
		if (s[i] < '0' || s[i] > '9') return false;
		uint64_t digit = (uint64_t)(s[i] - '0');
		if (value > (max - digit) / 10) return false;
		value = 10 * value + digit;
	}
	*ret = value;
	return true;
}

bool cairn_etcd_address_ok(const void *s, size_t n)
{
	const char *text = s;
	uint64_t port;
	if (n >= CAIRN_ADDRESS_MAX || n < 3) return false;
	size_t colon = n;
	while (colon > 0 && text[colon - 1] != ':') colon--;
	if (colon < 2) return false; /* none, or no host before it */
	for (size_t i = 0; i < n; i++) {
		if (!host_char(text[i])) return false;
	}
	return read_number(text + colon, n - colon, PORT_MAX, &port) && port > 0;
}

enum cairn_code cairn_etcd_names_init(struct cairn_etcd_names *ret, const char *prefix,
				      const char *address, struct cairn_err *err)
{
	if (prefix == NULL || prefix[0] == '\0') prefix = PREFIX_DEFAULT;
	size_t n = strlen(prefix);
	bool slash = prefix[n - 1] == '/';
	if (n + (slash ? 1 : 2) > sizeof(ret->prefix)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "etcd's prefix is %zu bytes long, at most %zu are allowed", n,
				     sizeof(ret->prefix) - 2);
	}
	if (!cairn_etcd_address_ok(address, strlen(address))) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "\"%.100s\" is no address: host:port", address);
	}
	snprintf(ret->prefix, sizeof(ret->prefix), "%s%s", prefix, slash ? "" : "/");
	snprintf(ret->own, sizeof(ret->own), "%s", address);
	return CAIRN_OK;
}

const char *cairn_etcd_node_key(const struct cairn_etcd_names *names, const char *address,
				char buf[static CAIRN_ETCD_KEY_MAX])
{
	snprintf(buf, CAIRN_ETCD_KEY_MAX, "%sn/%s", names->prefix, address);
	return buf;
}

const char *cairn_etcd_grant_key(const struct cairn_etcd_names *names,
				 const struct cairn_digest *digest,
				 char buf[static CAIRN_ETCD_KEY_MAX])
{
	char text[CAIRN_DIGEST_STR];
	snprintf(buf, CAIRN_ETCD_KEY_MAX, "%sg/%s", names->prefix,
		 cairn_digest_format(digest, text));
	return buf;
}

const char *cairn_etcd_slots_key(const struct cairn_etcd_names *names, enum cairn_etcd_kind kind,
				 const struct cairn_digest *digest,
				 char buf[static CAIRN_ETCD_KEY_MAX])
{
	char text[CAIRN_DIGEST_STR];
	snprintf(buf, CAIRN_ETCD_KEY_MAX, "%s%c/%s/", names->prefix, kind,
		 cairn_digest_format(digest, text));
	return buf;
}

const char *cairn_etcd_slot_key(const struct cairn_etcd_names *names, enum cairn_etcd_kind kind,
				const struct cairn_digest *digest, unsigned slot,
				char buf[static CAIRN_ETCD_KEY_MAX])
{
	assert(slot < CAIRN_HOLDERS_MAX);
	cairn_etcd_slots_key(names, kind, digest, buf);
	size_t n = strlen(buf);
	snprintf(buf + n, CAIRN_ETCD_KEY_MAX - n, "%02u", slot);
	return buf;
}

int cairn_etcd_read_slot(const char *start, const void *key, size_t n)
{
	const char *text = key;
	size_t len = strlen(start);
	if (n != len + 2 || memcmp(text, start, len) != 0) return -1;
	if (text[len] < '0' || text[len] > '9' || text[len + 1] < '0' || text[len + 1] > '9') {
		return -1;
	}
	int slot = 10 * (text[len] - '0') + (text[len + 1] - '0');
	return slot < CAIRN_HOLDERS_MAX ? slot : -1;
}

bool cairn_etcd_read_node(const struct cairn_etcd_names *names, const void *key, size_t n,
			  struct cairn_node_id *ret)
{
	char start[CAIRN_ETCD_KEY_MAX];
	size_t len = strlen(cairn_etcd_node_key(names, "", start));
	if (n < len || memcmp(key, start, len) != 0) return false;
	return cairn_etcd_read_address((const char *)key + len, n - len, ret);
}

bool cairn_etcd_read_address(const void *value, size_t n, struct cairn_node_id *ret)
{
	if (!cairn_etcd_address_ok(value, n)) return false;
	memset(ret, 0, sizeof(*ret));
	memcpy(ret->address, value, n);
	return true;
}

const char *cairn_etcd_grant_value(enum cairn_grant_state state, uint64_t bytes,
				   const char *address, char buf[static CAIRN_ETCD_VALUE_MAX])
{
	snprintf(buf, CAIRN_ETCD_VALUE_MAX, "%c %" PRIu64 " %s",
		 state == CAIRN_GRANT_RUNNING ? 'r' : 'q', bytes, address);
	return buf;
}

bool cairn_etcd_read_grant(const void *value, size_t n, struct cairn_grant *ret)
{
	const char *text = value;
	uint64_t bytes;
	if (n < 4 || n >= CAIRN_ETCD_VALUE_MAX || text[1] != ' ') return false;
	if (text[0] != 'q' && text[0] != 'r') return false;
	const char *space = memchr(text + 2, ' ', n - 2);
	if (space == NULL) return false;
	if (!read_number(text + 2, (size_t)(space - text - 2), UINT64_MAX, &bytes)) return false;
	struct cairn_node_id node;
	size_t head = (size_t)(space + 1 - text);
	if (!cairn_etcd_read_address(space + 1, n - head, &node)) return false;
	ret->state = text[0] == 'r' ? CAIRN_GRANT_RUNNING : CAIRN_GRANT_QUEUED;
	ret->bytes = bytes;
	ret->node = node;
	return true;
}
