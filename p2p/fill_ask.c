/* A fill and the directory: questions, the grant, and taking it over. The coordinator's thread. */
#include <string.h>

#include "base/log.h"
#include "p2p/fill_round.h"
#include "p2p/policy.h"
#include "p2p/session.h"

#define ASK_MS 400	 /* the directory may take so long, but for the first time */
#define ALIVE_MS 1000	 /* ... and the first time, if it is alive: its link may only be full */
#define SLOW_MS 2500	 /* ... and when it has not answered the last time */
#define DEAD_MS 6000	 /* one that is silent is replaced within that time, if it can be */
#define START_ASK_MS 250 /* just after the start it is asked several times */
#define ASK_AGAIN_MS 100 /* between two questions, whatever happens */
#define KEEP_MS 1000	 /* between two reports of bytes */
#define TAKE_AGAIN_MS 250
/* Without a byte for so many times stall_ms: the plan has had its time to try another source, and
 * whoever can fetch has had his to take the grant. */
#define GIVE_UP 2
#define GIVE_UP_FETCHER 3

static uint64_t seed_of(const struct cairn_swarm_fill *f)
{
	uint64_t seed;
	memcpy(&seed, f->digest.bytes, sizeof(seed));
	return seed ^ f->swarm->seed;
}

void cairn_swarm_fill_ask_soon_locked(struct cairn_swarm_fill *f)
{
	int64_t soon_ms = f->asked_ms + ASK_AGAIN_MS;
	if (f->asked && soon_ms < f->ask_at_ms) f->ask_at_ms = soon_ms;
	cairn_swarm_fill_poke_locked(f);
}

/* ---- grants of ours --------------------------------------------------------------------- */

static bool get_place(struct cairn_swarm_fill *f)
{
	if (!f->has_place) f->has_place = cairn_swarm_queue(f->swarm);
	pthread_mutex_lock(&f->mu);
	f->wants_place = !f->has_place;
	pthread_mutex_unlock(&f->mu);
	return f->has_place;
}

void cairn_fill_give_place(struct cairn_swarm_fill *f)
{
	if (f->has_place) cairn_swarm_unqueue(f->swarm);
	f->has_place = false;
}

static void begin_window_locked(struct cairn_swarm_fill *f, int64_t now_ms)
{
	f->window_ms = now_ms;
	f->window_bytes = f->received;
	f->window_grant_bytes = f->grant.bytes;
}

/* What the directory says of the grant now. Returns whether that is news. */
static bool note_grant_locked(struct cairn_swarm_fill *f, const struct cairn_grant *grant,
			      int64_t now_ms)
{
	bool same_node = f->grant.state != CAIRN_GRANT_FREE &&
			 strcmp(f->grant.node.address, grant->node.address) == 0;
	bool new_node = false;
	bool news = f->grant.state != grant->state || f->grant.version != grant->version;
	if (news) f->grant_seen_ms = now_ms;
	if (grant->state != CAIRN_GRANT_FREE && !grant->ours) {
		if (!same_node) {
			/* Somebody else tries now; and the more have tried, the less it is a
			 * matter of who does. */
			if (f->grant.state != CAIRN_GRANT_FREE) f->slow_ms *= 2;
			new_node = true;
			atomic_fetch_add(&f->swarm->count.grant_waits, 1);
		}
		cairn_swarm_fill_learn_locked(f, grant->node.address, false, now_ms);
	}
	bool begins = same_node && f->grant.bytes == 0 && grant->bytes > 0;
	bool ends = f->grant.state != CAIRN_GRANT_FREE && grant->state == CAIRN_GRANT_FREE;
	f->grant = *grant;
	/* How fast it is shows from its first byte on; and when it is over somebody has it whole.
	 */
	if (new_node || begins || ends) {
		f->slow = false;
		begin_window_locked(f, now_ms);
	}
	return news;
}

/* The grant is ours: somebody here fetches. False: nobody can. */
static bool accept_locked(struct cairn_swarm_fill *f, int64_t now_ms)
{
	struct cairn_want *want = cairn_swarm_fill_candidate_locked(f);
	if (want == NULL) return false;
	f->local_bytes = f->kept_bytes = 0;
	f->local_ms = f->kept_ms = now_ms;
	f->lost_grant = false;
	atomic_fetch_add(&f->swarm->count.grants, 1);
	cairn_swarm_fill_grant_locked(f, want);
	return true;
}

