/* The listing as such, and how containerd's answers are read into it. */
#include "support/containerd_fixture.h"

#include "plugin/listing.h"
#include "plugin/listing_read.h"

#define HEX "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define DIGEST "sha256:" HEX

static void set__is_sorted_unique_and_found(void **state)
{
	(void)state;
	struct cairn_digest_set set = {0};
	struct cairn_digest d[300];
	for (unsigned i = 0; i < 300; i++) {
		d[i] = digest_of(&i, sizeof(i), i % 3 == 0 ? CAIRN_SHA512 : CAIRN_SHA256);
		OK(cairn_digest_set_add(&set, &d[i], &node_err));
		if (i % 2 == 0) OK(cairn_digest_set_add(&set, &d[i], &node_err));
	}
	cairn_digest_set_sort(&set);
	assert_int_equal(cairn_digest_set_size(&set), 300);
	for (unsigned i = 0; i < 300; i++) assert_true(cairn_digest_set_has(&set, &d[i]));
	unsigned other = 1000;
	struct cairn_digest no = digest_of(&other, sizeof(other), CAIRN_SHA256);
	assert_false(cairn_digest_set_has(&set, &no));
	cairn_digest_set_fini(&set);
	assert_false(cairn_digest_set_has(&set, &no));
}

static void listing__lives_until_the_last_reference(void **state)
{
	(void)state;
	struct cairn_listing *l = cairn_listing_new();
	assert_ptr_equal(cairn_listing_ref(l), l);
	cairn_listing_unref(l);
	assert_int_equal(l->client, CAIRN_CLIENT_UNKNOWN);
	assert_int_equal(l->refs, 1);
	cairn_listing_unref(l);
	cairn_listing_unref(NULL);
}

static void time__is_as_strict_as_containerd(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t ns;
	} good[] = {
		{"2026-03-01T12:00:00Z", 1772366400 * CAIRN_NS_PER_S},
		{"2026-03-01T12:00:00+00:00", 1772366400 * CAIRN_NS_PER_S},
		{"2026-03-01T13:30:00+01:30", 1772366400 * CAIRN_NS_PER_S},
		{"2026-03-01T07:00:00-05:00", 1772366400 * CAIRN_NS_PER_S},
		{"2026-03-01T12:00:00.5Z", 1772366400 * CAIRN_NS_PER_S + 500000000},
		{"2026-03-01T12:00:00.123456789123Z", 1772366400 * CAIRN_NS_PER_S + 123456789},
		{"2024-02-29T00:00:00Z", 1709164800 * CAIRN_NS_PER_S},
		{"1970-01-01T00:00:01Z", CAIRN_NS_PER_S},
		{"1970-01-01T00:00:00Z", 1}, /* long ago, and not "never" */
		{"1969-12-31T23:59:59.5Z", 1},
		{"0001-01-01T00:00:00Z", 1},
	};
	static const char *const bad[] = {
		"",
		"never",
		"2026-03-01",
		"2026-03-01T12:00:00",
		"2026-03-01t12:00:00z",
		"2026-03-01 12:00:00Z",
		"2026-3-01T12:00:00Z",
		"2026-03-01T1:00:00Z",
		"2026-13-01T12:00:00Z",
		"2026-00-01T12:00:00Z",
		"2026-03-00T12:00:00Z",
		"2026-04-31T12:00:00Z",
		"2026-02-29T12:00:00Z",
		"1900-02-29T12:00:00Z",
		"2026-03-01T24:00:00Z",
		"2026-03-01T12:60:00Z",
		"2026-03-01T12:00:60Z",
		"2026-03-01T12:00:00.Z",
		"2026-03-01T12:00:00+24:00",
		"2026-03-01T12:00:00+0100",
		"2026-03-01T12:00:00+01",
		"2026-03-01T12:00:00Z ",
		" 2026-03-01T12:00:00Z",
		"-026-03-01T12:00:00Z",
		"20260-03-01T12:00:00Z",
		"9999-12-31T23:59:59Z", /* beyond what the number holds */
		"1772366400",
	};
	for (size_t i = 0; i < CAIRN_LEN(good); i++) {
		int64_t got = cairn_listing_parse_time(good[i].text);
		if (got != good[i].ns) fail_msg("%s: %lld", good[i].text, (long long)got);
	}
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		char *copy = strdup(bad[i]); /* so that ASan sees a read beyond the end */
		if (cairn_listing_parse_time(copy) != 0) fail_msg("%s: is a time", bad[i]);
		free(copy);
	}
}

