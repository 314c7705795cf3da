/* Everything that meets eviction, at once and at random: threads that pull, release, read with
 * views kept, evict, expire ingests, pin, and see versions. What must hold afterwards is noted in
 * memory that may be shared with another process. */
#ifndef CAIRN_TESTS_SUPPORT_CHURN_H
#define CAIRN_TESTS_SUPPORT_CHURN_H

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "cache/evict.h"
#include "cache/history.h"
#include "support/store.h"

#define CHURN_BLOBS 24
#define CHURN_PINS 6
#define CHURN_NAMES 3
#define CHURN_MIB (1u << 20)

enum churn_pin { PIN_UNKNOWN, PIN_SET, PIN_NOT_SET };

struct churn {
	atomic_bool opened, stop;
	atomic_int wrong; /* the line of what went wrong first; 0: nothing */
	char why[300];
	atomic_uint pulls[CHURN_BLOBS]; /* odd: one is on its way */
	atomic_uint gone[CHURN_BLOBS];	/* pulls when the blob was told to be evicted */
	atomic_bool kept[CHURN_BLOBS];	/* its commit was answered, and it was not released since */
	atomic_int pins[CHURN_PINS];
	atomic_ulong commits, prefills, evicted, spared, reads, expired;
};

static struct content churn_contents[CHURN_BLOBS];

static UNUSED void churn_make_contents(void)
{
	static const size_t sizes[] = {1, 4096, 70001, 300, CHURN_MIB + 1, 12345};
	for (uint64_t i = 0; i < CHURN_BLOBS; i++) {
		churn_contents[i] = content_new(sizes[i / 2 % CAIRN_LEN(sizes)], 7000 + i);
	}
}

static UNUSED void churn_free_contents(void)
{
	for (size_t i = 0; i < CHURN_BLOBS; i++) content_free(&churn_contents[i]);
}

