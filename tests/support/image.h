/* Images made of bytes: manifests and indexes as JSON, of parts that need not be anywhere. */
#ifndef CAIRN_TESTS_SUPPORT_IMAGE_H
#define CAIRN_TESTS_SUPPORT_IMAGE_H

#include "support/store.h"

#define TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define TYPE_INDEX "application/vnd.oci.image.index.v1+json"
#define TYPE_CONFIG "application/vnd.oci.image.config.v1+json"
#define TYPE_LAYER "application/vnd.oci.image.layer.v1.tar+gzip"

/* What a descriptor says. */
struct part {
	struct cairn_digest digest;
	uint64_t size;
	const char *type;
	const char *os; /* with an architecture of the same name; NULL: no platform */
};

static UNUSED struct part part_of(const struct content *c, const char *type)
{
	return (struct part){c->digest, c->n, type, NULL};
}

static UNUSED struct part part_for(const struct content *c, const char *type, const char *os)
{
	return (struct part){c->digest, c->n, type, os};
}

static UNUSED struct content text_content(const char *text)
{
	struct content c = {(uint8_t *)strdup(text), strlen(text), {0}};
	c.digest = digest_of(CAIRN_SHA256, c.data, c.n);
	return c;
}

static UNUSED void write_part(FILE *f, const struct part *p)
{
	char text[CAIRN_DIGEST_STR];
	fprintf(f, "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%llu", p->type,
		cairn_digest_format(&p->digest, text), (unsigned long long)p->size);
	if (p->os != NULL) {
		fprintf(f, ",\"platform\":{\"os\":\"%s\",\"architecture\":\"%s\"}", p->os, p->os);
	}
	fprintf(f, "}");
}

static UNUSED void write_parts(FILE *f, const struct part *parts, size_t n)
{
	fprintf(f, "[");
	for (size_t i = 0; i < n; i++) {
		if (i > 0) fprintf(f, ",");
		write_part(f, &parts[i]);
	}
	fprintf(f, "]}");
}

static UNUSED struct content close_json(FILE *f, char **json, size_t *n)
{
	struct content c = {0};
	fclose(f);
	c.data = (uint8_t *)*json;
	c.n = *n;
	c.digest = digest_of(CAIRN_SHA256, c.data, c.n);
	return c;
}

static UNUSED struct content manifest_of(const struct part *config, const struct part *layers,
					 size_t n)
{
	char *json;
	size_t len;
	FILE *f = open_memstream(&json, &len);
	fprintf(f, "{\"schemaVersion\":2,\"mediaType\":\"%s\",\"config\":", TYPE_MANIFEST);
	write_part(f, config);
	fprintf(f, ",\"layers\":");
	write_parts(f, layers, n);
	return close_json(f, &json, &len);
}

static UNUSED struct content index_of(const struct part *parts, size_t n)
{
	char *json;
	size_t len;
	FILE *f = open_memstream(&json, &len);
	fprintf(f, "{\"schemaVersion\":2,\"mediaType\":\"%s\",\"manifests\":", TYPE_INDEX);
	write_parts(f, parts, n);
	return close_json(f, &json, &len);
}

/* An image of two layers, nothing of which is in the store yet. Images of different seeds share
 * nothing. */
struct image {
	struct content config, layers[2], manifest;
};

static UNUSED struct image image_new(unsigned seed)
{
	struct image im;
	char text[64];
	snprintf(text, sizeof(text), "{\"architecture\":\"amd64\",\"seed\":%u}", seed);
	im.config = text_content(text);
	for (unsigned i = 0; i < 2; i++) im.layers[i] = content_new(100 + i, seed * 2 + i + 1000);
	const struct part config = part_of(&im.config, TYPE_CONFIG);
	const struct part layers[] = {part_of(&im.layers[0], TYPE_LAYER),
				      part_of(&im.layers[1], TYPE_LAYER)};
	im.manifest = manifest_of(&config, layers, 2);
	return im;
}

static UNUSED void image_free(struct image *im)
{
	content_free(&im->config);
	content_free(&im->layers[0]);
	content_free(&im->layers[1]);
	content_free(&im->manifest);
}

/* All of it, known to containerd once and released since, as a pull and a removal leave it. */
static UNUSED void put_released(struct store *s, const struct content *c)
{
	add_referenced(s, c);
	cairn_cache_release(s->cache, &c->digest);
}

static UNUSED void image_put(struct store *s, const struct image *im)
{
	put_released(s, &im->manifest);
	put_released(s, &im->config);
	put_released(s, &im->layers[0]);
	put_released(s, &im->layers[1]);
}

#endif
