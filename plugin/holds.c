/* The needs of a root come from the history where they are known completely, else from reading
 * manifests, once for each root. */
#include "plugin/holds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/graph.h"

struct build {
	const struct cairn_holds_input *in;
	struct cairn_holds *out;
	struct known {
		struct cairn_digest root;
		struct cairn_digest *needs; /* sorted; out's texts' in the end */
		size_t n;
		bool partial; /* to be read, for what may be missing */
	} * known;
	size_t n_known, cap_known;
	size_t *slots; /* by root: 0, or 1 + the place in known */
	size_t n_slots;
};

static void *grow(void *list, size_t n, size_t *cap, size_t size)
{
	if (n < *cap) return list;
	*cap = *cap > 0 ? 2 * *cap : 32;
	list = realloc(list, *cap * size);
	if (list == NULL) abort();
	return list;
}

bool cairn_name_moves(const char *name)
{
	return strchr(name, '@') == NULL && strncmp(name, "sha256:", 7) != 0 &&
	       strncmp(name, "sha512:", 7) != 0;
}

/* ---- image records ----------------------------------------------------------------------------*/

static int by_name(const void *a, const void *b)
{
	const struct cairn_listed_image *const *x = a, *const *y = b;
	return strcmp((*x)->name, (*y)->name);
}

void cairn_image_index_init(struct cairn_image_index *index, const struct cairn_listing *listing)
{
	index->n = listing != NULL ? listing->n_images : 0;
	index->list = calloc(index->n + 1, sizeof(index->list[0]));
	if (index->list == NULL) abort();
	for (size_t i = 0; i < index->n; i++) index->list[i] = &listing->images[i];
	qsort(index->list, index->n, sizeof(index->list[0]), by_name);
}

void cairn_image_index_fini(struct cairn_image_index *index)
{
	free(index->list);
	*index = (struct cairn_image_index){0};
}

bool cairn_image_index_has(const struct cairn_image_index *index, const char *name,
			   const struct cairn_digest *root)
{
	size_t low = 0, high = index->n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (strcmp(index->list[mid]->name, name) < 0) {
			low = mid + 1;
		} else {
			high = mid;
		}
	}
	for (; low < index->n && strcmp(index->list[low]->name, name) == 0; low++) {
		if (root == NULL || cairn_digest_equal(&index->list[low]->target, root)) {
			return true;
		}
	}
	return false;
}

/* ---- what a root needs ------------------------------------------------------------------------*/

/* The slot of the root, or the free one that it would have. */
static size_t *slot_of(const struct build *b, const struct cairn_digest *root)
{
	size_t at;
	memcpy(&at, root->bytes, sizeof(at));
	for (;; at++) {
		size_t *slot = &b->slots[at & (b->n_slots - 1)];
		if (*slot == 0 || cairn_digest_equal(&b->known[*slot - 1].root, root)) return slot;
	}
}

static struct known *find(const struct build *b, const struct cairn_digest *root)
{
	size_t slot = b->n_slots > 0 ? *slot_of(b, root) : 0;
	return slot > 0 ? &b->known[slot - 1] : NULL;
}

static void grow_slots(struct build *b)
{
	if (2 * b->n_known < b->n_slots) return;
	free(b->slots);
	b->n_slots = b->n_slots > 0 ? 2 * b->n_slots : 64;
	b->slots = calloc(b->n_slots, sizeof(b->slots[0]));
	if (b->slots == NULL) abort();
	for (size_t i = 0; i < b->n_known; i++) *slot_of(b, &b->known[i].root) = i + 1;
}

static int by_digest(const void *a, const void *b)
{
	return cairn_digest_compare(a, b);
}

/* It needs these, too. */
static void extend(struct known *k, const struct cairn_needs *needs)
{
	size_t before = k->n;
	k->needs = realloc(k->needs, (before + needs->n + 1) * sizeof(k->needs[0]));
	if (k->needs == NULL) abort();
	for (size_t i = 0; i < needs->n; i++) {
		const struct cairn_digest *digest = &needs->list[i].digest;
		bool has = bsearch(digest, k->needs, before, sizeof(*digest), by_digest) != NULL;
		if (!has) k->needs[k->n++] = *digest;
	}
	qsort(k->needs, k->n, sizeof(k->needs[0]), by_digest);
}

static struct known *remember(struct build *b, const struct cairn_digest *root)
{
	struct known *k = find(b, root);
	if (k != NULL) return k;
	grow_slots(b);
	b->known = grow(b->known, b->n_known, &b->cap_known, sizeof(b->known[0]));
	*slot_of(b, root) = ++b->n_known;
	k = &b->known[b->n_known - 1];
	*k = (struct known){.root = *root, .partial = true};
	return k;
}

static const struct known *needs_of(struct build *b, const struct cairn_digest *root)
{
	struct known *k = remember(b, root);
	if (!k->partial) return k;
	struct cairn_needs *needs = cairn_graph_needs(b->in->cache, root);
	extend(k, needs);
	k->partial = false;
	cairn_needs_unref(needs);
	return k;
}

