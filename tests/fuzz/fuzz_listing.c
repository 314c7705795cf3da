/* What containerd answers, read into a listing: whatever the bytes, and however they are cut into
 * spans, the listing is whole or refused, and what is in it is within the limits.
 *
 * The first byte chooses the kind of item, the second how long the spans are. */
#include <string.h>

#include "plugin/listing_read.h"
#include "tests/fuzz/fuzz.h"

static cairn_listed_item_fn *const kinds[] = {
	cairn_listing_take_content,  cairn_listing_take_image,	   cairn_listing_take_lease,
	cairn_listing_take_resource, cairn_listing_take_container,
};

static void check(const struct cairn_listing *l)
{
	for (size_t i = 0; i < l->n_images; i++) {
		FUZZ_CHECK(strlen(l->images[i].name) <= CAIRN_LISTED_NAME_MAX);
	}
	for (size_t i = 0; i < l->n_leases; i++) {
		FUZZ_CHECK(l->leases[i].id[0] != '\0' && l->leases[i].expires_ns >= 0);
		for (size_t k = 0; k < l->leases[i].n; k++) {
			FUZZ_CHECK(l->leases[i].content[k].alg != 0);
		}
	}
	for (size_t i = 0; i < l->n_containers; i++) {
		FUZZ_CHECK(l->containers[i].id != NULL && l->containers[i].image != NULL);
		FUZZ_CHECK(l->containers[i].created_ns >= 0);
	}
}

static void read_item(cairn_listed_item_fn *fn, const uint8_t *data, size_t size, size_t step)
{
	struct cairn_err err;
	struct cairn_listing_maker m = {.listing = cairn_listing_new(), .ns = "ns"};
	struct cairn_span *spans = calloc(2 * (size + 1), sizeof(spans[0]));
	struct cairn_span lease = {(const uint8_t *)"\x0a\x01l", 3};
	struct cairn_listed_item item = {.room = spans + size + 1, .n_room = size + 1};
	size_t n = 0;
	if (spans == NULL) abort();
	if (fn == cairn_listing_take_resource) { /* of this one */
		cairn_wire_init(&item.fields, &lease, 1);
		FUZZ_CHECK(cairn_listing_take_lease(&m, &item, &err) == CAIRN_OK);
	}
	for (size_t at = 0; at < size; at += step) {
		spans[n++] = (struct cairn_span){data + at, size - at < step ? size - at : step};
	}
	cairn_wire_init(&item.fields, spans, n);
	if (fn(&m, &item, &err) == CAIRN_OK) check(m.listing);
	free(spans);
	cairn_listing_unref(m.listing);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2) return 0;
	read_item(kinds[data[0] % CAIRN_LEN(kinds)], data + 2, size - 2, data[1] % 32 + 1U);

	char *text = malloc(size);
	if (text == NULL) abort();
	memcpy(text, data, size - 1);
	text[size - 1] = '\0';
	FUZZ_CHECK(cairn_listing_parse_time(text) >= 0);
	free(text);
	return 0;
}
