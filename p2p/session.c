#include "p2p/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "p2p/serving.h"

#define DIAL_MS 3000
#define IDLE_MS 60000 /* between two looks when nothing happens */
#define GOODBYE_MS 800
#define PART_BYTES (256u << 10)
#define PART_MIN_BYTES (8u << 10)
#define RETRY_MS 1000	   /* of a source that is BUSY and does not say a time, or ... */
#define RETRY_MAX_MS 60000 /* ... one above that */
#define RIVAL_MS 300
#define BUSY_SLACK_MS 200 /* until it has answered again */
#define OTHERS_MAX 16	  /* addresses that are looked at in one message */

typedef Cairn__Peer__V1__Description Description;

/* ---- the coordinator's side ------------------------------------------------------------- */

bool cairn_session_room(struct cairn_swarm *swarm)
{
	return atomic_load(&swarm->n_sessions) < CAIRN_SESSIONS_MAX &&
	       !atomic_load(&swarm->cancelled);
}

void cairn_session_wake_locked(struct cairn_session *s)
{
	if (s->wake_fd >= 0) (void)eventfd_write(s->wake_fd, 1);
}

void cairn_session_end_locked(struct cairn_session *s, enum cairn_plan_end end)
{
	if (!s->has_end) s->end = end;
	s->has_end = true;
	if (s->conn != NULL && !s->leaving && s->n_owed > 0) cairn_conn_interrupt(s->conn);
	cairn_session_wake_locked(s);
}

static void *session_main(void *arg);

bool cairn_session_begin_locked(struct cairn_swarm_fill *f, uint32_t source)
{
	struct cairn_session *s = calloc(1, sizeof(*s));
	if (s == NULL) abort();
	s->fill = cairn_swarm_fill_ref(f);
	s->told = (struct cairn_told){.source = source, .address = s->address, .gen = f->gen};
	memcpy(s->address, f->sources[source].address, sizeof(s->address));
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	atomic_fetch_add(&f->swarm->n_sessions, 1);
	if (s->wake_fd < 0 || !cairn_swarm_thread(f->swarm, session_main, s)) {
		atomic_fetch_sub(&f->swarm->n_sessions, 1);
		cairn_plan_closed(f->plan, source, CAIRN_END_BUSY, 1000, cairn_swarm_now_ms());
		if (s->wake_fd >= 0) close(s->wake_fd);
		cairn_swarm_fill_unref(f);
		free(s);
		return false;
	}
	s->next = f->sessions;
	f->sessions = s;
	f->n_opening++;
	return true;
}

/* ---- what it says ----------------------------------------------------------------------- */

static void learn_others(struct cairn_session *s, const Description *msg)
{
	struct cairn_swarm_fill *f = s->fill;
	int64_t now_ms = cairn_swarm_now_ms();
	uint32_t known;
	pthread_mutex_lock(&f->mu);
	known = f->n_sources;
	for (size_t i = 0; i < msg->n_others && i < OTHERS_MAX && !s->detached; i++) {
		cairn_swarm_fill_learn_locked(f, msg->others[i], false, now_ms);
	}
	if (f->n_sources > known) cairn_swarm_fill_poke_locked(f);
	pthread_mutex_unlock(&f->mu);
}

/* The whole blob, beside its description: it is its only piece. */
static enum cairn_next take_inline(struct cairn_session *s, const Description *msg)
{
	struct cairn_swarm_fill *f = s->fill;
	struct cairn_piece_writer writer;
	struct cairn_err err;
	uint32_t piece;
	if (msg->data.len != f->size || f->count != 1) {
		return cairn_session_lied(s, "a blob of another length");
	}
	pthread_mutex_lock(&f->mu);
	bool ours = cairn_plan_next_piece(f->plan, s->told.source, cairn_swarm_now_ms(), &piece);
	pthread_mutex_unlock(&f->mu);
	if (!ours) return CAIRN_GO_ON;
	if (!cairn_session_begin_piece(s, piece, &writer)) {
		cairn_session_pass_over(s, piece);
		return CAIRN_GO_ON;
	}
	cairn_session_count_part(s, msg->data.len, true);
	if (cairn_piece_write(&writer, msg->data.data, msg->data.len, &err) != CAIRN_OK) {
		cairn_piece_abandon(&writer);
		return cairn_session_disk_failed(s, &err);
	}
	return cairn_session_end_piece(s, &writer);
}

