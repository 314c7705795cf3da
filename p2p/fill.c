#include "p2p/fill.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "p2p/fill_round.h"
#include "p2p/policy.h"
#include "p2p/serving.h"
#include "p2p/session.h"

#define WAKE_MS 500   /* the coordinator looks so often at least */
#define ROOM_MS 50    /* ... and while it waits for a place among the node's sessions */
#define JUDGE_MS 100  /* ... and while sources are connected, or about to be */
#define LEAVE_MS 1000 /* sessions may take so long to end their conversations */

/* ---- its life --------------------------------------------------------------------------- */

struct cairn_swarm_fill *cairn_swarm_fill_new(struct cairn_swarm *swarm,
					      const struct cairn_digest *digest, uint64_t size)
{
	struct cairn_swarm_fill *f = calloc(1, sizeof(*f));
	if (f == NULL) abort();
	f->swarm = swarm;
	f->digest = *digest;
	f->size = size;
	f->count = cairn_piece_count(size);
	f->entry = cairn_alg_bytes(digest->alg);
	f->refs = 1;
	pthread_mutex_init(&f->mu, NULL);
	cairn_cond_init(&f->changed);
	return f;
}

struct cairn_swarm_fill *cairn_swarm_fill_ref(struct cairn_swarm_fill *f)
{
	atomic_fetch_add(&f->refs, 1);
	return f;
}

void cairn_swarm_fill_unref(struct cairn_swarm_fill *f)
{
	if (f == NULL || atomic_fetch_sub(&f->refs, 1) != 1) return;
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->mu);
	free(f->list);
	free(f->sources);
	free(f);
}

struct cairn_swarm_fill *cairn_swarm_find_fill(struct cairn_swarm *swarm,
					       const struct cairn_digest *digest)
{
	pthread_mutex_lock(&swarm->mu);
	struct cairn_swarm_fill *f = swarm->fills[cairn_bucket_of(digest)];
	while (f != NULL && !cairn_digest_equal(&f->digest, digest)) f = f->next;
	if (f != NULL) cairn_swarm_fill_ref(f);
	pthread_mutex_unlock(&swarm->mu);
	return f;
}

void cairn_swarm_fill_poke_locked(struct cairn_swarm_fill *f)
{
	f->poked = true;
	pthread_cond_broadcast(&f->changed);
}

void cairn_swarm_fill_poke(struct cairn_swarm_fill *f)
{
	pthread_mutex_lock(&f->mu);
	cairn_swarm_fill_poke_locked(f);
	pthread_mutex_unlock(&f->mu);
}

void cairn_swarm_fill_fail_locked(struct cairn_swarm_fill *f, const struct cairn_err *why)
{
	if (!f->failed) f->why = *why;
	f->failed = true;
	cairn_swarm_fill_poke_locked(f);
}

bool cairn_swarm_fill_read(struct cairn_swarm_fill *f, uint32_t piece, uint64_t offset, void *buf,
			   size_t n)
{
	struct cairn_err err;
	pthread_mutex_lock(&f->mu);
	struct cairn_pieces *pieces = f->pieces;
	bool there = pieces != NULL && cairn_pieces_has(pieces, piece);
	if (there) f->users++;
	pthread_mutex_unlock(&f->mu);
	if (!there) return false;
	there = cairn_pieces_read(pieces, offset, buf, n, &err) == CAIRN_OK;
	pthread_mutex_lock(&f->mu);
	if (--f->users == 0) pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mu);
	return there;
}

/* ---- sources ---------------------------------------------------------------------------- */

static void add_source_locked(struct cairn_swarm_fill *f, const char *address)
{
	uint32_t i = f->n_sources;
	if (i % 16 == 0) {
		f->sources = realloc(f->sources, (i + 16) * sizeof(*f->sources));
		if (f->sources == NULL) abort();
	}
	snprintf(f->sources[i].address, CAIRN_ADDRESS_MAX, "%s", address);
	f->n_sources++;
}

bool cairn_swarm_fill_learn_locked(struct cairn_swarm_fill *f, const char *address, bool whole,
				   int64_t now_ms)
{
	uint32_t i = 0;
	if (f->plan == NULL || address[0] == '\0' || strlen(address) >= CAIRN_ADDRESS_MAX ||
	    strcmp(address, f->swarm->hello.address) == 0) {
		return false;
	}
	if (cairn_peers_shuns(f->swarm->peers, &f->digest, address, NULL, now_ms)) return false;
	while (i < f->n_sources && strcmp(f->sources[i].address, address) != 0) i++;
	if (i == CAIRN_FILL_SOURCES_MAX) return false;
	if (i == f->n_sources) add_source_locked(f, address);
	f->idle = false;
	return cairn_plan_learn(f->plan, i, whole, now_ms);
}