/* Bytes that somebody on this node has fetched, as the cache sees them. */
static uint64_t fetched_bytes(const struct cairn_swarm_fill *f)
{
	char ref[CAIRN_DIGEST_STR];
	uint64_t written = 0, own;
	if (!cairn_cache_is_written(f->swarm->cache, &f->digest, &written)) written = 0;
	own = cairn_cache_own_offset(f->swarm->cache, cairn_digest_format(&f->digest, ref));
	return written > own ? written : own;
}

/* Whoever fetched has let go of the grant, if he has. */
static void let_go(struct cairn_swarm_fill *f, int64_t now_ms)
{
	pthread_mutex_lock(&f->mu);
	bool over = f->grant_over, next = cairn_swarm_fill_candidate_locked(f) != NULL;
	f->grant_over = false;
	if (!over) {
		pthread_mutex_unlock(&f->mu);
		return;
	}
	f->local_bytes = 0;
	f->ask_at_ms = now_ms;
	pthread_mutex_unlock(&f->mu);
	cairn_fill_give_place(f);
	/* If somebody else here can fetch, the grant stays ours, and the next question says so. */
	if (!next) f->swarm->dir->ops->leave(f->swarm->dir, &f->digest);
}

void cairn_fill_tend_grant(struct cairn_swarm_fill *f, int64_t now_ms)
{
	struct cairn_directory *dir = f->swarm->dir;
	struct cairn_grant grant;
	struct cairn_err err;
	let_go(f, now_ms);
	uint64_t bytes = fetched_bytes(f);
	pthread_mutex_lock(&f->mu);
	bool granted = f->granted != NULL;
	if (granted && bytes != f->local_bytes) {
		f->local_bytes = bytes;
		f->local_ms = now_ms;
	}
	bool began = granted && bytes > 0 && f->has_place;
	bool keep = granted && bytes > 0 && bytes != f->kept_bytes && !f->lost_grant &&
		    (f->kept_bytes == 0 || now_ms - f->kept_ms >= KEEP_MS);
	uint64_t version = f->grant.version;
	pthread_mutex_unlock(&f->mu);
	if (began) cairn_fill_give_place(f);
	if (!keep) return;
	enum cairn_code rc = dir->ops->keep(dir, &f->digest, version, bytes, ASK_MS, &grant, &err);
	pthread_mutex_lock(&f->mu);
	f->kept_ms = now_ms;
	f->kept_bytes = bytes;
	if (rc == CAIRN_OK) {
		note_grant_locked(f, &grant, now_ms);
		f->lost_grant = !grant.ours;
	}
	pthread_mutex_unlock(&f->mu);
}

/* ---- asking ----------------------------------------------------------------------------- */

static void learn_answer_locked(struct cairn_swarm_fill *f, const struct cairn_answer *answer,
				int64_t now_ms)
{
	uint32_t known = f->n_sources;
	for (size_t i = 0; i < answer->n; i++) {
		cairn_swarm_fill_learn_locked(f, answer->found[i].node.address,
					      answer->found[i].whole, now_ms);
	}
	bool news = note_grant_locked(f, &answer->grant, now_ms);
	if (f->n_sources > known) news = true;
	f->asked_in_vain = news ? 0 : f->asked_in_vain + 1;
}

static bool can_fetch(struct cairn_swarm_fill *f, bool share)
{
	pthread_mutex_lock(&f->mu);
	bool can = share && cairn_swarm_fill_candidate_locked(f) != NULL;
	pthread_mutex_unlock(&f->mu);
	return can;
}

/* A cluster that starts must not go to the registry as one crowd: its nodes wait for each other. */
static bool is_starting(const struct cairn_swarm_fill *f, int64_t now_ms)
{
	return !f->asked && !atomic_load(&f->swarm->answered) &&
	       f->begun_ms - f->swarm->started_ms < CAIRN_SWARM_START_MS &&
	       now_ms - f->begun_ms < CAIRN_SWARM_FIRST_MS;
}

/* What decide_ms bounds is the wait for a directory that may be dead. From one that is alive an
 * answer comes; and where it takes long, that is because links are full with the very blobs that
 * everybody would otherwise get from the registry. */
static int64_t patience(const struct cairn_swarm_fill *f)
{
	struct cairn_directory *dir = f->swarm->dir;
	int64_t least_ms = f->asked ? ASK_MS : f->swarm->decide_ms;
	int64_t most_ms = f->silent ? SLOW_MS : ALIVE_MS;
	if (least_ms < START_ASK_MS && is_starting(f, cairn_swarm_now_ms())) {
		least_ms = START_ASK_MS;
	}
	if (least_ms >= most_ms || (f->asked && !f->silent)) return least_ms;
	return dir->ops->alive(dir, &f->digest) ? most_ms : least_ms;
}

