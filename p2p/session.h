/* One source of a fill: a thread, a connection, and the conversation as the client. */
#ifndef CAIRN_P2P_SESSION_H
#define CAIRN_P2P_SESSION_H

#include "p2p/fill.h"

struct cairn_session {
	struct cairn_swarm_fill *fill; /* counted */
	struct cairn_told told;
	char address[CAIRN_ADDRESS_MAX];

	/* guarded by fill->mu */
	struct cairn_session *next;
	struct cairn_conn *conn; /* while it may be interrupted */
	int wake_fd;
	bool talking;  /* connected, and nobody has ended it before that */
	bool leaving;  /* it owes nothing, and says so */
	bool detached; /* its fill has gone on without it: it touches nothing of it */
	bool has_end;  /* the coordinator has ended it, so: */
	enum cairn_plan_end end;

	uint32_t owed[CAIRN_DEPTH_MAX]; /* asked for, in that order; written by the session */
	uint32_t n_owed;

	/* the session's own */
	bool opened; /* in the plan */
	bool met;
	enum cairn_plan_end own_end; /* how it has ended by itself */
	int64_t retry_ms;
	uint32_t n_lost; /* pieces that it said to have, and did not give */
	bool is_busy;	 /* it has it, and we are to come again */
	uint8_t *buf;
	size_t room;
};

/* May there be one more on this node? */
bool cairn_session_room(struct cairn_swarm *swarm);
/* Begin a session with a source that the plan has named; false: it cannot be begun (the plan is
 * told). The fill's lock is held. */
bool cairn_session_begin_locked(struct cairn_swarm_fill *f, uint32_t source);
void cairn_session_wake_locked(struct cairn_session *s);
/* It is to end now, as that. */
void cairn_session_end_locked(struct cairn_session *s, enum cairn_plan_end end);

/* ---- between session.c and session_piece.c: the session's thread ------------------------ */

#define CAIRN_SESSION_IO_MS 10000 /* for an answer, or its next bytes; the plan is less patient */

/* How one step of the conversation ended. */
enum cairn_next { CAIRN_GO_ON, CAIRN_ENDS };

enum cairn_next cairn_session_ends(struct cairn_session *s, enum cairn_plan_end end);
/* It cannot be talked with, for now. */
enum cairn_next cairn_session_broke(struct cairn_session *s, const struct cairn_err *why);
/* It has lied, or does not speak our language: it is shunned. */
enum cairn_next cairn_session_lied(struct cairn_session *s, const char *why);
/* What comes cannot be kept: the fill fails. */
enum cairn_next cairn_session_disk_failed(struct cairn_session *s, const struct cairn_err *why);
bool cairn_session_is_over_locked(const struct cairn_session *s);

/* Begin to write the piece; false: it is here, or the list is not believed any more. */
bool cairn_session_begin_piece(struct cairn_session *s, uint32_t piece,
			       struct cairn_piece_writer *writer);
enum cairn_next cairn_session_end_piece(struct cairn_session *s, struct cairn_piece_writer *writer);
/* It came, and was not written. */
void cairn_session_pass_over(struct cairn_session *s, uint32_t piece);
/* So many bytes came; waits as long as the download limit asks. */
void cairn_session_count_part(struct cairn_session *s, size_t n, bool useful);
/* A frame PIECE begins. */
enum cairn_next cairn_session_on_piece(struct cairn_session *s, const struct cairn_frame *frame);

#endif