static UNUSED struct churn *churn_new(void)
{
	struct churn *ch =
		mmap(NULL, sizeof(*ch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ch == MAP_FAILED) abort();
	for (size_t i = 0; i < CHURN_BLOBS; i++) ch->gone[i] = UINT_MAX;
	for (size_t i = 0; i < CHURN_PINS; i++) ch->pins[i] = PIN_NOT_SET;
	return ch;
}

static UNUSED void churn_free(struct churn *ch)
{
	munmap(ch, sizeof(*ch));
}

struct churner {
	struct churn *ch;
	struct cairn_cache *c;
	pthread_t thread;
	uint64_t x;
	size_t lane; /* of LANES: contents and pins with this remainder are its own */
	void (*step)(struct churner *w);
};

#define CHURN_LANES 2

static void churn_wrong(struct churner *w, int line, const char *why)
{
	int none = 0;
	if (!atomic_compare_exchange_strong(&w->ch->wrong, &none, line)) return;
	snprintf(w->ch->why, sizeof(w->ch->why), "%s", why);
}

#define CHURN_CHECK(w, condition, why)                                                             \
	do {                                                                                       \
		if (!(condition)) churn_wrong(w, __LINE__, why);                                   \
	} while (0)

static size_t churn_own(struct churner *w, size_t n)
{
	return next_random(&w->x) % (n / CHURN_LANES) * CHURN_LANES + w->lane;
}

static size_t churn_content_of(struct churner *w, const struct cairn_digest *d)
{
	for (size_t i = 0; i < CHURN_BLOBS; i++) {
		if (cairn_digest_equal(&churn_contents[i].digest, d)) return i;
	}
	churn_wrong(w, __LINE__, "a blob that nobody wrote");
	return 0;
}

/* Views of all of it, right. must: it has to be here. */
static void churn_read(struct churner *w, size_t i, bool must)
{
	struct cairn_err err;
	struct cairn_blob *b;
	struct cairn_view v;
	const struct content *k = &churn_contents[i];
	if (cairn_blob_open(w->c, &k->digest, &b, &err) != CAIRN_OK) {
		CHURN_CHECK(w, !must && err.code == CAIRN_NOT_FOUND, err.msg);
		return;
	}
	for (uint64_t at = 0; at < k->n;) {
		if (cairn_blob_view(b, at, k->n - at, true, &v, &err) != CAIRN_VIEW_OK) {
			churn_wrong(w, __LINE__, err.msg);
			break;
		}
		CHURN_CHECK(w, memcmp(v.data, k->data + at, v.len) == 0, "wrong bytes");
		at += v.len;
		cairn_view_release(&v);
		w->ch->reads++;
	}
	cairn_blob_close(b);
}

static void churn_commit(struct churner *w, struct cairn_ingest *ing, size_t i)
{
	struct cairn_err err;
	struct cairn_ingest_status st;
	const struct content *k = &churn_contents[i];
	enum cairn_code code = cairn_ingest_commit(ing, k->n, k->n, &k->digest, &st, &err);
	if (code != CAIRN_OK && code != CAIRN_ALREADY_EXISTS) {
		churn_wrong(w, __LINE__, err.msg);
		return;
	}
	w->ch->kept[i] = true;
	w->ch->commits++;
}

/* All of the bytes from offset on, in pieces; false: given up half way. */
static bool churn_write(struct churner *w, struct cairn_ingest *ing, size_t i)
{
	struct cairn_err err;
	struct cairn_ingest_status st = {0};
	const struct content *k = &churn_contents[i];
	if (cairn_ingest_get_status(ing, &st, &err) != CAIRN_OK) {
		churn_wrong(w, __LINE__, err.msg);
	}
	for (uint64_t at = st.offset; at < k->n;) {
		size_t n = 1 + next_random(&w->x) % k->n;
		if (n > k->n - at) n = k->n - (size_t)at;
		if (next_random(&w->x) % 12 == 0) return false;
		if (put(ing, at, k->data + at, n, &err) != CAIRN_OK) {
			churn_wrong(w, __LINE__, err.msg);
			return false;
		}
		at += n;
	}
	return true;
}

static void churn_pull(struct churner *w, size_t i)
{
	struct cairn_err err;
	struct cairn_ingest *ing;
	char ref[32];
	const struct content *k = &churn_contents[i];
	snprintf(ref, sizeof(ref), "pull-%zu", i);
	struct cairn_ingest_spec spec = {.ref = ref, .owner = "ns", .total = k->n};
	spec.prefill = next_random(&w->x) % 4 != 0;
	if (next_random(&w->x) % 8 != 0) spec.want = k->digest;
	w->ch->pulls[i]++;
	if (cairn_ingest_open(w->c, &spec, &ing, &err) != CAIRN_OK) {
		churn_wrong(w, __LINE__, err.msg);
		w->ch->pulls[i]++;
		return;
	}
	bool prefilled = cairn_ingest_is_published(ing);
	if (prefilled) w->ch->prefills++;
	if (prefilled && next_random(&w->x) % 2 == 0) {
		CHURN_CHECK(w, cairn_ingest_confirm(ing, &err) == CAIRN_OK, "confirm");
	}
	bool whole = prefilled || churn_write(w, ing, i);
	if (whole && next_random(&w->x) % 4 != 0) churn_commit(w, ing, i);
	cairn_ingest_close(ing);
	if (next_random(&w->x) % 4 == 0) cairn_cache_abort(w->c, ref);
	w->ch->pulls[i]++;
}

static void churn_promise(struct churner *w, size_t i)
{
	struct cairn_err err;
	struct cairn_blob_info info;
	const struct content *k = &churn_contents[i];
	bool kept = w->ch->kept[i];
	if (cairn_cache_promise(w->c, &k->digest, &info, &err) != CAIRN_OK) {
		CHURN_CHECK(w, !kept, "a committed blob is denied");
		return;
	}
	CHURN_CHECK(w, !info.damaged && info.size == k->n, "promised and damaged");
	cairn_blob_info_fini(&info);
	churn_read(w, i, true); /* nobody else releases it */
}

static UNUSED void churn_runtime_step(struct churner *w)
{
	size_t i = churn_own(w, CHURN_BLOBS);
	switch (next_random(&w->x) % 8) {
	case 0:
	case 1:
		w->ch->kept[i] = false;
		cairn_cache_release(w->c, &churn_contents[i].digest);
		break;
	case 2:
		churn_promise(w, i);
		break;
	case 3:
		churn_read(w, i, w->ch->kept[i]);
		break;
	case 4: /* without a pull: a listing of containerd shows it */
		if (cairn_cache_reference(w->c, &churn_contents[i].digest)) w->ch->kept[i] = true;
		break;
	default:
		churn_pull(w, i);
	}
}

/* As garbage collection does it: look at all, choose, evict. */
static UNUSED void churn_evict_step(struct churner *w)
{
	struct cairn_err err;
	struct cairn_gc_blob seen[CHURN_BLOBS];
	struct cairn_eviction list[CHURN_BLOBS];
	unsigned pulls[CHURN_BLOBS];
	struct cairn_digest after = {0};
	size_t n = 0;
	if (next_random(&w->x) % 16 == 0) w->ch->expired += cairn_cache_expire_ingests(w->c, 0);
	size_t all = cairn_cache_next_gc(w->c, &after, seen, CHURN_BLOBS);
	for (size_t i = 0; i < all; i++) {
		size_t k = churn_content_of(w, &seen[i].digest);
		bool hopeless = seen[i].referenced || seen[i].busy;
		if (hopeless && next_random(&w->x) % 8 != 0) continue;
		if (next_random(&w->x) % 4 == 0) continue;
		pulls[n] = w->ch->pulls[k];
		list[n++] = (struct cairn_eviction){.digest = seen[i].digest,
						    .used_ns = seen[i].used_ns};
	}
	if (cairn_cache_evict(w->c, list, n, &err) != CAIRN_OK) {
		churn_wrong(w, __LINE__, err.msg);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		size_t k = churn_content_of(w, &list[i].digest);
		CHURN_CHECK(w, list[i].outcome != CAIRN_EVICT_FAILED, "an eviction failed");
		if (list[i].outcome != CAIRN_EVICT_DONE) {
			w->ch->spared++;
			continue;
		}
		w->ch->evicted++;
		if (pulls[i] % 2 == 0) w->ch->gone[k] = pulls[i];
	}
	if (n == 0) sched_yield();
}

static struct cairn_needs *churn_needs(struct churner *w)
{
	struct cairn_needs *needs = cairn_needs_new(1 + next_random(&w->x) % 5);
	for (size_t i = 0; i < needs->n; i++) {
		const struct content *k = &churn_contents[next_random(&w->x) % CHURN_BLOBS];
		needs->list[i] = (struct cairn_need){k->digest, k->n};
	}
	needs->complete = true;
	return needs;
}

static void churn_version(struct churner *w)
{
	struct cairn_err err;
	struct cairn_version *list;
	size_t n;
	char name[32];
	const struct cairn_digest *d = &churn_contents[next_random(&w->x) % CHURN_BLOBS].digest;
	snprintf(name, sizeof(name), "app:%d", (int)(next_random(&w->x) % CHURN_NAMES));
	struct cairn_needs *needs = churn_needs(w);
	switch (next_random(&w->x) % 4) {
	case 0:
		cairn_cache_forget_version(w->c, name, d);
		break;
	case 1:
		cairn_cache_set_needs(w->c, name, d, needs);
		break;
	case 2:
		n = cairn_cache_versions(w->c, NULL, &list);
		cairn_versions_free(list, n);
		break;
	default:
		CHURN_CHECK(w, cairn_cache_see_version(w->c, name, d, needs, &err) == CAIRN_OK,
			    "see_version");
	}
	cairn_needs_unref(needs);
}

static UNUSED void churn_history_step(struct churner *w)
{
	struct cairn_err err;
	struct cairn_pin *list;
	char target[32];
	bool was = false;
	size_t n, i = churn_own(w, CHURN_PINS);
	snprintf(target, sizeof(target), "pin-%zu", i);
	int before = w->ch->pins[i];
	switch (next_random(&w->x) % 8) {
	case 0:
		w->ch->pins[i] = PIN_UNKNOWN;
		CHURN_CHECK(w, cairn_cache_pin(w->c, target, 0, &err) == CAIRN_OK, "pin");
		w->ch->pins[i] = PIN_SET;
		break;
	case 1:
		w->ch->pins[i] = PIN_UNKNOWN;
		CHURN_CHECK(w, cairn_cache_unpin(w->c, target, &was, &err) == CAIRN_OK, "unpin");
		CHURN_CHECK(w, was == (before == PIN_SET), "a pin that nobody set, or took");
		w->ch->pins[i] = PIN_NOT_SET;
		break;
	case 2:
		n = cairn_cache_pins(w->c, &list);
		cairn_pins_free(list, n);
		break;
	default:
		churn_version(w);
	}
}

static UNUSED void *churn_thread(void *arg)
{
	struct churner *w = arg;
	while (!w->ch->stop && w->ch->wrong == 0) w->step(w);
	return NULL;
}

#endif
