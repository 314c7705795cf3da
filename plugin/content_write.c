/* Write: one stream is one session on one ref, strictly a message and its answer in turn.
 *
 * Nothing but the bytes is waited for: STAT, and the COMMIT of a blob that its last WRITE already
 * published, are answered from memory, because containerd calls them under its global locks. WRITE,
 * and COMMIT of anything else, run on a worker thread as a job that owns all it touches, so that a
 * stream that is cancelled meanwhile frees its ref at once.
 *
 * Invariants: the ref is free before the client learns of an error or of the commit; every answer
 * carries the running digest (containerd records it in some cases); after its first message the
 * stream ends only because the client asked for something. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "plugin/content.h"
#include "plugin/content_request.h"
#include "plugin/content_wait.h"
#include "plugin/ref.h"
#include "plugin/share.h"

typedef Containerd__Services__Content__V1__WriteContentResponse pb_response;

/* Counted: the handler's reference, and one while a job runs. */
struct session {
	_Atomic unsigned refs;
	struct cairn_content_service *service;
	struct cairn_ingest *ing; /* a reference that outlives the close */
	bool closed;
	bool pull;		  /* the ref stands for a digest ... */
	bool manifest;		  /* ... of a manifest or an index */
	struct cairn_want *grant; /* to fetch it from the registry; kept until the stream is over */
	uint64_t negotiated;	  /* the offset that the opening STAT said */
	bool settled;		  /* the client was told the offset that it goes on from */
	struct cairn_digest want; /* of the ref; alg 0: none */
	bool unconfirmed; /* told offset == total of a blob that nobody has looked at since */
	uint64_t total;	  /* what the client said last; 0: nothing */
	struct cairn_digest expected; /* likewise; alg 0: nothing */
	char ref[CAIRN_REF_MAX + 1];
	struct cairn_ingest_status st;

	/* The message that is dealt with; the job's while one runs. */
	struct cairn_write_request in;
	enum cairn_code rc;
	struct cairn_err err;
};

static void session_unref(struct session *s)
{
	if (atomic_fetch_sub(&s->refs, 1) != 1) return;
	cairn_write_request_fini(&s->in);
	cairn_ingest_unref(s->ing);
	free(s);
}

/* Wait a moment for a ref that another stream is just letting go: clients reopen right after a
 * close, which does not wait for us. Never long, because containerd holds its locks meanwhile. */
static enum cairn_code open_patiently(struct session *s, struct cairn_call *call,
				      const struct cairn_ingest_spec *spec, struct cairn_err *err)
{
	const struct cairn_clock *clock = &cairn_clock_system;
	int64_t deadline = cairn_boot_ns(clock) + CAIRN_CONTENT_BUSY_MS * CAIRN_NS_PER_MS;
	for (int64_t pause = 1;; pause = pause < 8 ? 2 * pause : pause) {
		struct cairn_ingest *ing = NULL;
		enum cairn_code rc = cairn_ingest_open(s->service->cache, spec, &ing, err);
		if (rc == CAIRN_OK) s->ing = cairn_ingest_ref(ing);
		if (rc != CAIRN_UNAVAILABLE || cairn_boot_ns(clock) >= deadline) return rc;
		enum cairn_wake wake = cairn_call_wait(call, pause);
		if (wake == CAIRN_WAKE_GONE || wake == CAIRN_WAKE_DRAIN) return rc;
	}
}

static void count_source(struct session *s, enum cairn_content_source source)
{
	_Atomic uint64_t *count = &s->service->pulled[source];
	if (s->pull) atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
}

