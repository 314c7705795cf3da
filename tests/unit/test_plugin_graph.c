/* From manifests to what they need. */
#include "plugin/graph.h"

#include "cache/evict.h"
#include "oci/oci.h"
#include "support/image.h"

/* What root needs is exactly what follows, ended by NULL. */
static void expect_needs(struct store *s, const struct cairn_digest *root, int complete, ...)
{
	struct cairn_needs *needs = cairn_graph_needs(s->cache, root);
	const struct content *c;
	size_t n = 0;
	va_list ap;
	va_start(ap, complete);
	for (; (c = va_arg(ap, const struct content *)) != NULL; n++) {
		size_t found = 0;
		for (size_t i = 0; i < needs->n; i++) {
			if (!cairn_digest_equal(&needs->list[i].digest, &c->digest)) continue;
			assert_int_equal(needs->list[i].size, c->n);
			found++;
		}
		if (found != 1) fail_msg("the %zu. blob is found %zu times", n + 1, found);
	}
	va_end(ap);
	assert_int_equal(needs->n, n);
	assert_int_equal(needs->complete, complete);
	for (size_t i = 1; i < needs->n; i++) {
		assert_true(cairn_digest_compare(&needs->list[i - 1].digest,
						 &needs->list[i].digest) < 0);
	}
	cairn_needs_unref(needs);
}

static struct cairn_graph_state graph(struct store *s, const struct content *root)
{
	struct cairn_graph_state st;
	cairn_graph_state(s->cache, &root->digest, &st);
	return st;
}

static void expect_state(struct store *s, const struct content *root, bool ready, uint64_t blobs,
			 uint64_t bytes, uint64_t missing_blobs, uint64_t missing_bytes)
{
	struct cairn_graph_state st = graph(s, root);
	assert_int_equal(st.blobs, blobs);
	assert_int_equal(st.bytes, bytes);
	assert_int_equal(st.missing_blobs, missing_blobs);
	assert_int_equal(st.missing_bytes, missing_bytes);
	assert_int_equal(st.ready, ready);
}

static uint64_t bytes_of(const struct image *im)
{
	return im->manifest.n + im->config.n + im->layers[0].n + im->layers[1].n;
}

/* Change a byte of the file, and have the store find out. */
static void damage(struct store *s, const struct content *c)
{
	char path[512];
	struct cairn_err err;
	blob_path(s, &c->digest, path);
	assert_int_equal(chmod(path, 0600), 0);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "?", 1, 0), 1);
	close(fd);
	assert_code(cairn_cache_verify(s->cache, &c->digest, NULL, NULL, &err), CAIRN_DATA_LOSS);
}

/* An index of two images and something that nobody runs. */
struct multi {
	struct image a, b, attestation;
	struct content index;
};

static void multi_new(struct multi *m)
{
	m->a = image_new(1);
	m->b = image_new(2);
	m->attestation = image_new(3);
	const struct part parts[] = {part_for(&m->a.manifest, TYPE_MANIFEST, "linux"),
				     part_for(&m->b.manifest, TYPE_MANIFEST, "plan9"),
				     part_for(&m->attestation.manifest, TYPE_MANIFEST, "unknown")};
	m->index = index_of(parts, 3);
}

static void multi_free(struct multi *m)
{
	image_free(&m->a);
	image_free(&m->b);
	image_free(&m->attestation);
	content_free(&m->index);
}

/* ---- needs ---- */

static void needs__of_a_manifest(void **state)
{
	struct store *s = *state;
	struct image im = image_new(1);
	image_put(s, &im);
	expect_needs(s, &im.manifest.digest, true, &im.manifest, &im.config, &im.layers[0],
		     &im.layers[1], NULL);
	expect_state(s, &im.manifest, true, 4, bytes_of(&im), 0, 0);
	image_free(&im);
}

static void needs__of_a_manifest_whose_parts_are_not_here(void **state)
{
	struct store *s = *state;
	struct image im = image_new(1);
	put_released(s, &im.manifest);
	put_released(s, &im.config);
	expect_needs(s, &im.manifest.digest, true, &im.manifest, &im.config, &im.layers[0],
		     &im.layers[1], NULL);
	expect_state(s, &im.manifest, false, 4, bytes_of(&im), 2, im.layers[0].n + im.layers[1].n);
	image_free(&im);
}

