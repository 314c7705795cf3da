#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oci/oci.h"

#define H60 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab"
#define A "sha256:" H60 "000a"
#define B "sha256:" H60 "000b"
#define C "sha256:" H60 "000c"
#define S "sha256:" H60 "ffff"

#define OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define OCI_ARTIFACT "application/vnd.oci.artifact.manifest.v1+json"
#define OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define OCI_LAYER "application/vnd.oci.image.layer.v1.tar+gzip"
#define DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"

/* JSON is written with ' for ". */
#define DESC(type, digest, size) "{'mediaType':'" type "','digest':'" digest "','size':" size "}"
#define ENTRY(type, digest, more) "{'mediaType':'" type "','digest':'" digest "','size':7" more "}"

/* An exact copy with the quotes put in, so that ASan sees a read beyond the end. */
static char *quoted(const char *text, size_t n)
{
	char *copy = malloc(n > 0 ? n : 1);
	for (size_t i = 0; i < n; i++) copy[i] = text[i] == '\'' ? '"' : text[i];
	return copy;
}

static enum cairn_code parse(const char *text, struct cairn_manifest *m, struct cairn_err *err)
{
	size_t n = strlen(text);
	char *copy = quoted(text, n);
	enum cairn_code code = cairn_manifest_parse(copy, n, m, err);
	free(copy);
	return code;
}

static void check_digest(const struct cairn_digest *digest, const char *want)
{
	char text[CAIRN_DIGEST_STR];
	assert_string_equal(cairn_digest_format(digest, text), want);
}

/* digests: of the children in their order, up to a NULL. */
static void check_good(const char *text, enum cairn_media media, const char *const *digests)
{
	struct cairn_manifest m;
	struct cairn_err err;
	size_t n = 0;
	if (parse(text, &m, &err) != CAIRN_OK) fail_msg("%s: %s", text, err.msg);
	if (m.media != media) fail_msg("%s: taken for a %d", text, m.media);
	while (digests[n] != NULL) n++;
	if (m.n != n) fail_msg("%s: %zu children", text, m.n);
	for (size_t i = 0; i < n; i++) check_digest(&m.children[i].digest, digests[i]);
	cairn_manifest_fini(&m);
	assert_null(m.children);
	assert_int_equal(m.n, 0);
}

static void check_bad_bytes(const char *text, size_t n, const char *want)
{
	struct cairn_manifest m = {.n = 77};
	struct cairn_err err = {0};
	char *copy = quoted(text, n);
	if (cairn_manifest_parse(copy, n, &m, &err) != CAIRN_INVALID_ARGUMENT) {
		fail_msg("taken: %.*s", (int)(n < 400 ? n : 400), text);
	}
	free(copy);
	assert_int_equal(m.n, 77);
	assert_int_equal(err.code, CAIRN_INVALID_ARGUMENT);
	if (strstr(err.msg, want) == NULL) fail_msg("want %s, got %s", want, err.msg);
	for (const char *c = err.msg; *c != '\0'; c++) assert_in_range(*c, ' ', '~');
}

static void check_bad(const char *text, const char *want)
{
	check_bad_bytes(text, strlen(text), want);
}

static void media__is_told_by_the_exact_type(void **state)
{
	(void)state;
	assert_int_equal(cairn_media_of(OCI_MANIFEST), CAIRN_MEDIA_MANIFEST);
	assert_int_equal(cairn_media_of(DOCKER_MANIFEST), CAIRN_MEDIA_MANIFEST);
	assert_int_equal(cairn_media_of(OCI_ARTIFACT), CAIRN_MEDIA_MANIFEST);
	assert_int_equal(cairn_media_of(OCI_INDEX), CAIRN_MEDIA_INDEX);
	assert_int_equal(cairn_media_of(DOCKER_LIST), CAIRN_MEDIA_INDEX);
	static const char *const others[] = {
		NULL,
		"",
		OCI_LAYER,
		OCI_CONFIG,
		OCI_MANIFEST " ",
		OCI_MANIFEST "; charset=utf-8",
		"application/vnd.oci.image.manifest.v2+json",
		"Application/vnd.oci.image.manifest.v1+json",
		"application/vnd.docker.distribution.manifest.v1+prettyjws",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/json",
	};
	for (size_t i = 0; i < CAIRN_LEN(others); i++) {
		assert_int_equal(cairn_media_of(others[i]), CAIRN_MEDIA_OTHER);
	}
}