/* The first message: open the ingest that it names. */
static enum cairn_code open_ingest(struct session *s, struct cairn_call *call,
				   struct cairn_err *err)
{
	struct cairn_ref ref;
	char owner[CAIRN_OWNER_MAX + 1] = "";
	if (s->ref[0] == '\0') {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "the first message of a Write must have a ref");
	}
	if (!cairn_ref_is_utf8(s->ref)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "the ref is not valid UTF-8");
	}
	cairn_ref_parse(s->ref, &ref);
	s->manifest = ref.manifest;
	s->pull = ref.want.alg != 0;
	if (ref.owner != NULL) memcpy(owner, ref.owner, ref.owner_len);
	struct cairn_ingest_spec spec = {
		.ref = s->ref,
		.owner = ref.owner != NULL ? owner : NULL,
		.total = s->in.total,
		.want = ref.want,
		.prefill = s->service->prefill && ref.want.alg != 0 && s->in.total > 0,
		.owners_only = s->service->owners_only,
	};
	enum cairn_code rc = open_patiently(s, call, &spec, err);
	s->unconfirmed = rc == CAIRN_OK && cairn_ingest_is_published(s->ing);
	if (s->unconfirmed) count_source(s, CAIRN_FROM_CACHE);
	if (spec.prefill) s->want = spec.want;
	return rc;
}

/* Is the expected blob recorded already? Then the client is to be told so, and record it without
 * us: that is a promise. A damaged one does not count: the commit may heal it. */
static bool already_referenced(struct session *s)
{
	struct cairn_err ignored;
	if (s->in.expected.alg == 0) return false;
	cairn_auto(cairn_blob_info_fini) struct cairn_blob_info info = {0};
	return cairn_cache_promise(s->service->cache, &s->in.expected, &info, &ignored) ==
		       CAIRN_OK &&
	       !info.damaged;
}

static enum cairn_code refuse_existing(struct session *s, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	cairn_ingest_abort(s->ing);
	return cairn_err_set(err, CAIRN_ALREADY_EXISTS, "content %s already exists",
			     cairn_digest_format(&s->in.expected, text));
}

/* ---- WRITE and COMMIT, on any thread ----------------------------------------------------------*/

/* Before the client builds on a blob that was here already: its file is there, and every piece is
 * what its digest says. If not, it is dropped when the session ends, and the next pull downloads.
 * Is done in the second STAT, which comes outside of containerd's locks; pieces that were looked at
 * since the start cost nothing. Gives up when the session is closed. */
static enum cairn_code confirm(struct session *s, struct cairn_err *err)
{
	enum cairn_code rc = cairn_ingest_confirm(s->ing, err);
	if (rc == CAIRN_OK) s->unconfirmed = false;
	return rc;
}

static enum cairn_code write_data(struct session *s, struct cairn_err *err)
{
	s->unconfirmed = false; /* a private copy begins */
	enum cairn_code rc =
		cairn_ingest_write(s->ing, s->in.offset, s->in.spans, s->in.n_spans, err);
	if (rc == CAIRN_OK && s->pull) {
		atomic_fetch_add_explicit(&s->service->pulled_bytes, s->in.data_len,
					  memory_order_relaxed);
	}
	return rc;
}

static enum cairn_code commit(struct session *s, struct cairn_err *err)
{
	uint64_t offset = s->in.offset;
	enum cairn_code rc = CAIRN_OK;
	if (s->unconfirmed && s->in.data_len == 0) rc = confirm(s, err);
	if (rc == CAIRN_OK) rc = cairn_ingest_get_status(s->ing, &s->st, err);
	if (rc) return rc;
	/* Bytes may come with the commit; and offset 0 on what has bytes starts again, unless all
	 * of them are there without the client having sent them (prefilled: it counts from 0). */
	/* Kept waiting until the blob was there, the client counts from where it began. */
	if (s->in.data_len == 0 && offset == s->negotiated && cairn_ingest_is_published(s->ing)) {
		offset = 0;
	}
	bool restart = offset == 0 && s->st.offset > 0 && !cairn_ingest_is_published(s->ing);
	if (s->in.data_len > 0 || restart) {
		rc = write_data(s, err);
		if (rc) return rc;
		offset += s->in.data_len;
	}
	struct cairn_ingest_status done = {.offset = 0};
	rc = cairn_ingest_commit(s->ing, offset, s->total, &s->expected, &done, err);
	if (rc) return rc;
	s->st.offset = done.offset;
	s->st.running = done.running;
	if (s->in.n_labels == 0) return CAIRN_OK;
	return cairn_cache_set_labels(s->service->cache, &done.running, s->in.labels,
				      s->in.n_labels, true, err);
}

