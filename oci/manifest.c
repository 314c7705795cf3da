/* Manifests and indexes: from JSON to the blobs that they need.
 *
 * The bytes are whatever a registry sent; oci/json.c bounds what reading them costs.
 *
 * A field that is null counts as absent: that is how Go writes an empty list.
 * Spec: OCI image-spec manifest.md, image-index.md, descriptor.md; of its artifact manifest, which
 * was withdrawn before 1.1, mediaType, blobs and subject. */
#include "oci/oci.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oci/json.h"
#include "oci/show.h"

#define SIZE_MAX_BYTES (INT64_C(1) << 43) /* CAIRN_BLOB_SIZE_MAX of cache/cache.h */

static const char artifact_type[] = "application/vnd.oci.artifact.manifest.v1+json";

enum cairn_media cairn_media_of(const char *media_type)
{
	static const struct {
		const char *name;
		enum cairn_media media;
	} types[] = {
		{"application/vnd.oci.image.manifest.v1+json", CAIRN_MEDIA_MANIFEST},
		{"application/vnd.oci.image.index.v1+json", CAIRN_MEDIA_INDEX},
		{"application/vnd.docker.distribution.manifest.v2+json", CAIRN_MEDIA_MANIFEST},
		{"application/vnd.docker.distribution.manifest.list.v2+json", CAIRN_MEDIA_INDEX},
		{artifact_type, CAIRN_MEDIA_MANIFEST},
	};
	for (size_t i = 0; media_type != NULL && i < CAIRN_LEN(types); i++) {
		if (strcmp(types[i].name, media_type) == 0) return types[i].media;
	}
	return CAIRN_MEDIA_OTHER;
}

static enum cairn_code load(const char *json, size_t len, json_t **ret, struct cairn_err *err)
{
	if (len > CAIRN_MANIFEST_BYTES_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "too long for a manifest: %zu bytes of at most %u", len,
				     CAIRN_MANIFEST_BYTES_MAX);
	}
	return cairn_json_load(json, len, false, ret, err);
}

/* ---- fields ------------------------------------------------------------------------------------
 */

static const char *type_name(const json_t *value)
{
	static const char *const names[] = {
		[JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array",
		[JSON_STRING] = "a string",    [JSON_INTEGER] = "an integer",
		[JSON_REAL] = "a real number", [JSON_TRUE] = "true",
		[JSON_FALSE] = "false",	       [JSON_NULL] = "null",
	};
	return value == NULL ? "nothing" : names[json_typeof(value)];
}

static bool absent(const json_t *value)
{
	return value == NULL || json_is_null(value);
}

/* The field of that type; NULL: absent. */
static enum cairn_code field(const json_t *object, const char *name, json_type type,
			     const json_t **ret, struct cairn_err *err)
{
	static const char *const wants[] = {
		[JSON_OBJECT] = "an object",
		[JSON_ARRAY] = "an array",
		[JSON_STRING] = "a string",
	};
	const json_t *value = json_object_get(object, name);
	if (!absent(value) && json_typeof(value) != type) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: want %s, found %s", name,
				     wants[type], type_name(value));
	}
	*ret = absent(value) ? NULL : value;
	return CAIRN_OK;
}

/* Copy a text field, cut where a character ends; "": absent. ret_whole: as it is in the JSON. */
static enum cairn_code text_field(const json_t *object, const char *name, char *buf, size_t cap,
				  const char **ret_whole, struct cairn_err *err)
{
	const json_t *value = NULL;
	enum cairn_code code = field(object, name, JSON_STRING, &value, err);
	if (code != CAIRN_OK) return code;
	const char *text = value != NULL ? json_string_value(value) : "";
	size_t n = strlen(text);
	if (n >= cap) {
		n = cap - 1;
		while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) n--;
	}
	memcpy(buf, text, n);
	buf[n] = '\0';
	if (ret_whole != NULL) *ret_whole = text;
	return CAIRN_OK;
}

