/* COMMIT: from memory when the bytes are published already. */
#include <errno.h>

#include "cache/mem.h"
#include "cache/store.h"

struct commit {
	uint64_t offset, total;
	struct cairn_digest expected; /* alg 0: any */
	struct cairn_ingest_status *ret;
};

static enum cairn_code check_offset(const struct ingest *ing, const struct commit *k,
				    struct cairn_err *err)
{
	if (k->offset == ing->offset || (ing->blob != NULL && k->offset == 0)) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_OUT_OF_RANGE,
			     "commit at offset %llu of ingest \"%.128s\", which has %llu bytes",
			     (unsigned long long)k->offset, ing->ref,
			     (unsigned long long)ing->offset);
}

static enum cairn_code wrong_digest(const struct ingest *ing, const struct cairn_digest *got,
				    const struct cairn_digest *want, struct cairn_err *err)
{
	char a[CAIRN_DIGEST_STR], b[CAIRN_DIGEST_STR];
	return cairn_err_set(
		err, CAIRN_FAILED_PRECONDITION,
		"commit of ingest \"%.64s\": its bytes have the digest %s, expected is %s",
		ing->ref, cairn_digest_format(got, a), cairn_digest_format(want, b));
}

static enum cairn_code check_locked(const struct ingest *ing, const struct commit *k,
				    struct cairn_err *err)
{
	const struct cairn_digest *have = ing->blob != NULL ? &ing->blob->digest : &ing->running;
	enum cairn_code code = check_offset(ing, k, err);
	if (code != CAIRN_OK) return code;
	if (k->total > 0 && k->total != ing->offset) {
		return cairn_err_set(
			err, CAIRN_FAILED_PRECONDITION,
			"commit of ingest \"%.128s\": it has %llu bytes, expected are %llu",
			ing->ref, (unsigned long long)ing->offset, (unsigned long long)k->total);
	}
	if (k->expected.alg == have->alg && !cairn_digest_equal(&k->expected, have)) {
		return wrong_digest(ing, have, &k->expected, err);
	}
	return CAIRN_OK;
}

/* The ingest is published and current: make the blob referenced and end the ingest. */
static enum cairn_code finish_locked(struct cairn_cache *c, struct cairn_ingest *s,
				     const struct commit *k, struct cairn_err *err)
	CAIRN_REQUIRES(&c->mu)
{
	struct ingest *ing = s->ingest;
	struct blob *b = ing->blob;
	char text[CAIRN_DIGEST_STR];
	if (b->damaged || b->gone) {
		blob_damage_err(b, "found since the ingest was opened", err);
		ingest_restart_locked(c, ing);
		return err->code;
	}
	bool known = b->state == CAIRN_BLOB_REFERENCED;
	/* For those who look from outside, it exists from its commit on. */
	if (!known) b->created_ns = b->updated_ns = cairn_real_ns(c->clock);
	blob_add_owner_locked(b, ing->owner);
	blob_reference_locked(c, b);
	blob_used_locked(c, b);
	writer_add_blob_locked(c, b);
	/* Told AlreadyExists, containerd records the running digest that it heard last. If that was
	 * of another algorithm, only OK makes it take the one in the answer. */
	bool heard = ing->running.alg == b->digest.alg;
	ing->running = b->digest;
	ingest_fill_locked(ing, k->ret);
	blob_ref(b);
	ingest_remove_locked(c, ing);
	cairn_digest_format(&b->digest, text);
	blob_unref(b);
	if (!known || !heard) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_ALREADY_EXISTS, "blob %s is here already", text);
}

/* Can it be answered from memory? */
static bool is_ready_locked(const struct ingest *ing, const struct commit *k)
{
	return ing->blob != NULL &&
	       (k->expected.alg == 0 || k->expected.alg == ing->blob->digest.alg);
}

static enum cairn_code from_memory_locked(struct cairn_cache *c, struct cairn_ingest *s,
					  const struct commit *k, struct cairn_err *err)
	CAIRN_REQUIRES(&c->mu)
{
	enum cairn_code code = check_locked(s->ingest, k, err);
	return code == CAIRN_OK ? finish_locked(c, s, k, err) : code;
}

struct snapshot {
	struct ingest_data *data; /* counted */
	struct cairn_digest digest;
	uint64_t size;
	struct chain chain;
};