static enum cairn_next come_again(struct cairn_session *s, int64_t retry_ms)
{
	struct cairn_swarm_fill *f = s->fill;
	int64_t until_ms = cairn_swarm_now_ms() + retry_ms + BUSY_SLACK_MS;
	s->retry_ms = retry_ms;
	pthread_mutex_lock(&f->mu);
	if (f->busy_until_ms < until_ms) f->busy_until_ms = until_ms;
	pthread_mutex_unlock(&f->mu);
	return cairn_session_ends(s, CAIRN_END_BUSY);
}

static enum cairn_next not_there(struct cairn_session *s, const Description *msg)
{
	struct cairn_swarm_fill *f = s->fill;
	if (msg->state == CAIRN__PEER__V1__STATE__BUSY) {
		s->is_busy = true;
		bool sane = msg->retry_ms > 0 && msg->retry_ms <= RETRY_MAX_MS;
		return come_again(s, sane ? msg->retry_ms : RETRY_MS);
	}
	pthread_mutex_lock(&f->mu);
	/* Who relays somebody's list can only say that he has it no more. */
	bool maker =
		s->told.vouches && strcmp(f->originator, s->address) == 0 && s->told.gen == f->gen;
	cairn_swarm_fill_ask_soon_locked(f);
	pthread_mutex_unlock(&f->mu);
	if (msg->state == CAIRN__PEER__V1__STATE__WRONG && maker) {
		cairn_swarm_fill_wrong(f, s->address);
		return cairn_session_ends(s, CAIRN_END_SHUNNED);
	}
	return cairn_session_ends(s, CAIRN_END_ABSENT);
}

static enum cairn_next on_description(struct cairn_session *s, const Description *msg)
{
	struct cairn_swarm_fill *f = s->fill;
	uint32_t from = 0, to = 0;
	learn_others(s, msg);
	if (msg->state != CAIRN__PEER__V1__STATE__GROWS &&
	    msg->state != CAIRN__PEER__V1__STATE__WHOLE) {
		return not_there(s, msg);
	}
	pthread_mutex_lock(&f->mu);
	if (cairn_session_is_over_locked(s) || s->told.gen != f->gen || f->forgetting) {
		pthread_mutex_unlock(&f->mu);
		return CAIRN_GO_ON; /* the loop sees that */
	}
	if (!s->opened) cairn_plan_opened(f->plan, s->told.source, cairn_swarm_now_ms());
	s->opened = true;
	enum cairn_merge merge = cairn_fill_merge_locked(f, &s->told, msg, &from, &to);
	if (merge == CAIRN_MERGE_AGAIN) cairn_swarm_fill_poke_locked(f);
	pthread_mutex_unlock(&f->mu);
	if (merge == CAIRN_MERGE_BAD) return cairn_session_lied(s, "a description that cannot be");
	if (merge == CAIRN_MERGE_UNUSABLE) return cairn_session_ends(s, CAIRN_END_ABSENT);
	if (merge == CAIRN_MERGE_AGAIN || merge == CAIRN_MERGE_RIVAL) {
		return come_again(s, merge == CAIRN_MERGE_AGAIN ? 1 : RIVAL_MS);
	}
	if (to > from) {
		cairn_fill_recover(f, s->told.gen, from, to);
		pthread_mutex_lock(&f->mu);
		for (struct cairn_session *o = f->sessions; o != NULL; o = o->next) {
			if (o != s && o->n_owed < CAIRN_DEPTH_MAX) cairn_session_wake_locked(o);
		}
		if (cairn_plan_done(f->plan)) cairn_swarm_fill_poke_locked(f);
		pthread_mutex_unlock(&f->mu);
		cairn_serving_poke(f->swarm, &f->digest);
	}
	if (msg->data.len > 0) return take_inline(s, msg);
	return CAIRN_GO_ON;
}