static void needs__of_what_is_not_here(void **state)
{
	struct store *s = *state;
	struct content absent = content_new(10, 1);
	struct cairn_needs *needs = cairn_graph_needs(s->cache, &absent.digest);
	assert_int_equal(needs->n, 1);
	assert_true(cairn_digest_equal(&needs->list[0].digest, &absent.digest));
	assert_false(needs->complete);
	cairn_needs_unref(needs);
	expect_state(s, &absent, false, 1, 0, 1, 0);
	content_free(&absent);
}

static void needs__of_bytes_that_are_no_manifest(void **state)
{
	struct store *s = *state;
	struct content layer = content_new(5000, 1);
	struct content config = text_content("{\"architecture\":\"amd64\",\"rootfs\":{}}");
	struct content broken = text_content("{\"mediaType\":\"" TYPE_MANIFEST "\",\"config\":7}");
	struct content large = content_new(CAIRN_MANIFEST_BYTES_MAX + 1, 2);
	const struct content *all[] = {&layer, &config, &broken, &large};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		add_cached(s, all[i]);
		expect_needs(s, &all[i]->digest, true, all[i], NULL);
		expect_state(s, all[i], true, 1, all[i]->n, 0, 0);
	}
	content_free(&layer);
	content_free(&config);
	content_free(&broken);
	content_free(&large);
}

/* By its media type a layer is a layer, whatever its bytes are: it is not followed. */
static void needs__do_not_follow_layers(void **state)
{
	struct store *s = *state;
	struct image im = image_new(1);
	image_put(s, &im);
	const struct part config = part_of(&im.config, TYPE_CONFIG);
	const struct part layer = part_of(&im.manifest, TYPE_LAYER);
	struct content trick = manifest_of(&config, &layer, 1);
	add_cached(s, &trick);
	expect_needs(s, &trick.digest, true, &trick, &im.config, &im.manifest, NULL);
	content_free(&trick);
	image_free(&im);
}

static void needs__of_an_index(void **state)
{
	struct store *s = *state;
	struct multi m;
	multi_new(&m);
	put_released(s, &m.index);
	image_put(s, &m.a);
	image_put(s, &m.b);
	image_put(s, &m.attestation);
	expect_needs(s, &m.index.digest, true, &m.index, &m.a.manifest, &m.a.config, &m.a.layers[0],
		     &m.a.layers[1], &m.b.manifest, &m.b.config, &m.b.layers[0], &m.b.layers[1],
		     &m.attestation.manifest, &m.attestation.config, &m.attestation.layers[0],
		     &m.attestation.layers[1], NULL);
	expect_state(s, &m.index, true, 13,
		     m.index.n + bytes_of(&m.a) + bytes_of(&m.b) + bytes_of(&m.attestation), 0, 0);
	multi_free(&m);
}

/* A node pulls one platform: that is whole, and the needs are known to be incomplete. */
static void needs__of_an_index_with_one_platform_here(void **state)
{
	struct store *s = *state;
	struct multi m;
	multi_new(&m);
	put_released(s, &m.index);
	image_put(s, &m.b);
	expect_needs(s, &m.index.digest, false, &m.index, &m.a.manifest, &m.b.manifest, &m.b.config,
		     &m.b.layers[0], &m.b.layers[1], &m.attestation.manifest, NULL);
	expect_state(s, &m.index, true, 5, m.index.n + bytes_of(&m.b), 0, 0);
	multi_free(&m);
}

static void state__attestations_run_nowhere(void **state)
{
	struct store *s = *state;
	struct multi m;
	multi_new(&m);
	put_released(s, &m.index);
	image_put(s, &m.attestation);
	expect_state(s, &m.index, false, 5, m.index.n + bytes_of(&m.attestation), 1, 0);
	image_put(s, &m.a);
	assert_true(graph(s, &m.index).ready);
	multi_free(&m);
}

static void state__an_index_with_a_platform_that_lacks_a_layer(void **state)
{
	struct store *s = *state;
	struct multi m;
	multi_new(&m);
	put_released(s, &m.index);
	put_released(s, &m.a.manifest);
	put_released(s, &m.a.config);
	put_released(s, &m.a.layers[0]);
	expect_state(s, &m.index, false, 5, m.index.n + bytes_of(&m.a), 1, m.a.layers[1].n);
	image_put(s, &m.b);
	assert_true(graph(s, &m.index).ready);
	multi_free(&m);
}

static void state__an_index_of_which_nothing_is_here(void **state)
{
	struct store *s = *state;
	struct multi m;
	multi_new(&m);
	put_released(s, &m.index);
	expect_state(s, &m.index, false, 1, m.index.n, 1, 0);
	multi_free(&m);
}