/* ---- bytes from peers: begin and end ---------------------------------------------------- */

static enum cairn_code begin_pulling(struct cairn_swarm_fill *f, int64_t now_ms,
				     struct cairn_err *err)
{
	struct cairn_pieces *pieces = NULL;
	enum cairn_code rc = CAIRN_OK;
	if (f->pieces == NULL) {
		rc = cairn_pieces_open(f->swarm->cache, &f->digest, f->size, &pieces, err);
	}
	if (rc != CAIRN_OK) return rc;
	pthread_mutex_lock(&f->mu);
	if (pieces != NULL) f->pieces = pieces;
	f->pulling = true;
	f->window_ms = now_ms;
	f->window_bytes = f->received;
	uint64_t gen = f->gen;
	if (f->list == NULL && f->count > 1) {
		f->list = malloc((f->count - 1) * f->entry);
		if (f->list == NULL) abort();
	}
	pthread_mutex_unlock(&f->mu);
	if (pieces != NULL && f->count == 1) cairn_fill_recover(f, gen, 0, 1);
	return CAIRN_OK;
}

/* Those that are connected owe us a last word; whoever takes too long for it is cut off. */
static void wait_for_sessions_locked(struct cairn_swarm_fill *f)
{
	int64_t end_ms = cairn_swarm_now_ms() + LEAVE_MS;
	bool hurried = false;
	while (f->n_talking > 0) {
		int64_t left_ms = end_ms - cairn_swarm_now_ms();
		if (!hurried && (left_ms <= 0 || atomic_load(&f->swarm->cancelled))) {
			hurried = true;
			for (struct cairn_session *s = f->sessions; s != NULL; s = s->next) {
				if (s->conn != NULL) cairn_conn_interrupt(s->conn);
			}
		}
		cairn_cond_wait_ms(&f->changed, &f->mu, left_ms > 0 ? left_ms : WAKE_MS);
	}
}

static void end_sessions(struct cairn_swarm_fill *f)
{
	pthread_mutex_lock(&f->mu);
	int64_t now_ms = cairn_swarm_now_ms();
	f->pulling = false;
	struct cairn_session **at = &f->sessions;
	while (*at != NULL) {
		struct cairn_session *s = *at;
		if (s->talking) {
			cairn_session_end_locked(s, CAIRN_END_BUSY);
			at = &s->next;
		} else { /* it finds out when it is connected */
			cairn_plan_closed(f->plan, s->told.source, CAIRN_END_BUSY, 1, now_ms);
			s->detached = true;
			*at = s->next;
		}
	}
	f->n_opening = 0;
	wait_for_sessions_locked(f);
	pthread_mutex_unlock(&f->mu);
}

static void close_pieces(struct cairn_swarm_fill *f, bool keep)
{
	pthread_mutex_lock(&f->mu);
	struct cairn_pieces *pieces = f->pieces;
	f->pieces = NULL;
	while (f->users > 0) pthread_cond_wait(&f->changed, &f->mu);
	cairn_plan_free(f->plan);
	f->plan = NULL;
	pthread_mutex_unlock(&f->mu);
	cairn_pieces_close(pieces, keep);
}

/* The list that we believed was wrong, or gives way to another. */
static void forget(struct cairn_swarm_fill *f)
{
	pthread_mutex_lock(&f->mu);
	f->replace = false;
	f->forgetting = true;
	f->gen++;
	f->list_n = f->vouchers = f->rivals = 0;
	f->proven = false;
	f->originator[0] = '\0';
	for (struct cairn_session *s = f->sessions; s != NULL; s = s->next) {
		cairn_session_wake_locked(s);
	}
	pthread_mutex_unlock(&f->mu);
	if (f->pieces != NULL) cairn_pieces_forget(f->pieces);
	pthread_mutex_lock(&f->mu);
	cairn_plan_forget(f->plan);
	if (f->count == 1) cairn_plan_provable(f->plan, 0);
	f->forgetting = false;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mu);
	cairn_serving_poke(f->swarm, &f->digest);
}