/* ---- items ------------------------------------------------------------------------------------*/

/* The message as an item, in pieces of one byte: every boundary is one between two spans. */
struct pieces {
	uint8_t *bytes;
	struct cairn_span *spans, *room;
	size_t n;
};

static struct pieces pieces_of(const void *bytes, size_t n)
{
	struct pieces p = {malloc(n + 1), calloc(n + 1, sizeof(p.spans[0])),
			   calloc(n + 1, sizeof(p.room[0])), n};
	if (n > 0) memcpy(p.bytes, bytes, n);
	for (size_t i = 0; i < n; i++) p.spans[i] = (struct cairn_span){p.bytes + i, 1};
	return p;
}

static struct pieces pieces_of_message(const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *bytes = malloc(n + 1);
	protobuf_c_message_pack(m, bytes);
	struct pieces p = pieces_of(bytes, n);
	free(bytes);
	return p;
}

static void pieces_free(struct pieces *p)
{
	free(p->bytes);
	free(p->spans);
	free(p->room);
}

static enum cairn_code give(struct pieces *p, cairn_listed_item_fn *fn, void *arg)
{
	struct cairn_listed_item item = {.room = p->room, .n_room = p->n + 1};
	cairn_wire_init(&item.fields, p->spans, p->n);
	return fn(arg, &item, &node_err);
}

static enum cairn_code take(cairn_listed_item_fn *fn, void *arg, const ProtobufCMessage *m)
{
	struct pieces p = pieces_of_message(m);
	enum cairn_code rc = give(&p, fn, arg);
	pieces_free(&p);
	return rc;
}

static int setup(void **state)
{
	struct cairn_listing_maker *m = calloc(1, sizeof(*m));
	m->listing = cairn_listing_new();
	m->ns = "ns";
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct cairn_listing_maker *m = *state;
	cairn_listing_unref(m->listing);
	free(m);
	return 0;
}

static enum cairn_code take_image(struct cairn_listing_maker *m, const char *name,
				  const char *target)
{
	Containerd__Services__Images__V1__Image image =
		CONTAINERD__SERVICES__IMAGES__V1__IMAGE__INIT;
	Containerd__Services__Images__V1__Target t = CONTAINERD__SERVICES__IMAGES__V1__TARGET__INIT;
	image.name = fake_str(name);
	t.media_type = fake_str("application/vnd.oci.image.index.v1+json");
	t.digest = fake_str(target);
	t.size = 1234;
	if (target != NULL) image.target = &t;
	return take(cairn_listing_take_image, m, &image.base);
}

static void image__is_read_with_its_target(void **state)
{
	struct cairn_listing_maker *m = *state;
	OK(take_image(m, "reg.example/app:v1", DIGEST));
	OK(take_image(m, "odd", "md5:d41d8cd98f00b204e9800998ecf8427e"));
	OK(take_image(m, "none", NULL));
	OK(take_image(m, "", DIGEST)); /* without a name it still keeps its target */
	const struct cairn_listed_image *images = m->listing->images;
	char text[CAIRN_DIGEST_STR];
	assert_int_equal(m->listing->n_images, 4);
	assert_string_equal(images[0].ns, "ns");
	assert_string_equal(images[0].name, "reg.example/app:v1");
	assert_string_equal(cairn_digest_format(&images[0].target, text), DIGEST);
	assert_int_equal(images[1].target.alg, 0);
	assert_int_equal(images[2].target.alg, 0);
	assert_string_equal(images[3].name, "");
	assert_string_equal(cairn_digest_format(&images[3].target, text), DIGEST);
}

static enum cairn_code take_lease(struct cairn_listing_maker *m, const char *id, const char *key,
				  const char *value)
{
	Containerd__Services__Leases__V1__Lease lease =
		CONTAINERD__SERVICES__LEASES__V1__LEASE__INIT;
	Cairn__Wire__Label label = CAIRN__WIRE__LABEL__INIT, *labels[] = {&label};
	lease.id = fake_str(id);
	label.key = fake_str(key);
	label.value = fake_str(value);
	if (key != NULL) {
		lease.labels = labels;
		lease.n_labels = 1;
	}
	return take(cairn_listing_take_lease, m, &lease.base);
}