static void job(void *arg)
{
	struct session *s = arg;
	switch (s->in.action) {
	case CAIRN_WRITE_STAT:
		s->rc = confirm(s, &s->err);
		break;
	case CAIRN_WRITE_COMMIT:
		s->rc = commit(s, &s->err);
		break;
	case CAIRN_WRITE_WRITE:
	default:
		s->rc = write_data(s, &s->err);
		break;
	}
	session_unref(s);
}

/* Can it be done without touching the disk? A published ingest's running digest is its blob's; one
 * of another algorithm means to hash all bytes again. */
static bool is_quick(struct session *s)
{
	struct cairn_err ignored;
	if (s->in.action != CAIRN_WRITE_COMMIT || s->in.data_len > 0 || s->unconfirmed ||
	    !cairn_ingest_is_published(s->ing) ||
	    cairn_ingest_get_status(s->ing, &s->st, &ignored) != CAIRN_OK) {
		return false;
	}
	return s->expected.alg == 0 || s->expected.alg == s->st.running.alg;
}

static enum cairn_code run_job(struct session *s, struct cairn_call *call, struct cairn_err *err)
{
	atomic_fetch_add(&s->refs, 1);
	if (is_quick(s)) {
		job(s);
	} else if (!cairn_call_run(call, job, s)) {
		/* The job goes on, and what it says is its own from here. */
		return cairn_err_set(err, CAIRN_CANCELLED, "the Write was cancelled");
	}
	if (s->rc) *err = s->err;
	return s->rc;
}

/* ---- the stream -------------------------------------------------------------------------------*/

static void fill_time(Cairn__Wire__Timestamp *ts, int64_t ns)
{
	cairn__wire__timestamp__init(ts);
	ts->seconds = ns / CAIRN_NS_PER_S;
	ts->nanos = (int32_t)(ns % CAIRN_NS_PER_S);
}

/* From the stack, because memory of the call would add up over a long stream. */
static enum cairn_code reply(struct session *s, struct cairn_call *call, struct cairn_err *err)
{
	char digest[CAIRN_DIGEST_STR];
	Cairn__Wire__Timestamp started, updated;
	pb_response resp;
	containerd__services__content__v1__write_content_response__init(&resp);
	fill_time(&started, s->st.started_ns);
	fill_time(&updated, s->st.updated_ns);
	cairn_digest_format(&s->st.running, digest);
	resp.action = (Containerd__Services__Content__V1__WriteAction)s->in.action;
	resp.started_at = &started;
	resp.updated_at = &updated;
	resp.offset = (int64_t)s->st.offset;
	resp.total = (int64_t)(s->total != 0 ? s->total : s->st.total);
	resp.digest = digest;
	return cairn_call_send(call, &resp.base, err);
}

/* What a pull commits of this kind leads to an image record. AlreadyExists is a success, too:
 * containerd records the blob for one more namespace. */
static void announce_image(const struct session *s, enum cairn_code rc)
{
	struct cairn_ref ref;
	if (!s->manifest || (rc != CAIRN_OK && rc != CAIRN_ALREADY_EXISTS)) return;
	if (s->service->runtime != NULL) cairn_runtime_expect_images(s->service->runtime);
	cairn_ref_parse(s->ref, &ref);
	if (ref.owner == NULL) return;
	cairn_share_committed(s->service->share, ref.owner, ref.owner_len, &ref.want);
}

/* The second STAT may wait for the blob; what it says stands from then on. */
static void settle(struct session *s, struct cairn_call *call)
{
	if (s->settled) return;
	s->settled = true;
	if (cairn_ingest_is_published(s->ing)) return; /* counted at the opening */
	enum cairn_content_source source = CAIRN_FROM_CONTAINERD;
	if (s->in.action == CAIRN_WRITE_STAT && s->want.alg != 0 && s->total > 0) {
		const struct cairn_content_wanted wanted = {s->want, s->total};
		source = cairn_content_wait(s->service, call, s->ing, &wanted, &s->grant);
	}
	s->unconfirmed = source != CAIRN_FROM_CONTAINERD;
	count_source(s, source);
}