static enum cairn_code digest_field(const json_t *object, struct cairn_digest *ret,
				    struct cairn_err *err)
{
	const json_t *value = json_object_get(object, "digest");
	struct cairn_err ignored; /* it shows the text as it is */
	char shown[CAIRN_SHOW_MAX + 4];
	if (!json_is_string(value)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "digest: want a string, found %s",
				     type_name(value));
	}
	const char *text = json_string_value(value);
	if (cairn_digest_parse(text, strlen(text), ret, &ignored) == CAIRN_OK) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "digest: want sha256:<64 hex> or sha512:<128 hex>, found \"%s\"",
			     cairn_show(text, strlen(text), shown));
}

static enum cairn_code size_field(const json_t *object, uint64_t *ret, struct cairn_err *err)
{
	const json_t *value = json_object_get(object, "size");
	json_int_t size = json_integer_value(value); /* 0 if it is none */
	if (json_is_integer(value) && size >= 0 && size <= SIZE_MAX_BYTES) {
		*ret = (uint64_t)size;
		return CAIRN_OK;
	}
	cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "size: want an integer from 0 to %" PRId64,
		      SIZE_MAX_BYTES);
	size_t n = strlen(err->msg), room = sizeof(err->msg) - n;
	if (json_is_integer(value)) {
		snprintf(err->msg + n, room, ", found %" JSON_INTEGER_FORMAT, size);
	} else {
		snprintf(err->msg + n, room, ", found %s", type_name(value));
	}
	return err->code;
}

/* ---- descriptors -------------------------------------------------------------------------------
 */

static enum cairn_code parse_platform(const json_t *object, struct cairn_descriptor *d,
				      struct cairn_err *err)
{
	const struct {
		const char *name;
		char *buf;
		size_t cap;
	} fields[] = {
		{"os", d->os, sizeof(d->os)},
		{"architecture", d->arch, sizeof(d->arch)},
		{"variant", d->variant, sizeof(d->variant)},
		{"os.version", d->os_version, sizeof(d->os_version)},
	};
	const json_t *platform = NULL;
	enum cairn_code code = field(object, "platform", JSON_OBJECT, &platform, err);
	for (size_t i = 0; code == CAIRN_OK && platform != NULL && i < CAIRN_LEN(fields); i++) {
		code = text_field(platform, fields[i].name, fields[i].buf, fields[i].cap, NULL,
				  err);
		if (code != CAIRN_OK) cairn_err_wrap(err, "platform");
	}
	return code;
}

static enum cairn_code parse_descriptor(const json_t *object, struct cairn_descriptor *d,
					struct cairn_err *err)
{
	const char *media_type = NULL;
	if (!json_is_object(object)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "want a descriptor, found %s",
				     type_name(object));
	}
	enum cairn_code code = digest_field(object, &d->digest, err);
	if (code == CAIRN_OK) code = size_field(object, &d->size, err);
	if (code == CAIRN_OK) {
		code = text_field(object, "mediaType", d->media_type, sizeof(d->media_type),
				  &media_type, err);
	}
	if (code == CAIRN_OK) d->media = cairn_media_of(media_type);
	return code;
}

/* Append what the list of that name holds. The total was checked, and there is room. */
static enum cairn_code add_list(const json_t *list, const char *name, struct cairn_manifest *m,
				struct cairn_err *err)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *object = json_array_get(list, i);
		struct cairn_descriptor *d = &m->children[m->n];
		enum cairn_code code = parse_descriptor(object, d, err);
		if (code == CAIRN_OK && m->media == CAIRN_MEDIA_INDEX) {
			code = parse_platform(object, d, err);
		}
		if (code != CAIRN_OK) return cairn_err_wrap(err, "%s[%zu]", name, i);
		m->n++;
	}
	return CAIRN_OK;
}

/* ---- documents ---------------------------------------------------------------------------------
 */

/* config: its name, or NULL: this kind has none. */
static enum cairn_code add_children(const json_t *doc, const char *config_name,
				    const char *list_name, struct cairn_manifest *m,
				    struct cairn_err *err)
{
	const json_t *config = NULL, *list = NULL;
	enum cairn_code code = CAIRN_OK;
	if (config_name != NULL) code = field(doc, config_name, JSON_OBJECT, &config, err);
	if (code == CAIRN_OK) code = field(doc, list_name, JSON_ARRAY, &list, err);
	if (code != CAIRN_OK) return code;

