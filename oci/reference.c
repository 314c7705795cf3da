/* Image names, by hand instead of by regular expression, so that an error can say at which byte the
 * text stops being one.
 *
 *   reference  := [registry "/"] path [":" tag] ["@" digest]
 *   registry   := host [":" port]            port := one or more digits
 *   host       := label *("." label) | "[" hex digits and colons "]"
 *   label      := letters and digits, and "-" between them
 *   path       := component *("/" component)
 *   component  := lower-case letters and digits, and between them one of "." "_" "__" or any "-"
 *   tag        := letters, digits, "_", "." and "-", not beginning with the last two; 128 bytes
 *   digest     := sha256 or sha512, as base/digest.h has them
 *
 * What stands before the first slash is a registry if it cannot be, or is unlikely to be, a
 * component: it has a dot, a colon or an upper-case letter, or is "localhost". Everything else is
 * at docker.io, where a path of one component is below "library/". */
#include "oci/oci.h"

#include <stdio.h>
#include <string.h>

#include "oci/show.h"

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

#define HUB "docker.io"
#define HUB_OLD "index.docker.io"
#define HUB_LIBRARY "library/"

#define REGISTRY_MAX (sizeof(((struct cairn_reference *)0)->registry) - 1)
#define REPOSITORY_MAX (sizeof(((struct cairn_reference *)0)->repository) - 1)
#define TAG_MAX (sizeof(((struct cairn_reference *)0)->tag) - 1)

/* A text being read. The take_ functions go over what they are named for; false: they stopped at
 * the byte that is wrong, and want says what would be right. */
struct scan {
	const char *text; /* terminated, so that text[at] can always be looked at */
	size_t at;
	const char *want;
};

static bool refuse(struct scan *s, const char *want)
{
	s->want = want;
	return false;
}

/* Go over the bytes that are in set; false: there are none. */
static bool take_any(struct scan *s, const char *set)
{
	size_t n = strspn(s->text + s->at, set);
	s->at += n;
	return n > 0;
}

static bool take_byte(struct scan *s, char c)
{
	if (s->text[s->at] != c) return false;
	s->at++;
	return true;
}

static bool take_labels(struct scan *s)
{
	do {
		do {
			if (!take_any(s, LOWER UPPER DIGITS)) {
				return refuse(s, "a letter or a digit of a registry's host name");
			}
		} while (take_any(s, "-"));
	} while (take_byte(s, '.'));
	return true;
}

static bool take_address(struct scan *s)
{
	if (!take_any(s, DIGITS "abcdefABCDEF:") || !take_byte(s, ']')) {
		return refuse(s, "an IPv6 address (hex digits and colons) and ]");
	}
	return true;
}

static bool take_registry(struct scan *s)
{
	if (!(take_byte(s, '[') ? take_address(s) : take_labels(s))) return false;
	if (take_byte(s, ':') && !take_any(s, DIGITS)) {
		bool scheme = strncmp(s->text + s->at, "//", 2) == 0;
		return refuse(s, scheme ? "a registry without a scheme (https:// and the like)"
					: "the digits of a registry's port");
	}
	if (s->text[s->at] != '/') {
		return refuse(s, s->text[s->at - 1] == ']'
					 ? "a port (: and digits) or a slash after a registry"
					 : "a registry (host or host:port) and a slash");
	}
	if (s->at > REGISTRY_MAX) {
		s->at = REGISTRY_MAX;
		return refuse(s, "the end of a registry of at most 255 bytes");
	}
	return true;
}

static size_t separator_length(const char *s)
{
	if (s[0] == '-') return strspn(s, "-");
	if (s[0] == '_') return s[1] == '_' ? 2 : 1;
	return s[0] == '.' ? 1 : 0;
}

/* room: what the path may be long. */
static bool take_path(struct scan *s, size_t room)
{
	size_t start = s->at;
	do {
		for (size_t n = 1; n > 0; s->at += n) {
			if (!take_any(s, LOWER DIGITS)) {
				return refuse(s, "a lower-case letter or a digit of a repository");
			}
			n = separator_length(s->text + s->at);
		}
	} while (take_byte(s, '/'));
	if (s->text[s->at] != '\0' && s->text[s->at] != ':' && s->text[s->at] != '@') {
		return refuse(s, "a repository (lower-case letters, digits and . _ - / between "
				 "them), : and a tag, or @ and a digest");
	}
	if (s->at - start > room) {
		s->at = start + room;
		return refuse(s, "the end of a repository of at most 255 bytes");
	}
	return true;
}

static bool take_tag(struct scan *s)
{
	size_t start = s->at;
	if (s->text[s->at] == '.' || s->text[s->at] == '-' ||
	    !take_any(s, LOWER UPPER DIGITS "_.-")) {
		return refuse(s, "a letter, a digit or _ of a tag");
	}
	if (s->at - start > TAG_MAX) {
		s->at = start + TAG_MAX;
		return refuse(s, "the end of a tag of at most 128 bytes");
	}
	if (s->text[s->at] != '\0' && s->text[s->at] != '@') {
		return refuse(s, "a tag (letters, digits and _ . -) or @ and a digest");
	}
	return true;
}