/* What the history knows completely need not be read. What it knows in part is needed, too: an
 * index may be gone while the layers below it are still here. */
static void take_history(struct build *b)
{
	for (size_t i = 0; i < b->out->n_versions; i++) {
		const struct cairn_version *v = &b->out->versions[i];
		if (v->needs == NULL) continue;
		struct known *k = remember(b, &v->root);
		if (!k->partial) continue;
		extend(k, v->needs);
		k->partial = !v->needs->complete;
	}
}

/* ---- holds ------------------------------------------------------------------------------------*/

static const char *keep_text(struct cairn_holds *h, const char *a, const char *b)
{
	size_t n = strlen(a) + strlen(b) + 2;
	char *text = malloc(n);
	if (text == NULL) abort();
	snprintf(text, n, "%s%s%s", a, b[0] != '\0' ? "/" : "", b);
	h->texts = grow(h->texts, h->n_texts, &h->cap_texts, sizeof(h->texts[0]));
	h->texts[h->n_texts++] = text;
	return text;
}

static struct cairn_gc_hold *add(struct build *b, enum cairn_gc_why why, const char *what,
				 const struct cairn_digest *needs, size_t n)
{
	struct cairn_holds *h = b->out;
	h->list = grow(h->list, h->n, &h->cap, sizeof(h->list[0]));
	h->list[h->n] = (struct cairn_gc_hold){.why = why, .what = what, .needs = needs, .n = n};
	return &h->list[h->n++];
}

static struct cairn_gc_hold *hold(struct build *b, enum cairn_gc_why why, const char *what,
				  const struct cairn_digest *root)
{
	const struct known *k = needs_of(b, root);
	return add(b, why, what, k->needs, k->n);
}

/* Found by its place in the history, which must not be forgotten for as long. */
static void hold_by(struct build *b, enum cairn_gc_why why, const char *what,
		    const struct cairn_version *version)
{
	b->out->found[version - b->out->versions] = true;
	hold(b, why, what, &version->root);
}

static void hold_leases(struct build *b)
{
	const struct cairn_listing *l = b->in->listing;
	for (size_t i = 0; i < l->n_leases; i++) {
		const struct cairn_listed_lease *lease = &l->leases[i];
		if (lease->expires_ns != 0 && lease->expires_ns <= b->in->real_ns) continue;
		const char *what = keep_text(b->out, lease->ns, lease->id);
		if (lease->flat) {
			add(b, CAIRN_GC_LEASE, what, lease->content, lease->n);
			continue;
		}
		for (size_t j = 0; j < lease->n; j++) {
			hold(b, CAIRN_GC_LEASE, what, &lease->content[j]);
		}
	}
}

static void hold_images(struct build *b)
{
	const struct cairn_listing *l = b->in->listing;
	for (size_t i = 0; i < l->n_images; i++) {
		if (l->images[i].target.alg == 0) continue;
		hold(b, CAIRN_GC_IMAGE, l->images[i].name, &l->images[i].target);
	}
}

/* The first version of the name; n_versions if there is none. Versions are sorted by name. */
static size_t first_of(const struct cairn_holds *h, const char *name)
{
	size_t low = 0, high = h->n_versions;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (strcmp(h->versions[mid].name, name) < 0) {
			low = mid + 1;
		} else {
			high = mid;
		}
	}
	bool found = low < h->n_versions && strcmp(h->versions[low].name, name) == 0;
	return found ? low : h->n_versions;
}

static size_t end_of(const struct cairn_holds *h, size_t first)
{
	size_t end = first;
	while (end < h->n_versions && strcmp(h->versions[end].name, h->versions[first].name) == 0) {
		end++;
	}
	return end;
}

/* The time in which a version was current, by one of two clocks. */
struct span {
	int64_t first, last;
};

static struct span span_of(const struct cairn_version *v, bool real)
{
	return real ? (struct span){v->first_real_ns, v->last_real_ns}
		    : (struct span){v->first_ns, v->last_ns};
}

/* What was current at that moment. That may be several versions, of a name that was moved and moved
 * back, or that two namespaces have. When exactly a name moved is known to the minute at best,
 * since names are looked at from time to time: so, where nothing is known of the moment, the first
 * version that was current later; and in any case the last one that was current before. */
static void find_moment(const struct cairn_holds *h, size_t first, size_t end, int64_t moment,
			bool real, bool *found)
{
	int64_t after = INT64_MAX, before = INT64_MIN; /* when the next began, and the last ended */
	bool any = false;
	for (size_t i = first; i < end; i++) {
		const struct span span = span_of(&h->versions[i], real);
		if (span.first <= moment && moment <= span.last) {
			found[i - first] = any = true;
		} else if (span.first > moment) {
			if (span.first < after) after = span.first;
		} else if (span.last > before) {
			before = span.last;
		}
	}
	for (size_t i = first; i < end; i++) {
		const struct span span = span_of(&h->versions[i], real);
		bool next = !any && span.first > moment && span.first == after;
		bool last = span.first <= moment && span.last < moment && span.last == before;
		if (next || last) found[i - first] = true;
	}
}