static void parse__lists_config_and_layers_of_a_manifest(void **state)
{
	(void)state;
	static const char *const abc[] = {A, B, C, NULL}, *const b[] = {B, NULL},
				 *const a[] = {A, NULL}, *const abb[] = {A, B, B, NULL},
				 *const none[] = {NULL};
	static const char body[] = ",'config':" DESC(OCI_CONFIG, A, "2") ",'layers':[" DESC(
		OCI_LAYER, B, "3") "," DESC(OCI_LAYER, C, "4") "]}";
	static const char *const types[] = {
		"{'schemaVersion':2",
		"{'schemaVersion':2,'mediaType':'" OCI_MANIFEST "'",
		"{'schemaVersion':2,'mediaType':'" DOCKER_MANIFEST "'",
		"{'mediaType':null",
		"{'mediaType':''",
		"{'mediaType':'" OCI_MANIFEST "','artifactType':'application/x'",
		"{'manifests':null",
		" \n\t{'annotations':{'layers':'[]','n\xc3\xa9':'\\u20ac'},'x':[1.5,1e3,true,[{}]]",
	};
	for (size_t i = 0; i < CAIRN_LEN(types); i++) {
		char text[2048];
		snprintf(text, sizeof(text), "%s%s", types[i], body);
		check_good(text, CAIRN_MEDIA_MANIFEST, abc);
	}
	/* Go writes an empty list as null; what is not there is empty too. */
	check_good("{'config':" DESC("x", A, "0") ",'layers':[]}", CAIRN_MEDIA_MANIFEST, a);
	check_good("{'config':" DESC("x", A, "0") ",'layers':null}", CAIRN_MEDIA_MANIFEST, a);
	check_good("{'mediaType':'" OCI_MANIFEST "','config':" DESC("x", A, "0") "}",
		   CAIRN_MEDIA_MANIFEST, a);
	check_good("{'mediaType':'" OCI_MANIFEST "','layers':[" DESC("x", B, "0") "]}",
		   CAIRN_MEDIA_MANIFEST, b);
	check_good("{'mediaType':'" OCI_MANIFEST "','config':null,'layers':null}",
		   CAIRN_MEDIA_MANIFEST, none);
	check_good("{'mediaType':'" DOCKER_MANIFEST "'}", CAIRN_MEDIA_MANIFEST, none);
	/* The same layer twice (an empty one, say) stays so. */
	check_good("{'config':" DESC("x", A, "0") ",'layers':[" DESC("x", B, "0") "," DESC(
			   "x", B, "0") "]}",
		   CAIRN_MEDIA_MANIFEST, abb);
}

static void parse__takes_foreign_layers_as_any_other(void **state)
{
	(void)state;
	static const char *const abc[] = {A, B, C, NULL};
	check_good("{'config':" DESC(OCI_CONFIG, A,
				     "2") ",'layers':["
					  "{'mediaType':'application/"
					  "vnd.docker.image.rootfs.foreign.diff.tar.gzip',"
					  "'urls':['https://example.com/b'],'size':9,'digest':'" B
					  "'},"
					  "{'mediaType':'application/"
					  "vnd.oci.image.layer.nondistributable.v1.tar',"
					  "'urls':null,'size':9,'digest':'" C "','data':'bm8='}]}",
		   CAIRN_MEDIA_MANIFEST, abc);
}

static void parse__lists_the_manifests_of_an_index(void **state)
{
	(void)state;
	static const char *const ab[] = {A, B, NULL}, *const none[] = {NULL};
	static const char body[] =
		",'manifests':[" ENTRY(OCI_MANIFEST, A, "") "," ENTRY(OCI_INDEX, B, "") "]}";
	static const char *const types[] = {
		"{'schemaVersion':2",
		"{'schemaVersion':2,'mediaType':'" OCI_INDEX "'",
		"{'schemaVersion':2,'mediaType':'" DOCKER_LIST "'",
		"{'config':null,'layers':null",
	};
	for (size_t i = 0; i < CAIRN_LEN(types); i++) {
		char text[2048];
		snprintf(text, sizeof(text), "%s%s", types[i], body);
		check_good(text, CAIRN_MEDIA_INDEX, ab);
	}
	check_good("{'manifests':[]}", CAIRN_MEDIA_INDEX, none);
	check_good("{'manifests':null}", CAIRN_MEDIA_INDEX, none);
	check_good("{'mediaType':'" OCI_INDEX "'}", CAIRN_MEDIA_INDEX, none);
}