/* A single source that is faster than one processor decrypts, hashes and writes is talked with
 * twice: it becomes two sources, and the plan shares the pieces out between them. */
static void double_source_locked(struct cairn_swarm_fill *f, int64_t now_ms)
{
	if (f->n_sources != 1 || f->n_talking != 1 || !f->sessions->told.whole) return;
	uint64_t got = f->received - f->window_bytes;
	if (!cairn_policy_double(atomic_load(&f->swarm->n_pulling), got, now_ms - f->window_ms,
				 f->size - f->received)) {
		return;
	}
	char address[CAIRN_ADDRESS_MAX];
	memcpy(address, f->sources[0].address, sizeof(address));
	add_source_locked(f, address);
	cairn_plan_learn(f->plan, 1, true, now_ms);
}

/* Connect with whom the plan names, and part with whom it gives up. */
static void tend_sessions(struct cairn_swarm_fill *f, int64_t now_ms)
{
	uint32_t source;
	pthread_mutex_lock(&f->mu);
	for (struct cairn_session *s = f->sessions; s != NULL; s = s->next) {
		enum cairn_verdict verdict =
			s->talking ? cairn_plan_judge(f->plan, s->told.source, now_ms)
				   : CAIRN_VERDICT_KEEP;
		if (verdict == CAIRN_VERDICT_STALLED) {
			cairn_session_end_locked(s, CAIRN_END_FAILED);
		} else if (verdict == CAIRN_VERDICT_SLOW) {
			cairn_session_end_locked(s, CAIRN_END_SLOW);
		} else if (s->talking && s->n_owed == 0) {
			/* By time alone there may be something for it: what others are late with.
			 */
			cairn_session_wake_locked(s);
		}
	}
	cairn_plan_set_open(f->plan, cairn_policy_open(atomic_load(&f->swarm->n_pulling)));
	double_source_locked(f, now_ms);
	/* When nothing is missing sessions end, and their sources are free to be asked again: but
	 * not for a blob that is only still to be published. */
	bool room = true, done = cairn_plan_done(f->plan);
	while (!f->failed && !done && (room = cairn_session_room(f->swarm)) &&
	       cairn_plan_next_source(f->plan, now_ms, &source)) {
		if (!cairn_session_begin_locked(f, source)) break;
	}
	bool idle = room && f->n_opening + f->n_talking == 0;
	if (idle && !f->idle) f->poked = true; /* what now? */
	f->idle = idle;
	f->no_room = !room;
	pthread_mutex_unlock(&f->mu);
}

/* All the others could give, and it did not get on: believe somebody else. */
static void tend_list(struct cairn_swarm_fill *f, int64_t now_ms)
{
	char maker[CAIRN_ADDRESS_MAX] = "";
	pthread_mutex_lock(&f->mu);
	bool stuck = f->list_n > 0 && f->rivals > 0 && !cairn_plan_done(f->plan) &&
		     now_ms - f->received_ms >= f->swarm->stall_ms;
	bool replace = f->replace || stuck;
	if (stuck) memcpy(maker, f->originator, sizeof(maker));
	pthread_mutex_unlock(&f->mu);
	if (maker[0] != '\0') cairn_peers_shun(f->swarm->peers, &f->digest, maker, now_ms);
	if (replace) forget(f);
}

/* ---- a round ---------------------------------------------------------------------------- */

static void begin_round(struct cairn_swarm_fill *f, int64_t now_ms)
{
	struct cairn_plan_opts opts = {.size = f->size, .stall_ms = f->swarm->stall_ms};
	memcpy(&opts.seed, f->digest.bytes, sizeof(opts.seed));
	opts.seed ^= f->swarm->seed;
	pthread_mutex_lock(&f->mu);
	f->gen++;
	f->asked = f->failed = f->replace = f->grant_over = f->lost_grant = f->wants_place = false;
	f->idle = f->slow = f->no_room = false;
	f->begun_ms = f->ask_at_ms = f->received_ms = f->take_at_ms = now_ms;
	f->asked_in_vain = 0;
	f->grant = (struct cairn_grant){0};
	f->grant_seen_ms = f->node_seen_ms = now_ms;
	f->local_bytes = f->received = f->window_bytes = 0;
	f->busy_until_ms = INT64_MIN;
	f->slow_ms = f->swarm->stall_ms;
	f->n_sources = f->list_n = f->vouchers = f->rivals = f->replaced = 0;
	f->proven = false;
	f->originator[0] = '\0';
	f->doubted = cairn_peers_doubts(f->swarm->peers, &f->digest, now_ms);
	f->plan = cairn_plan_new(&opts);
	pthread_mutex_unlock(&f->mu);
	cairn_serving_poke(f->swarm, &f->digest);
}