	size_t n = json_array_size(list) + (config != NULL ? 1 : 0);
	if (n > CAIRN_MANIFEST_CHILDREN_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: %zu descriptors of at most %d", list_name, n,
				     CAIRN_MANIFEST_CHILDREN_MAX);
	}
	m->children = n > 0 ? calloc(n, sizeof(*m->children)) : NULL;
	if (n > 0 && m->children == NULL) abort();
	if (config != NULL) {
		code = parse_descriptor(config, &m->children[0], err);
		if (code != CAIRN_OK) return cairn_err_wrap(err, "%s", config_name);
		m->n = 1;
	}
	return add_list(list, list_name, m, err);
}

static enum cairn_code parse_subject(const json_t *doc, struct cairn_digest *ret,
				     struct cairn_err *err)
{
	const json_t *subject = NULL;
	struct cairn_descriptor d = {0};
	enum cairn_code code = field(doc, "subject", JSON_OBJECT, &subject, err);
	if (code != CAIRN_OK || subject == NULL) return code;
	code = parse_descriptor(subject, &d, err);
	if (code != CAIRN_OK) return cairn_err_wrap(err, "subject");
	*ret = d.digest;
	return CAIRN_OK;
}

/* What a document without a media type is. An image's config has a config too, but no layers; that
 * lists may be null is Go's doing. */
static enum cairn_media shape_of(const json_t *doc)
{
	const json_t *layers = json_object_get(doc, "layers");
	const json_t *manifests = json_object_get(doc, "manifests");
	bool has_config = json_is_object(json_object_get(doc, "config"));
	if (has_config && (json_is_array(layers) || json_is_null(layers))) {
		return CAIRN_MEDIA_MANIFEST;
	}
	bool is_index = json_is_array(manifests) || json_is_null(manifests);
	return is_index ? CAIRN_MEDIA_INDEX : CAIRN_MEDIA_OTHER;
}

/* A document that can be read as either is refused, as containerd does: whoever follows it one way
 * would miss what somebody else sees (CVE-2021-41190). */
static enum cairn_code check_one_kind(const json_t *doc, enum cairn_media media,
				      struct cairn_err *err)
{
	bool image =
		!absent(json_object_get(doc, "config")) || !absent(json_object_get(doc, "layers"));
	bool index = !absent(json_object_get(doc, "manifests"));
	if (media == CAIRN_MEDIA_MANIFEST ? !index : !image) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     media == CAIRN_MEDIA_MANIFEST ? "a manifest with manifests in it"
							   : "an index with a config or layers");
}

static enum cairn_code parse_document(const json_t *doc, struct cairn_manifest *m,
				      struct cairn_err *err)
{
	const json_t *media_type = NULL;
	enum cairn_code code = field(doc, "mediaType", JSON_STRING, &media_type, err);
	if (code != CAIRN_OK) return code;
	const char *type = media_type != NULL ? json_string_value(media_type) : "";
	m->media = type[0] != '\0' ? cairn_media_of(type) : shape_of(doc);
	if (m->media == CAIRN_MEDIA_OTHER) return CAIRN_OK;
	snprintf(m->media_type, sizeof(m->media_type), "%s", type); /* known ones are short */

	code = check_one_kind(doc, m->media, err);
	if (code == CAIRN_OK) code = parse_subject(doc, &m->subject, err);
	if (code != CAIRN_OK) return code;
	if (m->media == CAIRN_MEDIA_INDEX) return add_children(doc, NULL, "manifests", m, err);
	if (strcmp(type, artifact_type) == 0) return add_children(doc, NULL, "blobs", m, err);
	return add_children(doc, "config", "layers", m, err);
}

enum cairn_code cairn_manifest_parse(const void *json, size_t len, struct cairn_manifest *ret,
				     struct cairn_err *err)
{
	cairn_auto(cairn_json_freep) json_t *doc = NULL;
	struct cairn_manifest m = {0};
	enum cairn_code code = load(json, len, &doc, err);
	if (code != CAIRN_OK) return code;
	if (json_is_object(doc)) code = parse_document(doc, &m, err);
	if (code != CAIRN_OK) {
		cairn_manifest_fini(&m);
		return code;
	}
	*ret = m;
	return CAIRN_OK;
}

void cairn_manifest_fini(struct cairn_manifest *manifest)
{
	free(manifest->children);
	*manifest = (struct cairn_manifest){0};
}