static void parse__tells_what_a_descriptor_says(void **state)
{
	(void)state;
	struct cairn_manifest m;
	struct cairn_err err;
	const char *text =
		"{'manifests':[" ENTRY(OCI_MANIFEST, A,
				       ",'platform':{'os':'linux','architecture':'arm','variant':"
				       "'v7','os.version':null,'features':['sse']}") "," //
		ENTRY(OCI_INDEX, B,
		      ",'platform':{'os':'windows','architecture':'amd64','os.version':"
		      "'10.0.17763.4131'}") "," ENTRY("application/x", C,
						      ",'platform':null") "," //
									  "{'digest':'" S
									  "','size':8796093022208}]"
									  "}";
	if (parse(text, &m, &err) != CAIRN_OK) fail_msg("%s", err.msg);
	assert_int_equal(m.n, 4);
	const struct cairn_descriptor *d = m.children;
	assert_int_equal(d[0].media, CAIRN_MEDIA_MANIFEST);
	assert_int_equal(d[0].size, 7);
	assert_string_equal(d[0].media_type, OCI_MANIFEST);
	assert_string_equal(d[0].os, "linux");
	assert_string_equal(d[0].arch, "arm");
	assert_string_equal(d[0].variant, "v7");
	assert_string_equal(d[0].os_version, "");
	assert_int_equal(d[1].media, CAIRN_MEDIA_INDEX);
	assert_string_equal(d[1].os, "windows");
	assert_string_equal(d[1].variant, "");
	assert_string_equal(d[1].os_version, "10.0.17763.4131");
	assert_int_equal(d[2].media, CAIRN_MEDIA_OTHER);
	assert_string_equal(d[2].os, "");
	assert_int_equal(d[3].media, CAIRN_MEDIA_OTHER);
	assert_string_equal(d[3].media_type, "");
	assert_int_equal(d[3].size, INT64_C(1) << 43);
	cairn_manifest_fini(&m);
}

static void parse__cuts_texts_where_a_character_ends(void **state)
{
	(void)state;
	struct cairn_manifest m;
	struct cairn_err err;
	char type[301] = "", os[100] = "", text[1024];
	memset(type, 't', 300);
	for (size_t i = 0; i < 31; i++) strcat(os, "\xe2\x82\xac"); /* euro signs, 3 bytes each */
	snprintf(text, sizeof(text),
		 "{'manifests':[{'mediaType':'%s','digest':'" A
		 "','size':0,'platform':{'os':'%s'}}]}",
		 type, os);
	if (parse(text, &m, &err) != CAIRN_OK) fail_msg("%s", err.msg);
	assert_int_equal(strlen(m.children[0].media_type), 127);
	assert_int_equal(strlen(m.children[0].os), 30);
	cairn_manifest_fini(&m);
}

static void parse__notes_the_subject_but_not_as_a_child(void **state)
{
	(void)state;
	static const char subject[] = ",'subject':" DESC(OCI_MANIFEST, S, "9") "}";
	static const char *const texts[] = {
		"{'mediaType':'" OCI_MANIFEST "','artifactType':'application/sbom','config':" DESC(
			"application/vnd.oci.empty.v1+json", A,
			"2") ",'layers':[" DESC("application/sbom", B, "3") "]",
		"{'mediaType':'" OCI_INDEX
		"','manifests':[" DESC(OCI_MANIFEST, A, "3") "," DESC(OCI_INDEX, B, "3") "]",
		"{'mediaType':'" OCI_ARTIFACT
		"','artifactType':'a/b','blobs':[" DESC("a/c", A, "3") "," DESC("a/c", B, "3") "]",
	};
	for (size_t i = 0; i < CAIRN_LEN(texts); i++) {
		struct cairn_manifest m;
		struct cairn_err err;
		char text[2048];
		snprintf(text, sizeof(text), "%s%s", texts[i], subject);
		if (parse(text, &m, &err) != CAIRN_OK) fail_msg("%s: %s", text, err.msg);
		assert_int_equal(m.n, 2);
		check_digest(&m.children[0].digest, A);
		check_digest(&m.children[1].digest, B);
		check_digest(&m.subject, S);
		cairn_manifest_fini(&m);
		assert_int_equal(m.subject.alg, 0);
	}
	static const char *const none[] = {NULL};
	check_good("{'mediaType':'" OCI_ARTIFACT "','blobs':null,'subject':null}",
		   CAIRN_MEDIA_MANIFEST, none);
	/* Only the artifact manifest has blobs. */
	check_good("{'mediaType':'" OCI_MANIFEST "','blobs':[1]}", CAIRN_MEDIA_MANIFEST, none);
}