static enum cairn_code read_description(struct cairn_session *s, const struct cairn_frame *frame,
					Description **ret, struct cairn_err *err)
{
	ProtobufCMessage *msg;
	enum cairn_code rc =
		cairn_conn_read_message(s->conn, frame, &cairn__peer__v1__description__descriptor,
					CAIRN_SESSION_IO_MS, &msg, err);
	if (rc == CAIRN_OK) *ret = (Description *)msg;
	return rc;
}

/* ---- the conversation ------------------------------------------------------------------- */

/* What the plan wants of it now. False: it is over. */
static bool ask_more(struct cairn_session *s, enum cairn_next *ret)
{
	struct cairn_swarm_fill *f = s->fill;
	struct cairn_err err;
	pthread_mutex_lock(&f->mu);
	bool over = cairn_session_is_over_locked(s) || cairn_plan_done(f->plan);
	if (!over && (s->told.gen != f->gen || f->forgetting)) {
		s->own_end = CAIRN_END_BUSY; /* begin anew, with the list that is believed now */
		s->retry_ms = 1;
		over = true;
	}
	uint32_t first = s->n_owed, piece;
	while (!over && s->opened && s->n_owed < CAIRN_LEN(s->owed) &&
	       cairn_plan_next_piece(f->plan, s->told.source, cairn_swarm_now_ms(), &piece)) {
		s->owed[s->n_owed++] = piece;
	}
	uint32_t end = s->n_owed;
	pthread_mutex_unlock(&f->mu);
	for (uint32_t i = first; i < end; i++) {
		Cairn__Peer__V1__Get get;
		cairn__peer__v1__get__init(&get);
		get.piece = s->owed[i];
		if (cairn_conn_send_message(s->conn, CAIRN_FRAME_GET, &get.base,
					    CAIRN_SESSION_IO_MS, &err) != CAIRN_OK) {
			*ret = cairn_session_broke(s, &err);
			return false;
		}
	}
	return !over;
}

static enum cairn_next on_frame(struct cairn_session *s)
{
	struct cairn_frame frame;
	struct cairn_err err;
	Description *msg;
	enum cairn_code rc = cairn_conn_read_head(s->conn, CAIRN_SESSION_IO_MS, &frame, &err);
	if (rc != CAIRN_OK) return cairn_session_broke(s, &err);
	if (frame.type == CAIRN_FRAME_PIECE) return cairn_session_on_piece(s, &frame);
	if (frame.type != CAIRN_FRAME_DESCRIPTION) {
		cairn_err_set(&err, CAIRN_INVALID_ARGUMENT, "a frame of type %u", frame.type);
		return cairn_session_broke(s, &err);
	}
	rc = read_description(s, &frame, &msg, &err);
	if (rc != CAIRN_OK) return cairn_session_broke(s, &err);
	enum cairn_next next = on_description(s, msg);
	cairn__peer__v1__description__free_unpacked(msg, NULL);
	return next;
}

static void converse(struct cairn_session *s)
{
	enum cairn_next next = CAIRN_GO_ON;
	while (next == CAIRN_GO_ON && ask_more(s, &next)) {
		enum cairn_conn_ready ready = cairn_conn_wait(s->conn, s->wake_fd, IDLE_MS);
		eventfd_t ignored;
		if (ready == CAIRN_CONN_WOKEN) (void)eventfd_read(s->wake_fd, &ignored);
		if (ready == CAIRN_CONN_READABLE) next = on_frame(s);
	}
}

/* ---- its beginning ---------------------------------------------------------------------- */