static void ask(struct cairn_swarm_fill *f, bool share)
{
	struct cairn_directory *dir = f->swarm->dir;
	struct cairn_answer answer;
	struct cairn_err err;
	bool place = can_fetch(f, share) && get_place(f), stray = false;
	enum cairn_code rc =
		dir->ops->ask(dir, &f->digest, share, place, patience(f), &answer, &err);
	int64_t now_ms = cairn_swarm_now_ms();
	pthread_mutex_lock(&f->mu);
	f->asked_ms = now_ms;
	f->silent = rc != CAIRN_OK;
	if (rc == CAIRN_OK) {
		f->asked = true;
		atomic_store(&f->swarm->answered, true);
		learn_answer_locked(f, &answer, now_ms);
		bool ours = answer.grant.ours && f->granted == NULL;
		if (ours && !(place && accept_locked(f, now_ms))) stray = true;
	} else if (!f->asked && !is_starting(f, now_ms)) {
		cairn_err_wrap(&err, "directory");
		cairn_swarm_fill_fail_locked(f, &err);
	} else {
		f->asked_in_vain++;
	}
	f->ask_at_ms = now_ms + cairn_policy_ask_ms(seed_of(f), f->asked_in_vain);
	if (stray || !f->asked) f->ask_at_ms = now_ms + ASK_AGAIN_MS;
	bool granted = f->granted != NULL;
	pthread_mutex_unlock(&f->mu);
	if (!granted) cairn_fill_give_place(f);
	if (stray) dir->ops->leave(dir, &f->digest); /* nobody here can use it */
}

/* ---- taking over, giving up ------------------------------------------------------------- */

/* Do bytes come more slowly than they should, over some time? Looked at when that time is over; in
 * between it is as it was. */
static bool is_slow_locked(struct cairn_swarm_fill *f, int64_t now_ms)
{
	const struct cairn_swarm *swarm = f->swarm;
	int64_t ms = now_ms - f->window_ms;
	if (!f->pulling || ms < f->slow_ms) return f->slow;
	/* All that come now share what the node can take. */
	uint64_t floor = swarm->min_rate, pulling = atomic_load(&swarm->n_pulling);
	uint64_t limit = cairn_swarm_download_limit(swarm);
	if (limit > 0 && limit / 2 < floor) floor = limit / 2;
	if (pulling > 1) floor /= pulling;
	/* Who fetches may have to catch up with what we have already. */
	uint64_t came = f->received - f->window_bytes;
	if (f->grant.bytes > f->window_grant_bytes &&
	    f->grant.bytes - f->window_grant_bytes > came) {
		came = f->grant.bytes - f->window_grant_bytes;
	}
	f->slow = came * 1000 / (uint64_t)ms < floor;
	begin_window_locked(f, now_ms);
	return f->slow;
}

/* All that are known were tried, in vain. */
static bool is_idle_locked(const struct cairn_swarm_fill *f, int64_t now_ms)
{
	return f->asked && now_ms >= f->busy_until_ms && (f->n_sources == 0 || f->idle);
}

static bool should_take_locked(struct cairn_swarm_fill *f, int64_t now_ms)
{
	int64_t stall_ms = f->swarm->stall_ms;
	if (now_ms < f->take_at_ms || !f->asked) return false; /* the last try said how it is now */
	bool slow = is_slow_locked(f, now_ms);
	if (f->grant.state == CAIRN_GRANT_FREE) {
		/* Whoever is said to hold it cannot be reached, or is not believed. */
		return is_idle_locked(f, now_ms) || slow || now_ms - f->received_ms >= stall_ms;
	}
	if (f->grant.ours) return false;
	return slow || cairn_policy_may_take(now_ms, f->grant_seen_ms, f->received_ms, stall_ms,
					     seed_of(f));
}

/* It cannot be taken over: perhaps because the node that has it is the one to be asked, and its
 * link is full with what it sends us. That is too little anyway; without it there is room for the
 * question. */
static void part_with_locked(struct cairn_swarm_fill *f, const char *address)
{
	for (struct cairn_session *s = f->sessions; s != NULL; s = s->next) {
		if (strcmp(s->address, address) == 0) cairn_session_end_locked(s, CAIRN_END_SLOW);
	}
}