static void parse__leaves_other_json_whole(void **state)
{
	(void)state;
	static const char *const none[] = {NULL};
	static const char *const texts[] = {
		"{}",
		"[]",
		"[[],{'manifests':[]}]",
		"3",
		"'text'",
		"null",
		"-1.5e-3",
		"{'manifests':3}",
		"{'manifests':{}}",
		"{'layers':[]}",
		"{'config':3,'layers':[]}",
		"{'config':{},'layers':{}}",
		"{'architecture':'amd64','os':'linux','config':{'Cmd':['sh']},"
		"'rootfs':{'type':'layers','diff_ids':['" A "']},'history':[{'empty_layer':true}]}",
		"{'schemaVersion':1,'fsLayers':[{'blobSum':'" A "'}],'history':[]}",
		"{'mediaType':'application/json','config':" DESC("x", A, "1") ",'layers':[7]}",
		"{'mediaType':'application/json','manifests':7,'subject':7}",
		"{'config':{'digest':'" A "','size':1},'blobs':[]}",
	};
	for (size_t i = 0; i < CAIRN_LEN(texts); i++) {
		check_good(texts[i], CAIRN_MEDIA_OTHER, none);
	}
}

static void parse__refuses_what_is_not_json(void **state)
{
	(void)state;
	static const struct {
		const char *text, *want;
		size_t n; /* 0: as long as it is */
	} all[] = {
		{"", "not JSON: empty", 0},
		{" ", "not JSON", 0},
		{"{", "not JSON", 0},
		{"{'a':1", "not JSON", 0},
		{"{'a':1}}", "not JSON", 0},
		{"{'a':1} x", "not JSON", 0},
		{"{a:1}", "not JSON", 0},
		{"{'a':1,}", "not JSON", 0},
		{"]", "not JSON", 0},
		{"]]]]]", "not JSON", 0},
		{"nul", "not JSON", 0},
		{"'", "not JSON", 0},
		{"'\\", "not JSON", 0},
		{"'a\nb'", "not JSON", 0},
		{"{'a':'\\x'}", "not JSON", 0},
		{"\xef\xbb\xbf{}", "not JSON", 0},
		{"{'a':'\xff'}", "not JSON that can be taken, at byte", 0},
		{"{'a':'\xc0\x80'}", "not JSON", 0},
		{"{'a':'\xed\xa0\x80'}", "not JSON", 0},
		{"{'a':'\\ud800'}", "not JSON", 0},
		{"{'a':'\\u0000'}", "not JSON", 0},
		{"{'\\u0000':1}", "not JSON", 0},
		{"{'a':1}\0", "not JSON", 8},
		{"{'a\0b':1}", "not JSON", 9},
		{"\0", "not JSON", 1},
		{"{'a':1,'a':1}", "duplicate", 0},
		{"{'layers':[],'config':{},'layers':[]}", "duplicate", 0},
		{"{'x':[{'b':{'a':1,'\\u0061':2}}]}", "duplicate", 0},
		{"{'a':99999999999999999999999999999999}", "not JSON", 0},
		{"{'a':-9223372036854775809}", "not JSON", 0},
		{"{'a':1e999}", "not JSON", 0},
		{"{'a':NaN}", "not JSON", 0},
		{"{'a':01}", "not JSON", 0},
		{"{'a':+1}", "not JSON", 0},
		{"{'a':0x10}", "not JSON", 0},
	};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		size_t n = all[i].n > 0 ? all[i].n : strlen(all[i].text);
		check_bad_bytes(all[i].text, n, all[i].want);
	}
}

