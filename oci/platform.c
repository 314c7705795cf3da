/* Platforms: written, normalised and matched as containerd does (its platforms package). */
#include "oci/oci.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "oci/json.h"
#include "oci/show.h"

static bool set(char *at, size_t cap, const char *text, size_t n)
{
	if (n == 0 || n >= cap) return false;
	for (size_t i = 0; i < n; i++) {
		char c = text[i];
		if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
		bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
		bool inner = i > 0 && (c == '_' || c == '.' || c == '-');
		if (!plain && !inner) return false;
		at[i] = c;
	}
	at[n] = '\0';
	return true;
}

/* Other names that are in use for an architecture, and the variant that goes without saying. */
static void normalise(struct cairn_platform *p)
{
	static const struct {
		const char *arch, *variant, *to_arch, *to_variant;
	} names[] = {
		{"x86_64", NULL, "amd64", NULL}, {"x86-64", NULL, "amd64", NULL},
		{"amd64", "v1", "amd64", ""},	 {"i386", NULL, "386", ""},
		{"i686", NULL, "386", ""},	 {"aarch64", NULL, "arm64", NULL},
		{"arm64", "8", "arm64", "v8"},	 {"arm64", "", "arm64", "v8"},
		{"armhf", NULL, "arm", "v7"},	 {"armel", NULL, "arm", "v6"},
		{"armv7l", NULL, "arm", "v7"},	 {"armv6l", NULL, "arm", "v6"},
		{"arm", "", "arm", "v7"},	 {"arm", "5", "arm", "v5"},
		{"arm", "6", "arm", "v6"},	 {"arm", "7", "arm", "v7"},
		{"arm", "8", "arm", "v8"},
	};
	for (size_t i = 0; i < CAIRN_LEN(names); i++) {
		if (strcmp(p->arch, names[i].arch) != 0) continue;
		if (names[i].variant != NULL && strcmp(p->variant, names[i].variant) != 0) continue;
		snprintf(p->arch, sizeof(p->arch), "%s", names[i].to_arch);
		if (names[i].to_variant != NULL) {
			snprintf(p->variant, sizeof(p->variant), "%s", names[i].to_variant);
		}
	}
}

enum cairn_code cairn_platform_parse(const char *text, struct cairn_platform *ret,
				     struct cairn_err *err)
{
	char shown[CAIRN_SHOW_MAX + 4];
	struct cairn_platform p = {.os = "linux"};
	const char *parts[3];
	size_t lens[3], n = 0;
	for (const char *at = text; n < 3; n++) {
		parts[n] = at;
		lens[n] = strcspn(at, "/");
		at += lens[n];
		if (*at == '\0') break;
		at++;
		if (n == 2) lens[0] = 0; /* a fourth part */
	}
	n++;
	bool good = n <= 3;
	if (good && n == 1) {
		good = set(p.arch, sizeof(p.arch), parts[0], lens[0]);
	} else if (good) {
		good = set(p.os, sizeof(p.os), parts[0], lens[0]) &&
		       set(p.arch, sizeof(p.arch), parts[1], lens[1]) &&
		       (n < 3 || set(p.variant, sizeof(p.variant), parts[2], lens[2]));
	}
	if (!good) {
		return cairn_err_set(
			err, CAIRN_INVALID_ARGUMENT,
			"platform \"%s\": allowed: os/arch or os/arch/variant, such as "
			"linux/arm64/v8",
			cairn_show(text, strlen(text), shown));
	}
	normalise(&p);
	*ret = p;
	return CAIRN_OK;
}

const char *cairn_platform_format(const struct cairn_platform *p,
				  char buf[static CAIRN_PLATFORM_STR])
{
	snprintf(buf, CAIRN_PLATFORM_STR, "%s/%s%s%s", p->os, p->arch,
		 p->variant[0] != '\0' ? "/" : "", p->variant);
	return buf;
}

void cairn_platform_node(struct cairn_platform *ret)
{
	struct utsname name;
	*ret = (struct cairn_platform){.os = "linux"};
	if (uname(&name) == 0) snprintf(ret->arch, sizeof(ret->arch), "%.31s", name.machine);
	normalise(ret);
}

/* An arm that runs v7 code runs v6 and v5 as well. "v8" on arm is 32-bit code. */
static int variant_fits(const struct cairn_platform *want, const struct cairn_platform *offered)
{
	if (strcmp(want->variant, offered->variant) == 0) return 10;
	if (strcmp(want->arch, "arm") == 0 && want->variant[0] == 'v' &&
	    offered->variant[0] == 'v' && offered->variant[2] == '\0' &&
	    offered->variant[1] < want->variant[1] && offered->variant[1] >= '5') {
		return 2 + offered->variant[1] - '5';
	}
	/* amd64/v2 and the like ask for more than plain amd64 has, not the other way round */
	return offered->variant[0] == '\0' || want->variant[0] == '\0' ? 2 : 0;
}

int cairn_platform_fits(const struct cairn_platform *want, const struct cairn_platform *offered)
{
	struct cairn_platform have = *offered;
	if (have.os[0] == '\0' && have.arch[0] == '\0') return 1;
	normalise(&have);
	if (strcmp(want->os, have.os) != 0 || strcmp(want->arch, have.arch) != 0) return 0;
	/* Of amd64, code for a higher level does not run everywhere. */
	if (strcmp(want->arch, "amd64") == 0 && want->variant[0] == '\0' &&
	    have.variant[0] != '\0') {
		return 0;
	}
	return variant_fits(want, &have);
}

static void take(const json_t *doc, const char *key, char *at, size_t cap)
{
	const char *text = json_string_value(json_object_get(doc, key));
	if (text != NULL) snprintf(at, cap, "%s", text);
}

enum cairn_code cairn_platform_of_config(const void *json, size_t len, struct cairn_platform *ret,
					 struct cairn_err *err)
{
	cairn_auto(cairn_json_freep) json_t *doc = NULL;
	enum cairn_code code = cairn_json_load(json, len, false, &doc, err);
	if (code != CAIRN_OK) return code;
	*ret = (struct cairn_platform){0};
	take(doc, "os", ret->os, sizeof(ret->os));
	take(doc, "architecture", ret->arch, sizeof(ret->arch));
	take(doc, "variant", ret->variant, sizeof(ret->variant));
	if (ret->os[0] != '\0' && ret->arch[0] != '\0') normalise(ret);
	return CAIRN_OK;
}