static enum cairn_code describe(struct cairn_session *s, Description **ret, struct cairn_err *err)
{
	struct cairn_swarm_fill *f = s->fill;
	char digest[CAIRN_DIGEST_STR];
	Cairn__Peer__V1__Describe ask;
	struct cairn_frame frame;
	cairn__peer__v1__describe__init(&ask);
	cairn_digest_format(&f->digest, digest);
	ask.digest = digest;
	ask.size = f->size;
	ask.inline_max = f->size <= CAIRN_INLINE_MAX ? CAIRN_INLINE_MAX : 0;
	enum cairn_code rc = cairn_conn_send_message(s->conn, CAIRN_FRAME_DESCRIBE, &ask.base,
						     CAIRN_SESSION_IO_MS, err);
	if (rc == CAIRN_OK) rc = cairn_conn_read_head(s->conn, CAIRN_SESSION_IO_MS, &frame, err);
	if (rc != CAIRN_OK) return rc;
	if (frame.type != CAIRN_FRAME_DESCRIPTION) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "a frame of type %u", frame.type);
	}
	return read_description(s, &frame, ret, err);
}

/* From now on it is the fill's to interrupt, and uses the fill's pieces. */
static bool attach(struct cairn_session *s, struct cairn_conn *conn)
{
	struct cairn_swarm_fill *f = s->fill;
	pthread_mutex_lock(&f->mu);
	bool over = cairn_session_is_over_locked(s);
	if (!over) {
		s->conn = conn;
		s->talking = true;
		f->n_opening--;
		f->n_talking++;
	}
	pthread_mutex_unlock(&f->mu);
	return !over;
}

static void detach(struct cairn_session *s, bool reusable)
{
	struct cairn_swarm_fill *f = s->fill;
	pthread_mutex_lock(&f->mu);
	struct cairn_conn *conn = cairn_steal(&s->conn);
	pthread_mutex_unlock(&f->mu);
	if (conn != NULL) cairn_pool_give(f->swarm->pool, &conn, reusable);
}

/* It is to be connected once more. False: it is over. */
static bool back_to_opening(struct cairn_session *s)
{
	struct cairn_swarm_fill *f = s->fill;
	detach(s, false);
	pthread_mutex_lock(&f->mu);
	bool over = cairn_session_is_over_locked(s);
	if (!over) {
		s->talking = false;
		f->n_talking--;
		f->n_opening++;
	}
	pthread_mutex_unlock(&f->mu);
	return !over;
}

/* A connection on which the source has answered. One that had been idle may be dead: then a new
 * one. */
static enum cairn_next open_conversation(struct cairn_session *s, Description **ret)
{
	struct cairn_swarm *swarm = s->fill->swarm;
	struct cairn_err err;
	bool fresh = false;
	for (int tries = 0;; tries++) {
		struct cairn_conn *conn;
		enum cairn_code rc = cairn_pool_take(swarm->pool, s->address, tries > 0, DIAL_MS,
						     &conn, &fresh, &err);
		if (rc != CAIRN_OK) return cairn_session_broke(s, &err);
		if (!attach(s, conn)) {
			cairn_pool_give(swarm->pool, &conn, true);
			return cairn_session_ends(s, CAIRN_END_BUSY);
		}
		if (cairn_peers_shuns(swarm->peers, &s->fill->digest, s->address,
				      cairn_conn_certificate(conn), cairn_swarm_now_ms())) {
			return cairn_session_ends(s, CAIRN_END_SHUNNED);
		}
		rc = describe(s, ret, &err);
		if (rc == CAIRN_OK) {
			cairn_peers_met(swarm->peers, s->address, cairn_conn_certificate(conn));
			s->met = true;
			return CAIRN_GO_ON;
		}
		if (fresh) break;
		if (!back_to_opening(s)) return cairn_session_ends(s, CAIRN_END_BUSY);
	}
	return cairn_session_broke(s, &err);
}