static void parse__refuses_fields_of_the_wrong_type(void **state)
{
	(void)state;
	static const struct {
		const char *text, *want;
	} all[] = {
		{"{'mediaType':3}", "mediaType: want a string, found an integer"},
		{"{'mediaType':['" OCI_INDEX "']}", "mediaType: want a string, found an array"},
		{"{'mediaType':'" OCI_MANIFEST "','config':[]}",
		 "config: want an object, found an array"},
		{"{'mediaType':'" OCI_MANIFEST "','layers':{}}",
		 "layers: want an array, found an object"},
		{"{'mediaType':'" OCI_INDEX "','manifests':'" A "'}",
		 "manifests: want an array, found a string"},
		{"{'mediaType':'" OCI_ARTIFACT "','blobs':true}",
		 "blobs: want an array, found true"},
		{"{'mediaType':'" OCI_INDEX "','subject':'" A "'}",
		 "subject: want an object, found a string"},
		{"{'mediaType':'" OCI_INDEX "','subject':{}}",
		 "subject: digest: want a string, found nothing"},
		{"{'mediaType':'" OCI_INDEX "','subject':{'digest':'" A "','size':-1}}",
		 "subject: size: want"},
		{"{'config':{},'layers':[]}", "config: digest: want a string, found nothing"},
		{"{'manifests':[" ENTRY("x", A, "") ",null]}",
		 "manifests[1]: want a descriptor, found null"},
		{"{'manifests':[[]]}", "manifests[0]: want a descriptor, found an array"},
		{"{'manifests':[1.5]}", "manifests[0]: want a descriptor, found a real number"},
		{"{'manifests':[{'digest':{},'size':1}]}",
		 "manifests[0]: digest: want a string, found an object"},
		{"{'manifests':[{'digest':'" A "','size':1,'mediaType':false}]}",
		 "manifests[0]: mediaType: want a string, found false"},
		{"{'manifests':[" ENTRY("x", A, ",'platform':'linux/amd64'") "]}",
		 "manifests[0]: platform: want an object, found a string"},
		{"{'manifests':[" ENTRY("x", A, ",'platform':{'os':1}") "]}",
		 "manifests[0]: platform: os: want a string, found an integer"},
		{"{'manifests':[" ENTRY("x", A, ",'platform':{'os.version':[]}") "]}",
		 "manifests[0]: platform: os.version: want a string, found an array"},
	};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) check_bad(all[i].text, all[i].want);
}

static void parse__refuses_sizes_that_are_none(void **state)
{
	(void)state;
	static const struct {
		const char *size, *found;
	} all[] = {
		{"-1", "found -1"},
		{"-9223372036854775808", "found -9223372036854775808"},
		{"8796093022209", "found 8796093022209"},
		{"9223372036854775807", "found 9223372036854775807"},
		{"1.0", "found a real number"},
		{"0.5", "found a real number"},
		{"1e3", "found a real number"},
		{"-0.0", "found a real number"},
		{"'7'", "found a string"},
		{"null", "found null"},
		{"true", "found true"},
		{"[7]", "found an array"},
		{"18446744073709551616", "not JSON that can be taken"},
	};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		char text[512];
		snprintf(text, sizeof(text),
			 "{'config':" DESC("x", A, "1") ",'layers':[{'digest':'" B "','size':%s}]}",
			 all[i].size);
		check_bad(text, all[i].found);
		if (strncmp(all[i].found, "found", 5) == 0) {
			check_bad(text, "layers[0]: size: want an integer from 0 to 8796093022208");
		}
	}
	check_bad("{'config':{'digest':'" A "'},'layers':[]}",
		  "config: size: want an integer from 0 to 8796093022208, found nothing");
}

static void parse__refuses_digests_that_are_none(void **state)
{
	(void)state;
	static const char *const all[] = {
		"",
		"sha256",
		"sha256:",
		"sha256:0",
		"sha256:" H60 "00A0",
		"sha256:" H60 "00000",
		"sha512:" H60 "0000",
		"sha384:" H60 "0000",
		"sha256:" H60 "000\\n",
		"blake3:" H60 "0000",
		"sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
		"../../../../etc/passwd",
		"\xe2\x82\xac\\u0007\\u001b[2J",
	};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		char text[512];
		snprintf(text, sizeof(text), "{'manifests':[{'size':1,'digest':'%s'}]}", all[i]);
		check_bad(text, "manifests[0]: digest: want sha256:<64 hex> or sha512:<128 hex>");
	}
}