static void needs__of_nested_indexes_down_to_the_limit(void **state)
{
	struct store *s = *state;
	struct image im = image_new(1);
	struct content chain[CAIRN_MANIFEST_DEPTH_MAX + 1];
	image_put(s, &im);
	for (size_t i = 0; i < CAIRN_LEN(chain); i++) {
		struct part below = i == 0 ? part_of(&im.manifest, TYPE_MANIFEST)
					   : part_of(&chain[i - 1], TYPE_INDEX);
		chain[i] = index_of(&below, 1);
		put_released(s, &chain[i]);
	}
	/* six indexes and the manifest are seven levels */
	expect_needs(s, &chain[5].digest, true, &chain[5], &chain[4], &chain[3], &chain[2],
		     &chain[1], &chain[0], &im.manifest, &im.config, &im.layers[0], &im.layers[1],
		     NULL);
	assert_true(graph(s, &chain[5]).ready);
	struct cairn_needs *needs = cairn_graph_needs(s->cache, &chain[8].digest);
	assert_false(needs->complete);
	cairn_needs_unref(needs);
	assert_false(graph(s, &chain[8]).ready);
	for (size_t i = 0; i < CAIRN_LEN(chain); i++) content_free(&chain[i]);
	image_free(&im);
}

/* ---- damage ---- */

static void damaged__manifests_are_not_trusted(void **state)
{
	struct store *s = *state;
	struct image im = image_new(1);
	image_put(s, &im);
	cairn_cache_reference(s->cache, &im.manifest.digest); /* else it would be dropped */
	damage(s, &im.manifest);
	expect_needs(s, &im.manifest.digest, false, &im.manifest, NULL);
	expect_state(s, &im.manifest, false, 1, im.manifest.n, 1, im.manifest.n);
	image_free(&im);
}

static void damaged__layers_are_missing(void **state)
{
	struct store *s = *state;
	struct image im = image_new(1);
	image_put(s, &im);
	cairn_cache_reference(s->cache, &im.layers[0].digest);
	damage(s, &im.layers[0]);
	expect_needs(s, &im.manifest.digest, true, &im.manifest, &im.config, &im.layers[0],
		     &im.layers[1], NULL);
	expect_state(s, &im.manifest, false, 4, bytes_of(&im), 1, im.layers[0].n);
	image_free(&im);
}

/* ---- hostile ---- */

/* The empty layer stands in many images many times. */
static void repeated__children_count_once(void **state)
{
	struct store *s = *state;
	struct image im = image_new(1);
	image_put(s, &im);
	struct part layers[300];
	const struct part config = part_of(&im.config, TYPE_CONFIG);
	for (size_t i = 0; i < CAIRN_LEN(layers); i++) {
		layers[i] = part_of(&im.layers[i % 2], TYPE_LAYER);
	}
	struct content same = manifest_of(&config, layers, CAIRN_LEN(layers));
	put_released(s, &same);
	expect_needs(s, &same.digest, true, &same, &im.config, &im.layers[0], &im.layers[1], NULL);
	expect_state(s, &same, true, 4, same.n + im.config.n + im.layers[0].n + im.layers[1].n, 0,
		     0);
	content_free(&same);
	image_free(&im);
}

/* Each of eight levels names the one below it thousands of times: 4096^8 paths, nine blobs. */
static void repeated__indexes_are_bounded_work(void **state)
{
	struct store *s = *state;
	struct image im = image_new(1);
	struct content chain[6];
	struct part *parts = calloc(CAIRN_MANIFEST_CHILDREN_MAX, sizeof(parts[0]));
	struct timespec from, to;
	image_put(s, &im);
	for (size_t i = 0; i < CAIRN_LEN(chain); i++) {
		for (size_t k = 0; k < CAIRN_MANIFEST_CHILDREN_MAX; k++) {
			parts[k] = i == 0 ? part_of(&im.manifest, TYPE_MANIFEST)
					  : part_of(&chain[i - 1], TYPE_INDEX);
		}
		chain[i] = index_of(parts, CAIRN_MANIFEST_CHILDREN_MAX);
		put_released(s, &chain[i]);
	}
	clock_gettime(CLOCK_MONOTONIC, &from);
	expect_needs(s, &chain[5].digest, true, &chain[5], &chain[4], &chain[3], &chain[2],
		     &chain[1], &chain[0], &im.manifest, &im.config, &im.layers[0], &im.layers[1],
		     NULL);
	struct cairn_graph_state st = graph(s, &chain[5]);
	clock_gettime(CLOCK_MONOTONIC, &to);
	assert_true(to.tv_sec - from.tv_sec < 20);
	assert_true(st.ready);
	assert_int_equal(st.blobs, 10);
	for (size_t i = 0; i < CAIRN_LEN(chain); i++) content_free(&chain[i]);
	free(parts);
	image_free(&im);
}

