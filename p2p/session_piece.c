/* The pieces that a source sends: each goes to the disk and into its proof as it comes. And how a
 * session ends. */
#include <string.h>

#include "base/log.h"
#include "p2p/serving.h"
#include "p2p/session.h"

#define LOST_MAX 8 /* pieces of one source */

/* ---- ends ------------------------------------------------------------------------------- */

enum cairn_next cairn_session_ends(struct cairn_session *s, enum cairn_plan_end end)
{
	s->own_end = end;
	return CAIRN_ENDS;
}

/* It cannot be talked with, for now. */
enum cairn_next cairn_session_broke(struct cairn_session *s, const struct cairn_err *why)
{
	struct cairn_swarm_fill *f = s->fill;
	pthread_mutex_lock(&f->mu);
	bool ours = s->has_end || s->detached; /* it did not break by itself */
	if (!ours) cairn_swarm_fill_ask_soon_locked(f);
	pthread_mutex_unlock(&f->mu);
	if (!ours) cairn_peers_failed(f->swarm->peers, s->address, why->msg);
	return cairn_session_ends(s, CAIRN_END_FAILED);
}

/* It has lied, or does not speak our language. */
enum cairn_next cairn_session_lied(struct cairn_session *s, const char *why)
{
	char digest[CAIRN_DIGEST_STR];
	struct cairn_swarm *swarm = s->fill->swarm;
	atomic_fetch_add(&swarm->count.pieces_bad, 1);
	atomic_fetch_add(&swarm->count.shunned, 1);
	cairn_peers_bad(swarm->peers, s->address, why);
	cairn_peers_shun(swarm->peers, &s->fill->digest, s->address, cairn_swarm_now_ms());
	cairn_log(CAIRN_LOG_WARN, "peer_shunned", CAIRN_STR("peer", s->address),
		  CAIRN_STR("digest", cairn_digest_format(&s->fill->digest, digest)),
		  CAIRN_STR("err", why));
	return cairn_session_ends(s, CAIRN_END_SHUNNED);
}

bool cairn_session_is_over_locked(const struct cairn_session *s)
{
	return s->has_end || s->detached || atomic_load(&s->fill->swarm->cancelled);
}

/* ---- pieces ----------------------------------------------------------------------------- */

/* Bytes of the present frame, as many as may come at once. */
static enum cairn_code read_part(struct cairn_session *s, uint64_t left, size_t *ret,
				 struct cairn_err *err)
{
	size_t n = left < s->room ? (size_t)left : s->room;
	return cairn_conn_read_some(s->conn, s->buf, n, CAIRN_SESSION_IO_MS, ret, err);
}

/* They came: from now on they count. */
void cairn_session_count_part(struct cairn_session *s, size_t n, bool useful)
{
	struct cairn_swarm_fill *f = s->fill;
	struct cairn_swarm *swarm = f->swarm;
	int64_t now_ms = cairn_swarm_now_ms();
	pthread_mutex_lock(&f->mu);
	cairn_plan_bytes(f->plan, s->told.source, n, now_ms);
	if (useful) {
		f->received += n;
		f->received_ms = now_ms;
		cairn_speed_add(&f->speed, n, now_ms);
	}
	pthread_mutex_unlock(&f->mu);
	atomic_fetch_add(&swarm->count.from_peers_bytes, n);
	cairn_peers_from(swarm->peers, s->address, n, now_ms);
	int64_t wait_ns = cairn_rate_take(swarm->down, n, cairn_boot_ns(&cairn_clock_system));
	if (wait_ns > 0) cairn_swarm_pause(swarm, wait_ns);
}

/* Begin to write the piece, unless it is here or the list is not believed any more. */
bool cairn_session_begin_piece(struct cairn_session *s, uint32_t piece,
			       struct cairn_piece_writer *writer)
{
	struct cairn_swarm_fill *f = s->fill;
	pthread_mutex_lock(&f->mu);
	bool wanted = !cairn_session_is_over_locked(s) && s->told.gen == f->gen && !f->forgetting &&
		      !cairn_pieces_has(f->pieces, piece);
	if (wanted) {
		cairn_piece_begin(f->pieces, piece, cairn_fill_before_locked(f, piece), writer);
	}
	pthread_mutex_unlock(&f->mu);
	return wanted;
}

enum cairn_next cairn_session_disk_failed(struct cairn_session *s, const struct cairn_err *why)
{
	pthread_mutex_lock(&s->fill->mu);
	cairn_swarm_fill_fail_locked(s->fill, why);
	pthread_mutex_unlock(&s->fill->mu);
	return cairn_session_ends(s, CAIRN_END_BUSY);
}