/* One message, but for its answer. opening: the stream's first. */
static enum cairn_code act(struct session *s, struct cairn_call *call, bool opening,
			   struct cairn_err *err)
{
	const struct cairn_write_request *in = &s->in;
	if (in->total != 0) s->total = in->total;
	if (in->expected.alg != 0) s->expected = in->expected;
	/* A commit finds out itself, after it has checked size and digest: told AlreadyExists,
	 * containerd records the digest of the bytes that it sent. */
	if (in->action != CAIRN_WRITE_COMMIT && already_referenced(s)) {
		return refuse_existing(s, err);
	}
	/* What a commit says of size and digest is checked, not noted: if it fails, the ingest
	 * stays as it was. */
	if (in->action != CAIRN_WRITE_COMMIT) cairn_ingest_expect(s->ing, in->total, &in->expected);
	if (!opening) settle(s, call);
	if (in->action != CAIRN_WRITE_STAT || (s->unconfirmed && !opening)) {
		enum cairn_code rc = run_job(s, call, err);
		if (in->action == CAIRN_WRITE_COMMIT) announce_image(s, rc);
		if (rc) return rc;
	}
	if (in->action == CAIRN_WRITE_COMMIT) return CAIRN_OK; /* st is what the commit left */
	enum cairn_code rc = cairn_ingest_get_status(s->ing, &s->st, err);
	if (rc == CAIRN_OK && opening) s->negotiated = s->st.offset;
	return rc;
}

/* The next message; only the first one's ref counts. *ret_done: the client has ended its side, or
 * the stream is gone. */
static enum cairn_code receive(struct session *s, struct cairn_call *call, bool *ret_done,
			       struct cairn_err *err)
{
	struct cairn_msg *msg = NULL;
	switch (cairn_call_recv(call, &msg)) {
	case CAIRN_RECV_MSG:
		*ret_done = false;
		return cairn_write_request_parse(&s->in, msg, s->ing == NULL ? s->ref : NULL,
						 sizeof(s->ref), err);
	case CAIRN_RECV_END:
		*ret_done = true;
		return CAIRN_OK;
	case CAIRN_RECV_GONE:
	default:
		return cairn_err_set(err, CAIRN_ABORTED,
				     "the Write of %.200s ended before its commit", s->ref);
	}
}

static enum cairn_code serve(struct session *s, struct cairn_call *call, struct cairn_err *err)
{
	for (bool opening = true;; opening = false) {
		enum cairn_code rc = act(s, call, opening, err);
		if (rc) return rc;
		cairn_write_request_drop_bytes(&s->in);
		bool last = s->in.action == CAIRN_WRITE_COMMIT;
		if (last) {
			cairn_ingest_close(s->ing); /* free the ref before the client knows */
			s->closed = true;
			cairn_call_last(call);
		}
		rc = reply(s, call, err);
		if (rc || last) return rc;
		bool done = false;
		rc = receive(s, call, &done, err);
		if (rc || done) return rc;
	}
}

static void log_failure(const struct session *s, const struct cairn_err *err)
{
	/* What a client does wrong is for the client; what fails here is for the log too. */
	if (err->code == CAIRN_INTERNAL || err->code == CAIRN_DATA_LOSS ||
	    err->code == CAIRN_RESOURCE_EXHAUSTED) {
		cairn_log(CAIRN_LOG_ERROR, "write_failed", CAIRN_STR("ref", s->ref),
			  CAIRN_ERRF(err));
	}
}

enum cairn_code cairn_content_write(void *arg, struct cairn_call *call, struct cairn_err *err)
{
	struct session *s = calloc(1, sizeof(*s));
	if (s == NULL) abort();
	s->refs = 1;
	s->service = arg;
	bool done = false;
	enum cairn_code rc = receive(s, call, &done, err);
	if (rc == CAIRN_OK && done) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				   "the Write ended without a message");
	}
	if (rc == CAIRN_OK) rc = open_ingest(s, call, err);
	if (rc == CAIRN_OK) {
		rc = serve(s, call, err);
		if (!s->closed) cairn_ingest_close(s->ing); /* before the status is sent */
		cairn_want_release(cairn_steal(&s->grant));
	}
	if (rc) log_failure(s, err);
	session_unref(s);
	return rc;
}