static void lease__is_read_with_its_labels(void **state)
{
	struct cairn_listing_maker *m = *state;
	static const struct {
		const char *key, *value;
		bool flat;
		int64_t expires_ns;
	} leases[] = {
		{NULL, NULL, false, 0},
		{"containerd.io/gc.flat", "2026-03-01T12:00:00Z", true, 0},
		{"containerd.io/gc.flat", "", true, 0}, /* present is enough */
		{"containerd.io/gc.flat2", "", false, 0},
		{"containerd.io/gc.expire", "2026-03-01T12:00:00Z", false,
		 1772366400 * CAIRN_NS_PER_S},
		{"containerd.io/gc.expire", "soon", false, 0},
		{"containerd.io/gc.expire", "", false, 0},
		{"containerd.io/gc.expire",
		 "2026-03-01T12:00:00.0000000000000000000000000000000000000000000000000000000Z",
		 false, 0},
		{"containerd.io/gc.expires.much.longer.than.any.key.we.know", "x", false, 0},
	};
	for (size_t i = 0; i < CAIRN_LEN(leases); i++) {
		OK(take_lease(m, "id", leases[i].key, leases[i].value));
		const struct cairn_listed_lease *lease = &m->listing->leases[i];
		assert_string_equal(lease->id, "id");
		assert_string_equal(lease->ns, "ns");
		if (lease->flat != leases[i].flat || lease->expires_ns != leases[i].expires_ns) {
			fail_msg("%s=%s", leases[i].key, leases[i].value);
		}
	}
	assert_int_equal(take_lease(m, "", NULL, NULL), CAIRN_INVALID_ARGUMENT);
}

static enum cairn_code take_resource(struct cairn_listing_maker *m, const char *type,
				     const char *id)
{
	Containerd__Services__Leases__V1__Resource r =
		CONTAINERD__SERVICES__LEASES__V1__RESOURCE__INIT;
	r.type = fake_str(type);
	r.id = fake_str(id);
	return take(cairn_listing_take_resource, m, &r.base);
}

static void resource__counts_if_it_stands_for_a_digest(void **state)
{
	struct cairn_listing_maker *m = *state;
	static const struct {
		const char *type, *id;
		bool counts;
	} list[] = {
		{"content", DIGEST, true},
		{"ingests", "layer-" DIGEST, true},
		{"ingests", "manifest-reg.example/team/app:v1@" DIGEST, true},
		{"ingests", "ns/1/layer-" DIGEST, false}, /* there is no prefix here */
		{"ingests", DIGEST, false},
		{"ingests", "upload-1", false},
		{"content", "layer-" DIGEST, false},
		{"content", "sha256:123", false},
		{"content", "", false},
		{"snapshots/overlayfs", DIGEST, false},
		{"contents", DIGEST, false},
		{"a type of its own that is long", DIGEST, false},
		{"", DIGEST, false},
	};
	OK(take_lease(m, "one", NULL, NULL));
	size_t n = 0;
	for (size_t i = 0; i < CAIRN_LEN(list); i++) {
		OK(take_resource(m, list[i].type, list[i].id));
		n += list[i].counts;
		if (m->listing->leases[0].n != n) fail_msg("%s %s", list[i].type, list[i].id);
	}
	char text[CAIRN_DIGEST_STR];
	for (size_t i = 0; i < n; i++) {
		assert_string_equal(cairn_digest_format(&m->listing->leases[0].content[i], text),
				    DIGEST);
	}
	/* The next one has a list of its own. */
	OK(take_lease(m, "two", NULL, NULL));
	m->lease = 1;
	OK(take_resource(m, "content", DIGEST));
	assert_int_equal(m->listing->leases[0].n, n);
	assert_int_equal(m->listing->leases[1].n, 1);
	cairn_listing_drop_lease(m, 0);
	assert_int_equal(m->listing->n_leases, 1);
	assert_string_equal(m->listing->leases[0].id, "two");
	assert_int_equal(m->listing->leases[0].n, 1);
}

static enum cairn_code take_container(struct cairn_listing_maker *m, const char *image,
				      int64_t seconds, int32_t nanos)
{
	Containerd__Services__Containers__V1__Container c =
		CONTAINERD__SERVICES__CONTAINERS__V1__CONTAINER__INIT;
	Cairn__Wire__Timestamp ts = CAIRN__WIRE__TIMESTAMP__INIT;
	c.id = fake_str("id");
	c.image = fake_str(image);
	ts.seconds = seconds;
	ts.nanos = nanos;
	c.created_at = &ts;
	return take(cairn_listing_take_container, m, &c.base);
}