/* The bytes under the algorithm that the committer names. */
static enum cairn_code rehash(struct cairn_cache *c, const struct ingest *ing, struct snapshot *n,
			      const struct cairn_digest *expected, struct cairn_err *err)
{
	if (expected->alg == 0 || expected->alg == n->digest.alg) return CAIRN_OK;
	enum cairn_code code = data_open(c, n->data, err);
	if (code != CAIRN_OK) return code;
	chain_fini(&n->chain);
	chain_init(&n->chain, expected->alg);
	code = hash_file(n->data->fd, n->size, expected->alg, &n->chain, NULL, NULL, &n->digest,
			 err);
	if (code == CAIRN_DATA_LOSS) {
		return cairn_err_set(err, CAIRN_INTERNAL,
				     "ingest \"%.128s\": its data cannot be read", ing->ref);
	}
	if (code != CAIRN_OK) return code;
	if (!cairn_digest_equal(&n->digest, expected)) {
		return wrong_digest(ing, &n->digest, expected, err);
	}
	return CAIRN_OK;
}

static enum cairn_code snapshot_locked(struct cairn_cache *c, struct cairn_ingest *s,
				       const struct commit *k, struct snapshot *n,
				       struct cairn_err *err) CAIRN_REQUIRES(&c->mu)
{
	struct ingest *ing = s->ingest;
	if (ing->data->broken) {
		ingest_restart_locked(c, ing);
		return cairn_err_set(err, CAIRN_INTERNAL,
				     "ingest \"%.128s\": its data could not be flushed and was "
				     "dropped; check the disk, then start again",
				     ing->ref);
	}
	enum cairn_code code = check_locked(ing, k, err);
	if (code != CAIRN_OK) return code;
	n->data = data_ref(ing->data);
	n->digest = ing->running;
	n->size = ing->offset;
	chain_init(&n->chain, n->digest.alg);
	chain_append(&n->chain, &n->data->chain);
	return CAIRN_OK;
}

/* Flush, publish as cached, and only then, if the session still has a say, reference. io held. */
static enum cairn_code publish_and_finish(struct cairn_ingest *s, const struct commit *k,
					  struct snapshot *n, struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct blob *b;
	enum cairn_code code = rehash(c, s->ingest, n, &k->expected, err);
	if (code == CAIRN_OK) {
		code = ingest_publish_data(c, s->ingest, n->data, &n->digest, n->size, &n->chain,
					   &b, err);
	}
	if (code != CAIRN_OK) return code;
	lock(&c->mu);
	bool current = session_current_locked(s) && s->ingest->blob == b;
	code = current ? finish_locked(c, s, k, err) : session_over(s, err);
	unlock(&c->mu);
	blob_unref(b);
	return code;
}

static enum cairn_code commit_blocking(struct cairn_ingest *s, struct commit *k,
				       struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct snapshot n = {0};
	enum cairn_code code = CAIRN_OK;
	lock(&c->mu);
	bool current = session_current_locked(s);
	bool published = current && s->ingest->blob != NULL;
	bool ready = current && is_ready_locked(s->ingest, k); /* while we waited for io */
	if (ready) code = from_memory_locked(c, s, k, err);
	if (published && k->offset == 0) k->offset = s->ingest->offset;
	unlock(&c->mu);
	if (ready) return code;
	if (!current) return session_over(s, err);
	if (published) code = ingest_make_private(s, err); /* to hash it once more */
	if (code != CAIRN_OK) return code;
	lock(&c->mu);
	code = session_current_locked(s) ? snapshot_locked(c, s, k, &n, err) : session_over(s, err);
	unlock(&c->mu);
	if (code != CAIRN_OK) return code;
	code = publish_and_finish(s, k, &n, err);
	chain_fini(&n.chain);
	data_unref(n.data);
	return code;
}

enum cairn_code cairn_ingest_commit(struct cairn_ingest *s, uint64_t offset, uint64_t total,
				    const struct cairn_digest *expected,
				    struct cairn_ingest_status *ret, struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct commit k = {.offset = offset, .total = total, .ret = ret};
	enum cairn_code code = CAIRN_OK;
	if (expected != NULL) k.expected = *expected;
	lock(&c->mu);
	bool current = session_current_locked(s);
	bool ready = current && is_ready_locked(s->ingest, &k);
	if (ready) code = from_memory_locked(c, s, &k, err);
	unlock(&c->mu);
	if (ready) return code;
	if (!current) return session_over(s, err);
	cairn_ingest_ref(s); /* it may be closed while this runs */
	lock(&s->ingest->io);
	code = commit_blocking(s, &k, err);
	unlock(&s->ingest->io);
	cairn_ingest_unref(s);
	return code;
}
