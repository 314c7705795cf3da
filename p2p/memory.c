/* Blobs by digest in a hash table; each has the few nodes that hold it, the few that are getting
 * it, and its grant. A record is void when its node's life is over; void ones are dropped when
 * their blob is looked at, and by a cursor that goes once around the table after a node was
 * forgotten. */
#include "p2p/memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "p2p/memory_nodes.h"

#define BUCKETS_MIN 64
#define SWEEP_CALL 4	/* buckets of the cursor's way a call goes */
#define SWEEP_TICK 4096 /* an expire */

struct list {
	struct said *said;
	uint8_t n, room;
};

struct blob {
	struct blob *next;
	struct list holds, joins;
	struct said granted; /* life 0: nobody */
	uint64_t version, bytes;
	struct cairn_digest digest;
	bool running;
};

struct cairn_memory {
	pthread_mutex_t mu;
	struct nodes nodes;
	uint32_t salt; /* of the lives' numbers */
	uint64_t seed; /* of the hash */
	uint64_t random;
	uint64_t version; /* of grants: the last that was used; begins anywhere */

	struct blob **buckets;
	size_t n_buckets, n_blobs; /* n_buckets: a power of two */
	size_t cursor, to_sweep;
	uint64_t records, used, limit;
	uint64_t refused;
};

static void *must(void *p)
{
	if (p == NULL) abort();
	return p;
}

struct cairn_memory *cairn_memory_new_bounded(uint64_t bytes)
{
	struct cairn_memory *mem = must(calloc(1, sizeof(*mem)));
	uint64_t random[4];
	if (getrandom(random, sizeof(random), 0) != sizeof(random)) abort();
	pthread_mutex_init(&mem->mu, NULL);
	nodes_init(&mem->nodes);
	mem->salt = (uint32_t)random[0] | 1;
	mem->seed = random[1];
	mem->random = random[2] | 1;
	mem->version = random[3] >> 2; /* so that it does not come to 0 */
	mem->limit = bytes;
	mem->n_buckets = BUCKETS_MIN;
	mem->buckets = must(calloc(mem->n_buckets, sizeof(struct blob *)));
	return mem;
}

struct cairn_memory *cairn_memory_new(void)
{
	return cairn_memory_new_bounded(CAIRN_MEMORY_BYTES);
}

static void free_blob(struct blob *b)
{
	free(b->holds.said);
	free(b->joins.said);
	free(b);
}

void cairn_memory_free(struct cairn_memory *mem)
{
	if (mem == NULL) return;
	for (size_t i = 0; i < mem->n_buckets; i++) {
		for (struct blob *b = mem->buckets[i], *next; b != NULL; b = next) {
			next = b->next;
			free_blob(b);
		}
	}
	free(mem->buckets);
	nodes_fini(&mem->nodes);
	pthread_mutex_destroy(&mem->mu);
	free(mem);
}

/* ---- records ---- */

static uint64_t weight_of(const struct blob *b)
{
	return sizeof(*b) + 24 + (b->holds.room + (uint64_t)b->joins.room) * sizeof(struct said);
}

static void drop_at(struct cairn_memory *mem, struct list *list, size_t i)
{
	list->said[i] = list->said[--list->n];
	mem->records--;
}

static void drop_void(struct cairn_memory *mem, struct blob *b)
{
	struct list *lists[] = {&b->holds, &b->joins};
	for (int k = 0; k < 2; k++) {
		for (size_t i = lists[k]->n; i-- > 0;) {
			if (!nodes_valid(&mem->nodes, lists[k]->said[i])) {
				drop_at(mem, lists[k], i);
			}
		}
	}
	if (!nodes_valid(&mem->nodes, b->granted)) b->granted = (struct said){0};
}

static int index_in(const struct list *list, struct said said)
{
	for (int i = 0; i < list->n; i++) {
		if (list->said[i].node == said.node) return i;
	}
	return -1;
}

static void remove_from(struct cairn_memory *mem, struct list *list, struct said said)
{
	int i = index_in(list, said);
	if (i >= 0) drop_at(mem, list, (size_t)i);
}