static void container__is_read_and_nonsense_of_a_time_is_none(void **state)
{
	struct cairn_listing_maker *m = *state;
	static const struct {
		int64_t seconds;
		int32_t nanos;
		int64_t ns;
	} times[] = {
		{1772366400, 7, 1772366400 * CAIRN_NS_PER_S + 7},
		{1772366400, 1000000000, 0},
		{1772366400, -1, 0},
		{-62135596800, 0, 0}, /* Go's zero time */
		{INT64_MAX, 999999999, 0},
		{INT64_MIN, INT32_MIN, 0},
		{0, 0, 0},
	};
	for (size_t i = 0; i < CAIRN_LEN(times); i++) {
		OK(take_container(m, i == 0 ? "app:v1" : "", times[i].seconds, times[i].nanos));
		assert_int_equal(m->listing->containers[i].created_ns, times[i].ns);
		assert_string_equal(m->listing->containers[i].id, "id");
	}
	assert_string_equal(m->listing->containers[0].image, "app:v1");
	assert_string_equal(m->listing->containers[1].image, "");
	Containerd__Services__Containers__V1__Container none =
		CONTAINERD__SERVICES__CONTAINERS__V1__CONTAINER__INIT;
	OK(take(cairn_listing_take_container, m, &none.base));
	assert_string_equal(m->listing->containers[CAIRN_LEN(times)].id, "");
}

/* The specs of containers, and labels, are stepped over; a message that is cut short is found. */
static void items__of_a_hostile_containerd_fail_or_are_left_out(void **state)
{
	struct cairn_listing_maker *m = *state;
	static const struct {
		cairn_listed_item_fn *fn;
		const char *bytes;
		size_t n;
		enum cairn_code rc;
	} items[] = {
		{cairn_listing_take_content,
		 "\x0a\x03"
		 "abc",
		 5, CAIRN_OK},
		{cairn_listing_take_content,
		 "\x0a\x05"
		 "abc",
		 5, CAIRN_INVALID_ARGUMENT},
		{cairn_listing_take_content,
		 "\x0a\x03"
		 "a\0c",
		 5, CAIRN_OK},
		{cairn_listing_take_content, "\x08\x01", 2, CAIRN_OK},		 /* a number */
		{cairn_listing_take_content, "\x0b", 1, CAIRN_INVALID_ARGUMENT}, /* a group */
		{cairn_listing_take_content, "\x00", 1, CAIRN_INVALID_ARGUMENT},
		{cairn_listing_take_image,
		 "\x0a\x03"
		 "a\0c",
		 5, CAIRN_INVALID_ARGUMENT},
		{cairn_listing_take_image, "\x1a\x02\x12\x09", 4, CAIRN_INVALID_ARGUMENT},
		{cairn_listing_take_image, "\x1a\x00", 2, CAIRN_OK},
		{cairn_listing_take_image,
		 "\x0a\x01"
		 "a"
		 "\x0a\x01"
		 "b",
		 6, CAIRN_OK},
		{cairn_listing_take_lease,
		 "\x0a\x01"
		 "a"
		 "\x1a\x01\x0a",
		 6, CAIRN_INVALID_ARGUMENT},
		{cairn_listing_take_lease, "", 0, CAIRN_INVALID_ARGUMENT},
		{cairn_listing_take_container, "\x42\x01\x08", 3, CAIRN_INVALID_ARGUMENT},
		{cairn_listing_take_container, "\x2a\xff\xff\xff\xff\x0f", 6,
		 CAIRN_INVALID_ARGUMENT},
		{cairn_listing_take_container, "", 0, CAIRN_OK},
	};
	for (size_t i = 0; i < CAIRN_LEN(items); i++) {
		struct pieces p = pieces_of(items[i].bytes, items[i].n);
		enum cairn_code rc = give(&p, items[i].fn, m);
		pieces_free(&p);
		if (rc != items[i].rc) fail_msg("item %zu: %s", i, cairn_code_name(rc));
	}
	assert_int_equal(cairn_digest_set_size(&m->listing->recorded), 0);
	struct cairn_names names = {0};
	struct pieces p = pieces_of("\x0a\x03"
				    "a\0c",
				    5);
	assert_int_equal(give(&p, cairn_listing_take_namespace, &names), CAIRN_INVALID_ARGUMENT);
	pieces_free(&p);
	cairn_names_fini(&names);
}