static void count_pulling(struct cairn_swarm_fill *f, bool pulls)
{
	if (pulls == f->counted) return;
	f->counted = pulls;
	atomic_fetch_add(&f->swarm->n_pulling, pulls ? 1u : (unsigned)-1);
}

/* Has the round come to an end? Then the wants are told. */
static bool is_over(struct cairn_swarm_fill *f)
{
	bool here = cairn_swarm_has(f->swarm, &f->digest);
	bool cancelled = atomic_load(&f->swarm->cancelled);
	struct cairn_err why = {0};
	pthread_mutex_lock(&f->mu);
	bool over = here || cancelled || !cairn_swarm_fill_wanted_locked(f);
	if (here) {
		atomic_fetch_add(&f->swarm->count.fills_done, f->received > 0);
		cairn_swarm_fill_end_locked(f, CAIRN_WANT_HERE, NULL, NULL);
	} else if (cancelled) {
		cairn_err_set(&why, CAIRN_UNAVAILABLE, "the swarm is shutting down");
		cairn_swarm_fill_end_locked(f, CAIRN_WANT_FAILED, &why, NULL);
	} else if (f->failed) {
		/* Whoever is granted goes on by himself. */
		over = f->granted == NULL;
		f->failed = false;
		f->pull_failed = true;
		atomic_fetch_add(&f->swarm->count.fills_failed, 1);
		cairn_swarm_fill_end_locked(f, CAIRN_WANT_FAILED, &f->why, f->granted);
	} else if (f->pull_failed && f->granted == NULL) {
		over = true; /* who came since begins anew */
	}
	pthread_mutex_unlock(&f->mu);
	cairn_swarm_fill_notify(f);
	return over;
}

/* All pieces are there. */
static void publish(struct cairn_swarm_fill *f)
{
	struct cairn_err err;
	char originator[CAIRN_ADDRESS_MAX];
	enum cairn_code rc = cairn_pieces_publish(f->pieces, &err);
	if (rc == CAIRN_OK || cairn_swarm_has(f->swarm, &f->digest)) return;
	pthread_mutex_lock(&f->mu);
	memcpy(originator, f->originator, sizeof(originator));
	pthread_mutex_unlock(&f->mu);
	if (rc == CAIRN_DATA_LOSS) cairn_swarm_fill_wrong(f, originator);
	cairn_err_wrap(&err, "publish");
	pthread_mutex_lock(&f->mu);
	cairn_swarm_fill_fail_locked(f, &err);
	pthread_mutex_unlock(&f->mu);
}

void cairn_swarm_fill_wrong(struct cairn_swarm_fill *f, const char *maker)
{
	char digest[CAIRN_DIGEST_STR];
	struct cairn_err why;
	int64_t now_ms = cairn_swarm_now_ms();
	cairn_err_set(&why, CAIRN_DATA_LOSS, "the bytes that %s got are not the digest's", maker);
	if (maker[0] != '\0') cairn_peers_shun(f->swarm->peers, &f->digest, maker, now_ms);
	cairn_peers_doubt(f->swarm->peers, &f->digest, now_ms);
	atomic_fetch_add(&f->swarm->count.shunned, 1);
	cairn_log(CAIRN_LOG_WARN, "list_wrong",
		  CAIRN_STR("digest", cairn_digest_format(&f->digest, digest)),
		  CAIRN_STR("originator", maker));
	pthread_mutex_lock(&f->mu);
	f->doubted = f->wrong = true;
	cairn_swarm_fill_fail_locked(f, &why);
	pthread_mutex_unlock(&f->mu);
}