/* No more news, please: and what was on its way when we said so is read, too. */
static bool leave(struct cairn_session *s)
{
	struct cairn_frame frame = {.type = CAIRN_FRAME_LEAVE};
	struct cairn_err err;
	int64_t end_ms = cairn_swarm_now_ms() + GOODBYE_MS;
	pthread_mutex_lock(&s->fill->mu);
	s->leaving = true;
	pthread_mutex_unlock(&s->fill->mu);
	enum cairn_code rc = cairn_conn_send_head(s->conn, &frame, GOODBYE_MS, &err);
	while (rc == CAIRN_OK) {
		Description *msg;
		int64_t left_ms = end_ms - cairn_swarm_now_ms();
		rc = cairn_conn_read_head(s->conn, left_ms > 0 ? left_ms : 0, &frame, &err);
		if (rc == CAIRN_OK && frame.type == CAIRN_FRAME_LEAVE) return true;
		if (rc != CAIRN_OK || frame.type != CAIRN_FRAME_DESCRIPTION) return false;
		rc = read_description(s, &frame, &msg, &err);
		if (rc == CAIRN_OK) cairn__peer__v1__description__free_unpacked(msg, NULL);
	}
	return false;
}

/* ---- its end ---------------------------------------------------------------------------- */

static void finish(struct cairn_session *s)
{
	struct cairn_swarm_fill *f = s->fill;
	struct cairn_swarm *swarm = f->swarm;
	if (s->met) cairn_peers_parted(swarm->peers, s->address);
	pthread_mutex_lock(&f->mu);
	bool by_itself = !s->has_end || s->own_end == CAIRN_END_SHUNNED;
	if (!s->detached) {
		struct cairn_session **at = &f->sessions;
		while (*at != s) at = &(*at)->next;
		*at = s->next;
		if (s->talking) f->n_talking--;
		if (!s->talking) f->n_opening--;
		cairn_fill_unvouch_locked(f, &s->told);
		cairn_plan_closed(f->plan, s->told.source, by_itself ? s->own_end : s->end,
				  by_itself ? s->retry_ms : 1, cairn_swarm_now_ms());
		int64_t again_ms = cairn_plan_retry_ms(f->plan, s->told.source) + BUSY_SLACK_MS;
		if (s->is_busy && by_itself && f->busy_until_ms < again_ms) {
			f->busy_until_ms = again_ms;
		}
		for (struct cairn_session *o = f->sessions; o != NULL; o = o->next) {
			cairn_session_wake_locked(o); /* what it owed is free */
		}
		cairn_swarm_fill_poke_locked(f);
	}
	pthread_mutex_unlock(&f->mu);
	close(s->wake_fd);
	free(s->buf);
	free(s);
	cairn_swarm_fill_unref(f);
	atomic_fetch_sub(&swarm->n_sessions, 1);
	cairn_swarm_thread_ended(swarm);
}

static size_t part_bytes(const struct cairn_swarm *swarm)
{
	uint64_t n = cairn_swarm_download_limit(swarm) / 16; /* so that no wait is long */
	if (n == 0 || n > PART_BYTES) n = PART_BYTES;
	return n < PART_MIN_BYTES ? PART_MIN_BYTES : (size_t)n;
}

static void *session_main(void *arg)
{
	struct cairn_session *s = arg;
	Description *msg = NULL;
	s->own_end = CAIRN_END_BUSY;
	s->retry_ms = 1;
	enum cairn_next next = open_conversation(s, &msg);
	if (next == CAIRN_GO_ON) {
		s->room = part_bytes(s->fill->swarm);
		s->buf = malloc(s->room);
		if (s->buf == NULL) abort();
		next = on_description(s, msg);
		cairn__peer__v1__description__free_unpacked(msg, NULL);
		if (next == CAIRN_GO_ON) converse(s);
	}
	bool clean = s->conn != NULL && s->n_owed == 0 && s->own_end != CAIRN_END_FAILED &&
		     s->own_end != CAIRN_END_SHUNNED;
	detach(s, clean && leave(s));
	finish(s);
	return NULL;
}