/* ---- limits -----------------------------------------------------------------------------------*/

/* The same item n times is fine, and once more is refused. */
static void fill_up(cairn_listed_item_fn *fn, void *arg, const void *bytes, size_t len, size_t n,
		    const char *what)
{
	struct pieces p = pieces_of(bytes, len);
	for (size_t i = 0; i < n; i++) {
		if (give(&p, fn, arg) != CAIRN_OK) fail_msg("%zu: %s", i, node_err.msg);
	}
	assert_int_equal(give(&p, fn, arg), CAIRN_RESOURCE_EXHAUSTED);
	if (strstr(node_err.msg, what) == NULL) fail_msg("says: %s", node_err.msg);
	pieces_free(&p);
}

static void limits__are_checked(void **state)
{
	struct cairn_listing_maker *m = *state;
	struct cairn_names names = {0};
	fill_up(cairn_listing_take_namespace, &names, "\x0a\x01n", 3, CAIRN_NAMESPACES_MAX,
		"4096 namespaces");
	cairn_names_fini(&names);
	fill_up(cairn_listing_take_image, m, "\x0a\x01i", 3, CAIRN_IMAGES_MAX, "262144 images");
	fill_up(cairn_listing_take_lease, m, "\x0a\x01l", 3, CAIRN_LEASES_MAX, "65536 leases");
	fill_up(cairn_listing_take_container, m,
		"\x0a\x01"
		"c",
		3, CAIRN_CONTAINERS_MAX, "262144 containers");
}

static void limits__of_resources_are_those_of_all_leases(void **state)
{
	struct cairn_listing_maker *m = *state;
	char bytes[100];
	int n = snprintf(bytes, sizeof(bytes),
			 "\x0a%c" DIGEST "\x12\x07"
			 "content",
			 (int)strlen(DIGEST));
	OK(take_lease(m, "one", NULL, NULL));
	OK(take_lease(m, "two", NULL, NULL));
	OK(take_resource(m, "content", DIGEST));
	m->lease = 1;
	OK(take_resource(m, "content", DIGEST));
	m->resources += CAIRN_LEASE_RESOURCES_MAX - 100; /* a million would take a while */
	fill_up(cairn_listing_take_resource, m, bytes, (size_t)n, 98, "1048576 resources");
	cairn_listing_drop_lease(m, 0);
	OK(take_resource(m, "content", DIGEST));
}

static void limits__of_names(void **state)
{
	struct cairn_listing_maker *m = *state;
	static char name[CAIRN_LISTED_NAME_MAX + 2];
	memset(name, 'n', CAIRN_LISTED_NAME_MAX + 1);
	assert_int_equal(take_image(m, name, DIGEST), CAIRN_RESOURCE_EXHAUSTED);
	name[CAIRN_LISTED_NAME_MAX] = '\0';
	OK(take_image(m, name, DIGEST));
	/* What is not kept does not count. */
	size_t before = m->text_bytes;
	OK(take_lease(m, "l", NULL, NULL));
	OK(take_resource(m, "snapshots/native", name));
	assert_int_equal(m->text_bytes, before + 1);
	m->text_bytes = CAIRN_LISTING_TEXT_MAX - 5;
	OK(take_image(m, "five5", DIGEST));
	assert_int_equal(take_image(m, "1", DIGEST), CAIRN_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(node_err.msg, "bytes of names"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set__is_sorted_unique_and_found),
		cmocka_unit_test(listing__lives_until_the_last_reference),
		cmocka_unit_test(time__is_as_strict_as_containerd),
		TEST(image__is_read_with_its_target),
		TEST(lease__is_read_with_its_labels),
		TEST(resource__counts_if_it_stands_for_a_digest),
		TEST(container__is_read_and_nonsense_of_a_time_is_none),
		TEST(items__of_a_hostile_containerd_fail_or_are_left_out),
		TEST(limits__are_checked),
		TEST(limits__of_resources_are_those_of_all_leases),
		TEST(limits__of_names),
	};
	return cmocka_run_group_tests_name("plugin/listing", tests, NULL, NULL);
}