/* Sessions run while somebody waits for bytes that nobody on this node fetches. */
static void pull(struct cairn_swarm_fill *f, int64_t now_ms)
{
	struct cairn_err err;
	pthread_mutex_lock(&f->mu);
	bool fetched = f->granted != NULL && now_ms - f->local_ms < f->swarm->stall_ms;
	bool wanted = cairn_swarm_fill_waited_locked(f) && !fetched && !f->pull_failed;
	bool pulling = f->pulling;
	bool has_source = f->n_sources > 0;
	pthread_mutex_unlock(&f->mu);
	if (pulling && !wanted) end_sessions(f);
	count_pulling(f, wanted && has_source);
	if (!wanted || !has_source) return;
	if (!pulling && begin_pulling(f, now_ms, &err) != CAIRN_OK) {
		pthread_mutex_lock(&f->mu);
		cairn_swarm_fill_fail_locked(f, &err);
		pthread_mutex_unlock(&f->mu);
		return;
	}
	tend_list(f, now_ms);
	tend_sessions(f, now_ms);
	pthread_mutex_lock(&f->mu);
	bool done = cairn_plan_done(f->plan) && !f->failed;
	pthread_mutex_unlock(&f->mu);
	if (done) publish(f);
}

static void wait_for_more(struct cairn_swarm_fill *f)
{
	pthread_mutex_lock(&f->mu);
	int64_t now_ms = cairn_swarm_now_ms(), next_ms = now_ms + WAKE_MS;
	if (f->ask_at_ms < next_ms) next_ms = f->ask_at_ms;
	if (f->has_place && next_ms > now_ms + CAIRN_FIRST_BYTE_MS) {
		next_ms = now_ms + CAIRN_FIRST_BYTE_MS;
	}
	if (f->pulling) {
		int64_t due_ms = cairn_plan_next_ms(f->plan, now_ms);
		if (f->no_room && due_ms < now_ms + ROOM_MS) due_ms = now_ms + ROOM_MS;
		bool has_source = f->n_opening + f->n_talking > 0;
		if (has_source && due_ms > now_ms + JUDGE_MS) due_ms = now_ms + JUDGE_MS;
		if (due_ms < next_ms) next_ms = due_ms;
	}
	if (!f->poked && next_ms > now_ms) {
		cairn_cond_wait_ms(&f->changed, &f->mu, next_ms - now_ms);
	}
	f->poked = false;
	pthread_mutex_unlock(&f->mu);
}

static void tell(struct cairn_swarm_fill *f)
{
	pthread_mutex_lock(&f->mu);
	bool comes = f->received > 0 || f->local_bytes > 0;
	if (f->asked) {
		cairn_swarm_fill_tell_locked(f, comes ? CAIRN_WANT_FILLING : CAIRN_WANT_WAITING);
	}
	pthread_mutex_unlock(&f->mu);
	cairn_swarm_fill_notify(f);
}

static void run_round(struct cairn_swarm_fill *f)
{
	begin_round(f, cairn_swarm_now_ms());
	while (!is_over(f)) {
		cairn_fill_tend_grant(f, cairn_swarm_now_ms());
		cairn_fill_tend_questions(f, cairn_swarm_now_ms());
		pull(f, cairn_swarm_now_ms());
		tell(f);
		wait_for_more(f);
	}
	end_sessions(f);
	count_pulling(f, false);
	pthread_mutex_lock(&f->mu);
	bool keep = !f->wrong;
	f->wrong = f->pull_failed = false;
	f->granted = NULL;
	pthread_mutex_unlock(&f->mu);
	cairn_fill_give_place(f);
	close_pieces(f, keep);
	/* What is announced is said by the announcement. */
	if (!cairn_swarm_has(f->swarm, &f->digest) ||
	    !cairn_swarm_may_share(f->swarm, &f->digest)) {
		f->swarm->dir->ops->leave(f->swarm->dir, &f->digest);
	}
	cairn_serving_poke(f->swarm, &f->digest);
}

void *cairn_swarm_fill_main(void *arg)
{
	struct cairn_swarm_fill *f = arg;
	struct cairn_swarm *swarm = f->swarm;
	bool wanted = true;
	while (wanted) {
		atomic_fetch_add(&swarm->count.fills_begun, 1);
		run_round(f);
		pthread_mutex_lock(&swarm->mu);
		pthread_mutex_lock(&f->mu);
		wanted = cairn_swarm_fill_wanted_locked(f);
		pthread_mutex_unlock(&f->mu);
		if (!wanted) {
			struct cairn_swarm_fill **at = &swarm->fills[cairn_bucket_of(&f->digest)];
			while (*at != f) at = &(*at)->next;
			*at = f->next;
			swarm->n_fills--;
		}
		pthread_mutex_unlock(&swarm->mu);
	}
	cairn_serving_poke(swarm, &f->digest);
	cairn_swarm_fill_unref(f);
	cairn_swarm_thread_ended(swarm);
	return NULL;
}