static void take(struct cairn_swarm_fill *f)
{
	struct cairn_directory *dir = f->swarm->dir;
	struct cairn_grant grant;
	struct cairn_err err;
	char digest[CAIRN_DIGEST_STR];
	if (!get_place(f)) return;
	bool from_other = f->grant.state != CAIRN_GRANT_FREE;
	struct cairn_node_id other = f->grant.node;
	enum cairn_code rc =
		dir->ops->take(dir, &f->digest, f->grant.version, patience(f), &grant, &err);
	int64_t now_ms = cairn_swarm_now_ms();
	f->silent = rc != CAIRN_OK;
	bool ours = rc == CAIRN_OK && grant.ours;
	pthread_mutex_lock(&f->mu);
	f->take_at_ms = now_ms + TAKE_AGAIN_MS;
	if (rc == CAIRN_OK) note_grant_locked(f, &grant, now_ms);
	if (rc != CAIRN_OK && from_other) part_with_locked(f, other.address);
	bool accepted = ours && accept_locked(f, now_ms);
	pthread_mutex_unlock(&f->mu);
	if (!accepted) cairn_fill_give_place(f);
	if (ours && !accepted) dir->ops->leave(dir, &f->digest);
	if (!accepted || !from_other) return;
	atomic_fetch_add(&f->swarm->count.takeovers, 1);
	cairn_log(CAIRN_LOG_INFO, "grant_taken",
		  CAIRN_STR("digest", cairn_digest_format(&f->digest, digest)),
		  CAIRN_STR("from", other.address));
}

/* Nobody on this node can fetch it, or nobody's bytes come: then it is not by the swarm. */
static void give_up(struct cairn_swarm_fill *f, bool share, int64_t now_ms)
{
	struct cairn_err err;
	int64_t stall_ms = f->swarm->stall_ms;
	pthread_mutex_lock(&f->mu);
	bool fetcher = share && cairn_swarm_fill_candidate_locked(f) != NULL;
	/* Somebody's progress is ours: his bytes will come. */
	int64_t heard_ms = f->received_ms > f->grant_seen_ms ? f->received_ms : f->grant_seen_ms;
	int64_t quiet_ms = now_ms - heard_ms;
	int64_t limit_ms = stall_ms * (fetcher ? GIVE_UP_FETCHER : GIVE_UP);
	if (fetcher && f->silent) limit_ms += DEAD_MS;
	if (!f->asked || f->granted != NULL || f->failed) {
		/* it goes on, or is over */
	} else if (!fetcher && f->grant.state == CAIRN_GRANT_FREE && is_idle_locked(f, now_ms)) {
		cairn_err_set(&err, CAIRN_NOT_FOUND, "no peer that can be reached has it");
		cairn_swarm_fill_fail_locked(f, &err);
	} else if (quiet_ms >= limit_ms && !f->wants_place) {
		cairn_err_set(&err, CAIRN_DEADLINE_EXCEEDED, "no byte came for %lld ms",
			      (long long)quiet_ms);
		cairn_swarm_fill_fail_locked(f, &err);
	}
	pthread_mutex_unlock(&f->mu);
}

/* Not while bytes come from about as many as are wanted; but who is slow is to be taken over. */
static bool should_ask(struct cairn_swarm_fill *f, int64_t now_ms)
{
	pthread_mutex_lock(&f->mu);
	bool due = now_ms >= f->ask_at_ms;
	uint32_t open = cairn_policy_open(atomic_load(&f->swarm->n_pulling));
	bool should =
		!f->asked || f->slow ||
		cairn_policy_should_ask(f->n_opening + f->n_talking, open, now_ms - f->received_ms);
	if (due && !should) f->ask_at_ms = now_ms + cairn_policy_ask_ms(seed_of(f), 0);
	pthread_mutex_unlock(&f->mu);
	return due && should;
}

void cairn_fill_tend_questions(struct cairn_swarm_fill *f, int64_t now_ms)
{
	bool share = cairn_swarm_may_share(f->swarm, &f->digest);
	if (should_ask(f, now_ms)) ask(f, share);
	pthread_mutex_lock(&f->mu);
	bool takes = share && !f->failed && cairn_swarm_fill_candidate_locked(f) != NULL &&
		     should_take_locked(f, now_ms);
	pthread_mutex_unlock(&f->mu);
	if (takes) take(f);
	give_up(f, share, now_ms);
}