static void parse__refuses_what_is_both_manifest_and_index(void **state)
{
	(void)state;
	static const char manifest[] = "a manifest with manifests in it",
			  index[] = "an index with a config or layers";
	check_bad("{'config':{},'layers':[],'manifests':[]}", manifest);
	check_bad("{'mediaType':'" OCI_MANIFEST "','manifests':[]}", manifest);
	check_bad("{'mediaType':'" OCI_ARTIFACT "','manifests':[]}", manifest);
	check_bad("{'mediaType':'" DOCKER_MANIFEST "','manifests':0}", manifest);
	check_bad("{'mediaType':'" OCI_INDEX "','manifests':[],'layers':[]}", index);
	check_bad("{'mediaType':'" DOCKER_LIST "','config':{}}", index);
	check_bad("{'manifests':[],'layers':[]}", index);
}

/* ---- bounds ------------------------------------------------------------------------------------
 */

/* begin, n times part, end; sets *ret_len. */
static char *repeated(const char *begin, const char *part, size_t n, const char *end,
		      size_t *ret_len)
{
	size_t b = strlen(begin), p = strlen(part), e = strlen(end);
	char *text = malloc(b + n * p + e + 1);
	memcpy(text, begin, b);
	for (size_t i = 0; i < n; i++) memcpy(text + b + i * p, part, p);
	memcpy(text + b + n * p, end, e + 1);
	*ret_len = b + n * p + e;
	return text;
}

static void check_repeated(const char *begin, const char *part, size_t n, const char *end,
			   const char *want)
{
	size_t len;
	char *text = repeated(begin, part, n, end, &len);
	if (want != NULL) {
		check_bad_bytes(text, len, want);
	} else {
		struct cairn_manifest m;
		struct cairn_err err;
		if (parse(text, &m, &err) != CAIRN_OK) fail_msg("%s", err.msg);
		cairn_manifest_fini(&m);
	}
	free(text);
}

static void parse__refuses_more_children_than_the_limit(void **state)
{
	(void)state;
	const char *begin = "{'config':" DESC("x", A, "1") ",'layers':[" DESC("x", A, "1");
	const char *part = "," DESC("x", B, "1");
	check_repeated(begin, part, CAIRN_MANIFEST_CHILDREN_MAX - 2, "]}", NULL);
	check_repeated(begin, part, CAIRN_MANIFEST_CHILDREN_MAX - 1, "]}",
		       "layers: 4097 descriptors of at most 4096");
	begin = "{'manifests':[" DESC("x", A, "1");
	check_repeated(begin, part, CAIRN_MANIFEST_CHILDREN_MAX - 1, "]}", NULL);
	check_repeated(begin, part, CAIRN_MANIFEST_CHILDREN_MAX, "]}",
		       "manifests: 4097 descriptors of at most 4096");
}

static void parse__takes_a_full_index_with_annotations(void **state)
{
	(void)state;
	const char *part = "," ENTRY(
		OCI_MANIFEST, B,
		",'platform':{'os':'linux','architecture':'arm64','variant':'v8'},'annotations':{"
		"'org.opencontainers.image.created':'2026-01-01T00:00:00Z','b':'','c':'','d':'',"
		"'e':'','f':'','g':'','h':'','i':'','j':''}");
	check_repeated("{'manifests':[" DESC("x", A, "1"), part, CAIRN_MANIFEST_CHILDREN_MAX - 1,
		       "]}", NULL);
}

static void parse__refuses_what_is_too_long(void **state)
{
	(void)state;
	size_t room = CAIRN_MANIFEST_BYTES_MAX - strlen("{}");
	check_repeated("{", " ", room, "}", NULL);
	check_repeated("{", " ", room + 1, "}", "too long for a manifest: 4194305 bytes");
	check_repeated("'", "x", room, "'", NULL);
}

static void parse__refuses_depth_and_number_bombs(void **state)
{
	(void)state;
	check_repeated("", "[", 64, "]", "not JSON");
	check_repeated("", "[", 65, "]", "JSON nested deeper than 64 at byte 65");
	check_repeated("", "[", CAIRN_MANIFEST_BYTES_MAX, "", "JSON nested deeper than 64");
	check_repeated("", "{'a':", 800000, "", "JSON nested deeper than 64");
	check_repeated("['\\\\',']',", "[", 64, "", "JSON nested deeper than 64");
	check_repeated("['", "[{", 1000, "']", NULL); /* in a string, also after \" */
	check_repeated("['\\'", "[{", 1000, "']", NULL);
	check_repeated("[0", ",0", (1 << 17) - 2, "]", NULL);
	check_repeated("[0", ",0", (1 << 17) - 1, "]", "more than 131072 JSON values");
	check_repeated("[{}", ",{}", 1 << 17, "]", "more than 131072 JSON values");
	check_repeated("[", "{", 60, "", "not JSON");
}