/* Twenty manifests of 4,096 layers each are more than one image may need. */
static void wide__images_are_cut_at_the_limit(void **state)
{
	struct store *s = *state;
	struct content manifests[20], config = text_content("{}");
	struct part parts[20], *layers = calloc(CAIRN_MANIFEST_CHILDREN_MAX, sizeof(layers[0]));
	const struct part about = part_of(&config, TYPE_CONFIG);
	for (size_t i = 0; i < 20; i++) {
		for (size_t k = 0; k < CAIRN_MANIFEST_CHILDREN_MAX - 1; k++) {
			layers[k] = (struct part){.size = 1, .type = TYPE_LAYER};
			layers[k].digest.alg = CAIRN_SHA256;
			layers[k].digest.bytes[0] = (uint8_t)i;
			layers[k].digest.bytes[1] = (uint8_t)k;
			layers[k].digest.bytes[2] = (uint8_t)(k >> 8);
		}
		manifests[i] = manifest_of(&about, layers, CAIRN_MANIFEST_CHILDREN_MAX - 1);
		put_released(s, &manifests[i]);
		parts[i] = part_of(&manifests[i], TYPE_MANIFEST);
	}
	struct content index = index_of(parts, 20);
	put_released(s, &index);
	struct cairn_needs *needs = cairn_graph_needs(s->cache, &index.digest);
	assert_false(needs->complete);
	assert_true(needs->n <= CAIRN_NEEDS_MAX && needs->n > CAIRN_NEEDS_MAX - 100);
	cairn_needs_unref(needs);
	struct cairn_graph_state st = graph(s, &index);
	assert_false(st.ready);
	assert_true(st.missing_blobs > 0 && st.missing_blobs <= st.blobs);
	needs = cairn_graph_needs(s->cache, &manifests[0].digest);
	assert_true(needs->complete);
	assert_int_equal(needs->n, 1 + CAIRN_MANIFEST_CHILDREN_MAX);
	cairn_needs_unref(needs);
	for (size_t i = 0; i < 20; i++) content_free(&manifests[i]);
	content_free(&index);
	content_free(&config);
	free(layers);
}

static void reading__is_no_use(void **state)
{
	struct store *s = *state;
	struct multi m;
	struct cairn_gc_blob before[8], after[8];
	struct cairn_digest start = {0};
	multi_new(&m);
	put_released(s, &m.index);
	image_put(s, &m.a);
	size_t n = cairn_cache_next_gc(s->cache, &start, before, 8);
	assert_int_equal(n, 5);
	clock_move(s, 1000 * CAIRN_NS_PER_S);
	cairn_needs_unref(cairn_graph_needs(s->cache, &m.index.digest));
	assert_true(graph(s, &m.index).ready);
	assert_int_equal(cairn_cache_next_gc(s->cache, &start, after, 8), n);
	for (size_t i = 0; i < n; i++) {
		assert_true(before[i].used_ns == after[i].used_ns);
		assert_false(after[i].busy);
	}
	multi_free(&m);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, store_setup_open, store_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(needs__of_a_manifest),
		CASE(needs__of_a_manifest_whose_parts_are_not_here),
		CASE(needs__of_what_is_not_here),
		CASE(needs__of_bytes_that_are_no_manifest),
		CASE(needs__do_not_follow_layers),
		CASE(needs__of_an_index),
		CASE(needs__of_an_index_with_one_platform_here),
		CASE(state__attestations_run_nowhere),
		CASE(state__an_index_with_a_platform_that_lacks_a_layer),
		CASE(state__an_index_of_which_nothing_is_here),
		CASE(needs__of_nested_indexes_down_to_the_limit),
		CASE(damaged__manifests_are_not_trusted),
		CASE(damaged__layers_are_missing),
		CASE(repeated__children_count_once),
		CASE(repeated__indexes_are_bounded_work),
		CASE(wide__images_are_cut_at_the_limit),
		CASE(reading__is_no_use),
	};
	return cmocka_run_group_tests_name("plugin/graph", tests, NULL, NULL);
}