/* base/digest.c judges; this only finds the byte that it stumbled over. */
static bool take_digest(struct scan *s, struct cairn_digest *ret)
{
	struct cairn_err ignored;
	const char *text = s->text + s->at;
	if (cairn_digest_parse(text, strlen(text), ret, &ignored) == CAIRN_OK) return true;
	for (uint8_t alg = CAIRN_SHA256; alg <= CAIRN_SHA512; alg++) {
		const char *name = cairn_alg_name(alg);
		size_t n = strlen(name), digits = 2 * cairn_alg_bytes(alg);
		if (strncmp(text, name, n) != 0 || text[n] != ':') continue;
		size_t good = strspn(text + n + 1, DIGITS "abcdef");
		s->at += n + 1 + (good < digits ? good : digits);
	}
	return refuse(s, "a digest: sha256:<64 hex> or sha512:<128 hex>, in lower case");
}

/* Does the text begin with a registry, its first slash being at n? */
static bool has_registry(const char *text, size_t n)
{
	if (n == strlen("localhost") && memcmp(text, "localhost", n) == 0) return true;
	return strcspn(text, ".:" UPPER) < n;
}

/* Clients take these for the id of an image, and CRI names records by it; as a name, the second
 * would be a tag of docker.io/library/sha256. */
static bool is_identifier(const char *text)
{
	struct cairn_digest digest;
	struct cairn_err ignored;
	size_t n = strlen(text);
	if (n == 64 && strspn(text, DIGITS "abcdef") == n) return true;
	return cairn_digest_parse(text, n, &digest, &ignored) == CAIRN_OK;
}

static void copy(char *to, const struct scan *s, size_t start)
{
	memcpy(to, s->text + start, s->at - start);
	to[s->at - start] = '\0';
}

static bool take_reference(struct scan *s, struct cairn_reference *ret)
{
	const char *slash = strchr(s->text, '/');
	strcpy(ret->registry, HUB);
	if (slash != NULL && has_registry(s->text, (size_t)(slash - s->text))) {
		if (!take_registry(s)) return false;
		copy(ret->registry, s, 0);
		if (strcmp(ret->registry, HUB_OLD) == 0) strcpy(ret->registry, HUB);
		s->at++;
	}

	size_t start = s->at, prefix = 0;
	if (strcmp(ret->registry, HUB) == 0 && strchr(s->text + start, '/') == NULL) {
		prefix = strlen(HUB_LIBRARY);
		memcpy(ret->repository, HUB_LIBRARY, prefix);
	}
	if (!take_path(s, REPOSITORY_MAX - prefix)) return false;
	copy(ret->repository + prefix, s, start);

	if (take_byte(s, ':')) {
		start = s->at;
		if (!take_tag(s)) return false;
		copy(ret->tag, s, start);
	}
	if (take_byte(s, '@')) return take_digest(s, &ret->digest);
	if (ret->tag[0] == '\0') strcpy(ret->tag, "latest");
	return true;
}

/* Anything but a digest after a @: before it there may be a password, which nobody is to see. */
static bool may_hold_password(const char *text)
{
	const char *at = strchr(text, '@');
	return at != NULL && at != text && strncmp(at + 1, "sha256:", 7) != 0 &&
	       strncmp(at + 1, "sha512:", 7) != 0;
}

static enum cairn_code bad_reference(const struct scan *s, struct cairn_err *err)
{
	char shown[CAIRN_SHOW_MAX + 4], found[16];
	unsigned char c = (unsigned char)s->text[s->at];
	if (may_hold_password(s->text)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "invalid image name (not shown here): byte %zu is %s, want "
				     "%s; a user and a password are no part of a name",
				     s->at + 1, c == '\0' ? "the end" : "another", s->want);
	}
	if (c == '\0') {
		strcpy(found, "the end");
	} else if (c >= ' ' && c <= '~') {
		snprintf(found, sizeof(found), "'%c'", c);
	} else {
		snprintf(found, sizeof(found), "0x%02x", c);
	}
	return cairn_err_set(
		err, CAIRN_INVALID_ARGUMENT, "invalid image name \"%s\": byte %zu is %s, want %s",
		cairn_show(s->text, strlen(s->text), shown), s->at + 1, found, s->want);
}

enum cairn_code cairn_reference_parse(const char *text, struct cairn_reference *ret,
				      struct cairn_err *err)
{
	struct scan s = {.text = text};
	struct cairn_reference ref = {0};
	if (strnlen(text, CAIRN_REFERENCE_MAX + 1) > CAIRN_REFERENCE_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "an image name has at most %d bytes", CAIRN_REFERENCE_MAX);
	}
	if (is_identifier(text)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "\"%s\" is an id or a digest alone, want a name", text);
	}
	if (!take_reference(&s, &ref)) return bad_reference(&s, err);
	*ret = ref;
	return CAIRN_OK;
}

const char *cairn_reference_format(const struct cairn_reference *ref,
				   char buf[static CAIRN_REFERENCE_MAX + 256])
{
	char digest[CAIRN_DIGEST_STR];
	cairn_digest_format(&ref->digest, digest);
	snprintf(buf, CAIRN_REFERENCE_MAX + 256, "%s/%s%s%s%s%s", ref->registry, ref->repository,
		 ref->tag[0] != '\0' ? ":" : "", ref->tag, digest[0] != '\0' ? "@" : "", digest);
	return buf;
}