/* What the container was made from, by both clocks: store time stands still while the node is off,
 * and real time jumps when the wall clock is set. One of the two is right. */
static void hold_container(struct build *b, const struct cairn_listed_container *container)
{
	struct cairn_holds *h = b->out;
	bool found[CAIRN_VERSIONS_OF_A_NAME] = {false};
	size_t first = first_of(h, container->image);
	if (first == h->n_versions) return;
	size_t end = end_of(h, first);
	if (end - first > CAIRN_LEN(found)) end = first + CAIRN_LEN(found);
	int64_t age = b->in->real_ns - container->created_ns;
	find_moment(h, first, end, container->created_ns, true, found);
	find_moment(h, first, end, b->in->now_ns - age, false, found);
	const char *what = keep_text(h, container->ns, container->id);
	for (size_t i = first; i < end; i++) {
		if (found[i - first]) hold_by(b, CAIRN_GC_CONTAINER, what, &h->versions[i]);
	}
}

static void hold_containers(struct build *b)
{
	const struct cairn_listing *l = b->in->listing;
	for (size_t i = 0; i < l->n_containers; i++) {
		if (l->containers[i].image[0] != '\0') hold_container(b, &l->containers[i]);
	}
}

/* A digest is also a name where CRI gives images the digests of their configs for names. */
static void hold_pins(struct build *b)
{
	struct cairn_holds *h = b->out;
	for (size_t i = 0; i < h->n_pins; i++) {
		struct cairn_digest digest;
		struct cairn_err ignored;
		const char *target = h->pins[i].target;
		if (cairn_digest_parse(target, strlen(target), &digest, &ignored) == CAIRN_OK) {
			hold(b, CAIRN_GC_PIN, target, &digest);
		}
		size_t at = first_of(h, target);
		if (at < h->n_versions) hold_by(b, CAIRN_GC_PIN, target, &h->versions[at]);
	}
}

/* ---- versions ---------------------------------------------------------------------------------*/

/* The newest ones of one name, if it is in use or was lately. */
static void hold_name(struct build *b, size_t first, size_t end)
{
	struct cairn_holds *h = b->out;
	const struct cairn_holds_input *in = b->in;
	const char *name = h->versions[first].name;
	bool prune = in->prune != NULL && strcmp(in->prune, name) == 0;
	bool lately = in->now_ns - h->versions[first].last_ns < in->keep_versions_ns;
	bool active = !in->sure || lately || cairn_image_index_has(&h->images, name, NULL);
	size_t keep = active && cairn_name_moves(name) ? (size_t)in->keep_versions : 0;
	if (prune && keep > (size_t)in->prune_keep) keep = (size_t)in->prune_keep;
	for (size_t i = first; i < end; i++) {
		h->kept[i] = i - first < keep;
		h->pruned[i] = prune && i - first >= (size_t)in->prune_keep;
		if (!h->kept[i] && !h->pruned[i]) continue;
		struct cairn_gc_hold *one = hold(b, h->kept[i] ? CAIRN_GC_VERSION : CAIRN_GC_PRUNE,
						 name, &h->versions[i].root);
		one->last_ns = h->versions[i].last_ns;
	}
}

static void hold_versions(struct build *b)
{
	struct cairn_holds *h = b->out;
	for (size_t first = 0, end; first < h->n_versions; first = end) {
		end = end_of(h, first);
		hold_name(b, first, end);
	}
}

void cairn_holds_build(const struct cairn_holds_input *in, struct cairn_holds *ret)
{
	struct build b = {.in = in, .out = ret};
	*ret = (struct cairn_holds){0};
	ret->n_versions = cairn_cache_versions(in->cache, NULL, &ret->versions);
	ret->n_pins = cairn_cache_pins(in->cache, &ret->pins);
	cairn_image_index_init(&ret->images, in->listing);
	ret->kept = calloc(ret->n_versions + 1, sizeof(bool));
	ret->pruned = calloc(ret->n_versions + 1, sizeof(bool));
	ret->found = calloc(ret->n_versions + 1, sizeof(bool));
	if (ret->kept == NULL || ret->pruned == NULL || ret->found == NULL) abort();
	take_history(&b);
	if (in->listing != NULL) {
		hold_leases(&b);
		hold_containers(&b);
		hold_images(&b);
	}
	hold_pins(&b);
	hold_versions(&b);
	/* Their digests are the holds' from here on. */
	for (size_t i = 0; i < b.n_known; i++) {
		ret->texts = grow(ret->texts, ret->n_texts, &ret->cap_texts, sizeof(char *));
		ret->texts[ret->n_texts++] = (char *)b.known[i].needs;
	}
	free(b.known);
	free(b.slots);
}

void cairn_holds_fini(struct cairn_holds *h)
{
	for (size_t i = 0; i < h->n_texts; i++) free(h->texts[i]);
	free(h->texts);
	free(h->list);
	free(h->kept);
	free(h->pruned);
	free(h->found);
	cairn_image_index_fini(&h->images);
	cairn_versions_free(h->versions, h->n_versions);
	cairn_pins_free(h->pins, h->n_pins);
	*h = (struct cairn_holds){0};
}