enum cairn_next cairn_session_end_piece(struct cairn_session *s, struct cairn_piece_writer *writer)
{
	struct cairn_swarm_fill *f = s->fill;
	uint8_t after[CAIRN_CHAIN_STATE] = {0};
	struct cairn_err err;
	uint32_t piece = writer->k;
	pthread_mutex_lock(&f->mu);
	bool current = s->told.gen == f->gen && !f->forgetting;
	if (current && piece + 1 < f->count) {
		memcpy(after, cairn_fill_after_locked(f, piece), f->entry);
	}
	pthread_mutex_unlock(&f->mu);
	if (!current) {
		cairn_piece_abandon(writer);
		return CAIRN_GO_ON;
	}
	enum cairn_code rc = cairn_piece_end(writer, after, &err);
	if (rc == CAIRN_DATA_LOSS) {
		return cairn_session_lied(s, "a piece is not what its list says");
	}
	if (rc == CAIRN_ABORTED) return CAIRN_GO_ON;
	if (rc != CAIRN_OK) return cairn_session_disk_failed(s, &err);
	pthread_mutex_lock(&f->mu);
	if (s->told.gen == f->gen && !f->forgetting) {
		cairn_plan_got(f->plan, s->told.source, piece, cairn_swarm_now_ms());
		if (cairn_plan_done(f->plan)) cairn_swarm_fill_poke_locked(f);
	}
	pthread_mutex_unlock(&f->mu);
	cairn_serving_poke(f->swarm, &f->digest);
	return CAIRN_GO_ON;
}

/* It came, and was not written. */
void cairn_session_pass_over(struct cairn_session *s, uint32_t piece)
{
	struct cairn_swarm_fill *f = s->fill;
	pthread_mutex_lock(&f->mu);
	if (s->told.gen == f->gen && !f->forgetting) {
		if (cairn_pieces_has(f->pieces, piece)) {
			cairn_plan_got(f->plan, s->told.source, piece, cairn_swarm_now_ms());
		} else {
			cairn_plan_lost(f->plan, s->told.source, piece);
		}
	}
	pthread_mutex_unlock(&f->mu);
}

static enum cairn_next read_piece(struct cairn_session *s, uint32_t piece)
{
	struct cairn_piece_writer writer;
	struct cairn_err err;
	uint64_t left = cairn_piece_length(s->fill->size, piece);
	bool writing = cairn_session_begin_piece(s, piece, &writer);
	enum cairn_code rc = CAIRN_OK;
	while (left > 0) {
		size_t n = 0;
		rc = read_part(s, left, &n, &err);
		if (rc != CAIRN_OK) {
			if (writing) cairn_piece_abandon(&writer);
			return cairn_session_broke(s, &err);
		}
		left -= n;
		cairn_session_count_part(s, n, writing);
		if (writing) rc = cairn_piece_write(&writer, s->buf, n, &err);
		if (rc != CAIRN_OK) {
			cairn_piece_abandon(&writer);
			return cairn_session_disk_failed(s, &err);
		}
	}
	if (writing) return cairn_session_end_piece(s, &writer);
	cairn_session_pass_over(s, piece);
	return CAIRN_GO_ON;
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

enum cairn_next cairn_session_on_piece(struct cairn_session *s, const struct cairn_frame *frame)
{
	struct cairn_swarm_fill *f = s->fill;
	uint8_t head[CAIRN_PIECE_HEAD];
	struct cairn_err err;
	if (frame->len < sizeof(head)) return cairn_session_lied(s, "a piece without a head");
	for (size_t have = 0, n; have < sizeof(head); have += n) {
		enum cairn_code rc = cairn_conn_read_some(s->conn, head + have, sizeof(head) - have,
							  CAIRN_SESSION_IO_MS, &n, &err);
		if (rc != CAIRN_OK) return cairn_session_broke(s, &err);
	}
	uint32_t piece = be32(head), status = be32(head + 4);
	pthread_mutex_lock(&f->mu);
	bool asked = s->n_owed > 0 && s->owed[0] == piece;
	if (asked && --s->n_owed > 0) {
		memmove(s->owed, s->owed + 1, s->n_owed * sizeof(s->owed[0]));
	}
	bool lost = asked && status == 1;
	if (lost && s->told.gen == f->gen && !f->forgetting) {
		cairn_plan_lost(f->plan, s->told.source, piece);
		for (struct cairn_session *o = f->sessions; o != NULL; o = o->next) {
			if (o != s) cairn_session_wake_locked(o);
		}
	}
	pthread_mutex_unlock(&f->mu);
	if (!asked) return cairn_session_lied(s, "a piece that was not asked for");
	uint64_t want = lost ? 0 : cairn_piece_length(f->size, piece);
	if (status > 1 || frame->len != sizeof(head) + want) {
		return cairn_session_lied(s, "a piece of another length");
	}
	if (!lost) return read_piece(s, piece);
	/* It does not have it until it says so again; the others may. Whoever loses many has none.
	 */
	bool has_none = ++s->n_lost >= LOST_MAX || s->n_lost >= f->count;
	return has_none ? cairn_session_ends(s, CAIRN_END_ABSENT) : CAIRN_GO_ON;
}