/* false: there is no room. That enough are known is fine. */
static bool add_to(struct cairn_memory *mem, struct list *list, struct said said)
{
	if (index_in(list, said) >= 0 || list->n == CAIRN_HOLDERS_MAX) return true;
	if (list->n == list->room) {
		uint8_t room = list->room > 0 ? (uint8_t)(2 * list->room) : 2;
		uint64_t more = (uint64_t)(room - list->room) * sizeof(said);
		if (mem->used + more > mem->limit) return false;
		list->said = must(realloc(list->said, room * sizeof(said)));
		list->room = room;
		mem->used += more;
	}
	list->said[list->n++] = said;
	mem->records++;
	return true;
}

/* ---- the table ---- */

static size_t bucket_of(const struct cairn_memory *mem, const struct cairn_digest *d)
{
	uint64_t h = mem->seed ^ d->alg;
	for (size_t i = 0; i < sizeof(d->bytes); i += 8) {
		uint64_t word;
		memcpy(&word, d->bytes + i, 8);
		h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		h ^= h >> 32;
	}
	return (size_t)h & (mem->n_buckets - 1);
}

static void grow(struct cairn_memory *mem)
{
	size_t n = mem->n_buckets;
	struct blob **old = mem->buckets;
	mem->n_buckets = 2 * n;
	mem->buckets = must(calloc(mem->n_buckets, sizeof(struct blob *)));
	mem->used += n * sizeof(struct blob *);
	for (size_t i = 0; i < n; i++) {
		for (struct blob *b = old[i], *next; b != NULL; b = next) {
			next = b->next;
			struct blob **to = &mem->buckets[bucket_of(mem, &b->digest)];
			b->next = *to;
			*to = b;
		}
	}
	free(old);
	if (mem->to_sweep > 0) mem->to_sweep = mem->n_buckets;
}

static void clean_bucket(struct cairn_memory *mem, size_t bucket)
{
	for (struct blob **at = &mem->buckets[bucket]; *at != NULL;) {
		struct blob *b = *at;
		drop_void(mem, b);
		if (b->holds.n > 0 || b->joins.n > 0 || b->granted.life != 0) {
			at = &b->next;
			continue;
		}
		*at = b->next;
		mem->used -= weight_of(b);
		mem->n_blobs--;
		free_blob(b);
	}
}

static void sweep(struct cairn_memory *mem, size_t buckets)
{
	for (; buckets > 0 && mem->to_sweep > 0; buckets--, mem->to_sweep--) {
		mem->cursor = (mem->cursor + 1) & (mem->n_buckets - 1);
		clean_bucket(mem, mem->cursor);
	}
}

/* Without void records; NULL: nothing is known of it. */
static struct blob *find(struct cairn_memory *mem, const struct cairn_digest *digest)
{
	struct blob *b = mem->buckets[bucket_of(mem, digest)];
	while (b != NULL && !cairn_digest_equal(&b->digest, digest)) b = b->next;
	if (b != NULL) drop_void(mem, b);
	return b;
}

/* NULL: there is no room. */
static struct blob *find_or_make(struct cairn_memory *mem, const struct cairn_digest *digest)
{
	struct blob *b = find(mem, digest);
	if (b != NULL) return b;
	if (mem->used + sizeof(*b) + 64 > mem->limit) return NULL;
	if (mem->n_blobs >= mem->n_buckets) grow(mem);
	b = must(calloc(1, sizeof(*b)));
	b->digest = *digest;
	struct blob **bucket = &mem->buckets[bucket_of(mem, digest)];
	b->next = *bucket;
	*bucket = b;
	mem->n_blobs++;
	mem->used += weight_of(b);
	return b;
}

/* ---- each call: enter, do it, leave_table ---- */

static bool enter(struct cairn_memory *mem, const struct cairn_memory_question *q, struct said *ret)
{
	pthread_mutex_lock(&mem->mu);
	sweep(mem, SWEEP_CALL);
	return nodes_hear(&mem->nodes, q->node, q->now_ms, ret);
}