static size_t allocated, allocated_most;

static void *count_malloc(size_t n)
{
	void *p = malloc(n);
	allocated += malloc_usable_size(p) + 16;
	if (allocated > allocated_most) allocated_most = allocated;
	return p;
}

static void count_free(void *p)
{
	if (p != NULL) allocated -= malloc_usable_size(p) + 16;
	free(p);
}

static void parse__spends_bounded_memory(void **state)
{
	(void)state;
	json_set_alloc_funcs(count_malloc, count_free);
	static const struct {
		const char *begin, *part, *end;
		size_t n;
	} all[] = {
		{"[{}", ",{}", "]", 65000},
		{"[[]", ",[]", "]", 65000},
		{"[{'a':0}", ",{'a':0}", "]", 65000},
		{"[{'aaaaaaaaaaaaaaaa':''}", ",{'aaaaaaaaaaaaaaaa':''}", "]", 65000},
		{"['0123456789abcdef'", ",'0123456789abcdef'", "]", 131000},
		{"'", "\xe2\x82\xac", "'", 1398000},
		{"[", "{'a':[[],", "", 30},
	};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		struct cairn_manifest m;
		struct cairn_err err;
		size_t len;
		char *text = repeated(all[i].begin, all[i].part, all[i].n, all[i].end, &len);
		if (parse(text, &m, &err) == CAIRN_OK) cairn_manifest_fini(&m);
		free(text);
		assert_int_equal(allocated, 0);
	}
	json_set_alloc_funcs(malloc, free);
	print_message("at most %zu bytes\n", allocated_most);
	assert_in_range(allocated_most, 1 << 20, 32 << 20);
}

/* jansson descends to JSON_DEPTH_MAX here, and so does the release of what it made. The stack is
 * half of a fiber's, since a handler has used some of it already. */
static void *parse_deep(void *arg)
{
	struct cairn_manifest m;
	struct cairn_err err;
	char text[1024] = "";
	for (size_t i = 0; i < 32; i++) strcat(text, "{'a':[");
	for (size_t i = 0; i < 32; i++) strcat(text, "]}");
	*(enum cairn_code *)arg = parse(text, &m, &err);
	return NULL;
}

static void parse__stays_within_the_stack_of_a_fiber(void **state)
{
	(void)state;
	pthread_attr_t attr;
	pthread_t thread;
	enum cairn_code code = CAIRN_UNKNOWN;
	pthread_attr_init(&attr);
	assert_int_equal(pthread_attr_setstacksize(&attr, 32 << 10), 0);
	assert_int_equal(pthread_create(&thread, &attr, parse_deep, &code), 0);
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
	assert_int_equal(code, CAIRN_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(media__is_told_by_the_exact_type),
		cmocka_unit_test(parse__lists_config_and_layers_of_a_manifest),
		cmocka_unit_test(parse__takes_foreign_layers_as_any_other),
		cmocka_unit_test(parse__lists_the_manifests_of_an_index),
		cmocka_unit_test(parse__tells_what_a_descriptor_says),
		cmocka_unit_test(parse__cuts_texts_where_a_character_ends),
		cmocka_unit_test(parse__notes_the_subject_but_not_as_a_child),
		cmocka_unit_test(parse__leaves_other_json_whole),
		cmocka_unit_test(parse__refuses_what_is_not_json),
		cmocka_unit_test(parse__refuses_fields_of_the_wrong_type),
		cmocka_unit_test(parse__refuses_sizes_that_are_none),
		cmocka_unit_test(parse__refuses_digests_that_are_none),
		cmocka_unit_test(parse__refuses_what_is_both_manifest_and_index),
		cmocka_unit_test(parse__refuses_more_children_than_the_limit),
		cmocka_unit_test(parse__takes_a_full_index_with_annotations),
		cmocka_unit_test(parse__refuses_what_is_too_long),
		cmocka_unit_test(parse__refuses_depth_and_number_bombs),
		cmocka_unit_test(parse__spends_bounded_memory),
		cmocka_unit_test(parse__stays_within_the_stack_of_a_fiber),
	};
	return cmocka_run_group_tests_name("oci/manifest", tests, NULL, NULL);
}
