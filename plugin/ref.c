#include "plugin/ref.h"

#include <string.h>

#include "base/own.h"
#include "cache/cache.h"

/* The kinds of MakeRefKey, and what must follow them. */
static void parse_want(struct cairn_ref *ret)
{
	static const char *const kinds[] = {
		"index-", "manifest-", "layer-", "config-", "attestation-", "unknown-",
	};
	const char *rest = NULL;
	bool manifest = false;
	for (size_t i = 0; i < CAIRN_LEN(kinds) && rest == NULL; i++) {
		size_t n = strlen(kinds[i]);
		if (strncmp(ret->client, kinds[i], n) != 0) continue;
		rest = ret->client + n;
		manifest = i < 2;
	}
	if (rest == NULL) return;
	const char *at = strrchr(rest, '@'); /* a digest has none, a name may */
	if (at != NULL) rest = at + 1;
	struct cairn_err ignored;
	struct cairn_digest digest;
	if (cairn_digest_parse(rest, strlen(rest), &digest, &ignored) != CAIRN_OK) return;
	ret->want = digest;
	ret->manifest = manifest;
}

void cairn_ref_parse_client(const char *client, struct cairn_ref *ret)
{
	*ret = (struct cairn_ref){.client = client};
	parse_want(ret);
}

void cairn_ref_parse(const char *ref, struct cairn_ref *ret)
{
	*ret = (struct cairn_ref){.client = ref};
	const char *first = strchr(ref, '/');
	const char *second = first != NULL ? strchr(first + 1, '/') : NULL;
	if (second != NULL && first > ref && second > first + 1) {
		ret->client = second + 1;
		if (first - ref <= CAIRN_OWNER_MAX) {
			ret->owner = ref;
			ret->owner_len = (size_t)(first - ref);
		}
	}
	parse_want(ret);
}

/* The length of the well-formed sequence at s, by the table of RFC 3629 section 4; 0: ill-formed.
 * The terminating zero ends any sequence, so nothing is read beyond it. */
static size_t utf8_sequence(const unsigned char *s)
{
	if (s[0] < 0x80) return 1;
	size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
	unsigned char low = 0x80, high = 0xbf; /* of the second byte */
	if (s[0] == 0xe0) low = 0xa0;
	if (s[0] == 0xed) high = 0x9f;
	if (s[0] == 0xf0) low = 0x90;
	if (s[0] == 0xf4) high = 0x8f;
	if (s[1] < low || s[1] > high) return 0;
	for (size_t i = 2; i < n; i++) {
		if (s[i] < 0x80 || s[i] > 0xbf) return 0;
	}
	return n;
}

bool cairn_ref_is_utf8(const char *s)
{
	const unsigned char *at = (const unsigned char *)s;
	while (*at != 0) {
		size_t n = utf8_sequence(at);
		if (n == 0) return false;
		at += n;
	}
	return true;
}