/* full: something was not remembered. */
static void leave_table(struct cairn_memory *mem, const struct cairn_memory_question *q, bool full)
{
	clean_bucket(mem, bucket_of(mem, q->digest));
	if (full) mem->refused++;
	pthread_mutex_unlock(&mem->mu);
}

static void show_grant(const struct cairn_memory *mem, const struct blob *b, struct said asker,
		       struct cairn_grant *ret)
{
	*ret = (struct cairn_grant){.state = CAIRN_GRANT_FREE};
	if (b == NULL || b->granted.life == 0) return;
	ret->state = b->running ? CAIRN_GRANT_RUNNING : CAIRN_GRANT_QUEUED;
	ret->ours = b->granted.node == asker.node;
	ret->version = b->version;
	ret->bytes = b->bytes;
	memccpy(ret->node.address, mem->nodes.all[b->granted.node].address, '\0',
		sizeof(ret->node.address) - 1);
}

static void grant_to(struct cairn_memory *mem, struct blob *b, struct said said)
{
	b->granted = said;
	b->version = ++mem->version;
	b->bytes = 0;
	b->running = false;
}

static uint64_t next_random(struct cairn_memory *mem)
{
	mem->random ^= mem->random << 13;
	mem->random ^= mem->random >> 7;
	mem->random ^= mem->random << 17;
	return mem->random;
}

/* A random choice of the list, but not the asker. */
static void choose(struct cairn_memory *mem, struct list *list, struct said asker, bool whole,
		   struct cairn_answer *ret)
{
	for (size_t i = 0; i < list->n && ret->n < CAIRN_FIND_MAX; i++) {
		size_t k = i + next_random(mem) % (list->n - i);
		struct said said = list->said[k];
		list->said[k] = list->said[i];
		list->said[i] = said;
		if (said.node == asker.node) continue;
		struct cairn_found *found = &ret->found[ret->n++];
		found->whole = whole;
		memccpy(found->node.address, mem->nodes.all[said.node].address, '\0',
			sizeof(found->node.address) - 1);
	}
}

void cairn_memory_ask(struct cairn_memory *mem, const struct cairn_memory_question *q, bool join,
		      bool may_grant, struct cairn_answer *ret)
{
	struct said asker;
	bool full = false;
	memset(ret, 0, sizeof(*ret));
	if (enter(mem, q, &asker)) {
		struct blob *b = find(mem, q->digest);
		if (b == NULL && (join || may_grant)) b = find_or_make(mem, q->digest);
		full = b == NULL && (join || may_grant);
		if (b != NULL) {
			choose(mem, &b->holds, asker, true, ret);
			bool held = ret->n > 0;
			choose(mem, &b->joins, asker, false, ret);
			if (may_grant && !held && b->granted.life == 0) grant_to(mem, b, asker);
			if (join && index_in(&b->holds, asker) < 0) {
				full = !add_to(mem, &b->joins, asker);
			}
		}
		show_grant(mem, b, asker, &ret->grant);
	}
	leave_table(mem, q, full);
}

void cairn_memory_take(struct cairn_memory *mem, const struct cairn_memory_question *q,
		       uint64_t version, struct cairn_grant *ret)
{
	struct said asker;
	bool full = false;
	memset(ret, 0, sizeof(*ret));
	if (enter(mem, q, &asker)) {
		struct blob *b = version == 0 ? find_or_make(mem, q->digest) : find(mem, q->digest);
		full = b == NULL && version == 0;
		if (b != NULL && (b->granted.life != 0 ? b->version : 0) == version) {
			grant_to(mem, b, asker);
		}
		show_grant(mem, b, asker, ret);
	}
	leave_table(mem, q, full);
}

