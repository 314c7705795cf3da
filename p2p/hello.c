#include "p2p/hello.h"

#include <stdio.h>
#include <string.h>

#include "p2p/address.h"

#define WORDS_MAX 200 /* of a refusal that we repeat */

void cairn_hello_fill(const struct cairn_hello *own, Cairn__Peer__V1__Hello *msg)
{
	cairn__peer__v1__hello__init(msg);
	msg->version_min = 1;
	msg->version_max = CAIRN_PEER_VERSION;
	/* protobuf-c does not write to what it packs. */
	memcpy(&msg->address, &(const char *){own->address}, sizeof(msg->address));
	memcpy(&msg->name, &(const char *){own->name}, sizeof(msg->name));
	memcpy(&msg->instance.data, &(const uint8_t *){own->instance}, sizeof(msg->instance.data));
	msg->instance.len = sizeof(own->instance);
	msg->features = own->features;
}

/* Text that is shown to people. */
static bool is_text(const char *s, size_t max)
{
	size_t n = strlen(s);
	for (size_t i = 0; i < n; i++) {
		if ((unsigned char)s[i] < ' ' || s[i] == 0x7f) return false;
	}
	return n < max;
}

static enum cairn_code refused(const char *words, struct cairn_err *err)
{
	char shown[WORDS_MAX + 1];
	size_t n = 0;
	for (; n < WORDS_MAX && words[n] != '\0'; n++) {
		shown[n] = (unsigned char)words[n] < ' ' || words[n] == 0x7f ? '?' : words[n];
	}
	shown[n] = '\0';
	return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "it refuses us: %s", shown);
}

enum cairn_code cairn_hello_take(const Cairn__Peer__V1__Hello *msg, const struct cairn_hello *own,
				 struct cairn_hello *ret, uint32_t *ret_version,
				 struct cairn_err *err)
{
	bool instance = msg->instance.len == sizeof(own->instance);
	if (instance && memcmp(msg->instance.data, own->instance, sizeof(own->instance)) == 0) {
		return cairn_err_set(err, CAIRN_ABORTED, "it is this node itself");
	}
	if (msg->error[0] != '\0') return refused(msg->error, err);
	if (msg->version_min > msg->version_max || msg->version_max < 1 ||
	    msg->version_min > CAIRN_PEER_VERSION) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "no common version: the one speaks %u to %u of the peer "
				     "protocol, the other %d to %d",
				     msg->version_min, msg->version_max, 1, CAIRN_PEER_VERSION);
	}
	struct cairn_address address;
	struct cairn_err why;
	if (cairn_address_parse(msg->address, false, &address, &why) != CAIRN_OK) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "its Hello: %s", why.msg);
	}
	if (!is_text(msg->name, sizeof(ret->name)) || !instance) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "its Hello: no name, or no instance, that can be one");
	}
	memcpy(ret->address, msg->address, strlen(msg->address) + 1);
	memcpy(ret->name, msg->name, strlen(msg->name) + 1);
	memcpy(ret->instance, msg->instance.data, sizeof(ret->instance));
	ret->features = msg->features;
	*ret_version =
		msg->version_max < CAIRN_PEER_VERSION ? msg->version_max : CAIRN_PEER_VERSION;
	return CAIRN_OK;
}