void cairn_memory_keep(struct cairn_memory *mem, const struct cairn_memory_question *q,
		       uint64_t bytes, struct cairn_grant *ret)
{
	struct said asker;
	bool full = false;
	memset(ret, 0, sizeof(*ret));
	if (enter(mem, q, &asker)) {
		struct blob *b = find_or_make(mem, q->digest);
		full = b == NULL;
		/* We may have forgotten it; but when somebody holds the blob, it is over. */
		if (b != NULL && b->granted.life == 0 && b->holds.n == 0) grant_to(mem, b, asker);
		if (b != NULL && b->granted.life != 0 && b->granted.node == asker.node &&
		    b->bytes != bytes) {
			b->bytes = bytes;
			b->running = b->running || bytes > 0;
			b->version = ++mem->version;
		}
		show_grant(mem, b, asker, ret);
	}
	leave_table(mem, q, full);
}

static void end_getting(struct cairn_memory *mem, struct blob *b, struct said said)
{
	remove_from(mem, &b->joins, said);
	if (b->granted.node == said.node) b->granted = (struct said){0};
}

void cairn_memory_leave(struct cairn_memory *mem, const struct cairn_memory_question *q)
{
	struct said said;
	if (enter(mem, q, &said)) {
		struct blob *b = find(mem, q->digest);
		if (b != NULL) end_getting(mem, b, said);
	}
	leave_table(mem, q, false);
}

void cairn_memory_announce(struct cairn_memory *mem, const struct cairn_memory_question *q)
{
	struct said said;
	bool full = false;
	if (enter(mem, q, &said)) {
		struct blob *b = find_or_make(mem, q->digest);
		if (b != NULL) end_getting(mem, b, said);
		full = b == NULL || !add_to(mem, &b->holds, said);
	}
	leave_table(mem, q, full);
}

void cairn_memory_withdraw(struct cairn_memory *mem, const struct cairn_memory_question *q)
{
	struct said said;
	if (enter(mem, q, &said)) {
		struct blob *b = find(mem, q->digest);
		if (b != NULL) remove_from(mem, &b->holds, said);
	}
	leave_table(mem, q, false);
}

/* ---- nodes ---- */

uint64_t cairn_memory_hear(struct cairn_memory *mem, const char *node, int64_t now_ms)
{
	struct said said;
	pthread_mutex_lock(&mem->mu);
	bool known = nodes_hear(&mem->nodes, node, now_ms, &said);
	pthread_mutex_unlock(&mem->mu);
	return known ? (uint64_t)mem->salt << 32 | said.life : 0;
}

void cairn_memory_forget(struct cairn_memory *mem, const char *node)
{
	pthread_mutex_lock(&mem->mu);
	uint32_t i = nodes_find(&mem->nodes, node);
	if (i != NODE_NONE) {
		nodes_forget(&mem->nodes, i);
		mem->to_sweep = mem->n_buckets;
	}
	pthread_mutex_unlock(&mem->mu);
}

void cairn_memory_expire(struct cairn_memory *mem, int64_t before_ms)
{
	pthread_mutex_lock(&mem->mu);
	for (uint32_t i = 0; i < mem->nodes.n; i++) {
		struct node *node = &mem->nodes.all[i];
		if (node->life == 0 || node->heard_ms >= before_ms) continue;
		nodes_forget(&mem->nodes, i);
		mem->to_sweep = mem->n_buckets;
	}
	sweep(mem, SWEEP_TICK);
	pthread_mutex_unlock(&mem->mu);
}

void cairn_memory_get_stats(struct cairn_memory *mem, struct cairn_memory_stats *ret)
{
	pthread_mutex_lock(&mem->mu);
	*ret = (struct cairn_memory_stats){.nodes = mem->nodes.live,
					   .blobs = mem->n_blobs,
					   .records = mem->records,
					   .bytes = mem->used,
					   .refused = mem->refused};
	pthread_mutex_unlock(&mem->mu);
}

size_t cairn_memory_members(struct cairn_memory *mem, struct cairn_node_id *ret, size_t max)
{
	size_t n = 0;
	pthread_mutex_lock(&mem->mu);
	for (uint32_t i = 0; i < mem->nodes.n; i++) {
		if (mem->nodes.all[i].life == 0) continue;
		if (n < max) {
			memccpy(ret[n].address, mem->nodes.all[i].address, '\0',
				sizeof(ret[n].address));
		}
		n++;
	}
	pthread_mutex_unlock(&mem->mu);
	return n;
}
